package liveintegrations_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// server is a webhook, an aggregated API and a conversion webhook in one, behind a Service of the
// realm. At each handshake it presents the certificate that is then in the Service's Secret. The
// API server calls it.
type server struct {
	service *corev1.Service
	port    int32
	// The numbers of answered calls, by kind.
	admissions, conversions, aggregated atomic.Int64
}

// serve starts a server; its Service asks for the certificate.
func (r realm) serve(name string) *server {
	r.Helper()
	listener, err := (&net.ListenConfig{}).Listen(r.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		r.Fatal(err)
	}
	address, _ := listener.Addr().(*net.TCPAddr)
	s := &server{port: int32(address.Port)}
	s.service = create(r.T, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name, Annotations: map[string]string{"servingcert.dev/secret-name": name + "-tls"}},
		Spec: corev1.ServiceSpec{
			// Without kube-proxy on this machine, the API server reaches only an ExternalName: it
			// still verifies the Service's own name.
			Type: corev1.ServiceTypeExternalName, ExternalName: "localhost",
			Ports: []corev1.ServicePort{{Port: s.port}},
		},
	})
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name + "-tls"}}
	get(r.T, secret, func(*corev1.Secret) string { return "" })
	tlsListener := tls.NewListener(listener, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		var live corev1.Secret
		if err := env.kube.Get(r.Context(), client.ObjectKeyFromObject(secret), &live); err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(live.Data[corev1.TLSCertKey], live.Data[corev1.TLSPrivateKeyKey])
		return &pair, err
	}})
	mux := http.NewServeMux()
	mux.HandleFunc("/admit", s.admit)
	mux.HandleFunc("/convert", s.convert)
	mux.HandleFunc("/apis/", s.aggregate)
	// Every call has its own handshake.
	web := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute, ErrorLog: nil}
	web.SetKeepAlivesEnabled(false)
	go func() { _ = web.Serve(tlsListener) }()
	r.Cleanup(func() { _ = web.Close() })
	return s
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}

func (s *server) admit(w http.ResponseWriter, request *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(request.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.admissions.Add(1)
	review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
	answer(w, review)
}

func (s *server) convert(w http.ResponseWriter, request *http.Request) {
	var review apiextensionsv1.ConversionReview
	body, _ := io.ReadAll(request.Body)
	if err := json.Unmarshal(body, &review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.conversions.Add(1)
	review.Response = &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, object := range review.Request.Objects {
		var fields map[string]any
		_ = json.Unmarshal(object.Raw, &fields)
		fields["apiVersion"] = review.Request.DesiredAPIVersion
		raw, _ := json.Marshal(fields)
		review.Response.ConvertedObjects = append(review.Response.ConvertedObjects, runtime.RawExtension{Raw: raw})
	}
	review.Request = nil
	answer(w, review)
}

// aggregate answers as an aggregated API without resources.
func (s *server) aggregate(w http.ResponseWriter, request *http.Request) {
	s.aggregated.Add(1)
	parts := strings.Split(strings.Trim(request.URL.Path, "/"), "/")
	answer(w, metav1.APIResourceList{
		TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: strings.Join(parts[1:], "/"),
		APIResources: []metav1.APIResource{},
	})
}

// callers make requests to the API server for which it calls a server, repeatedly until they are
// stopped; the first failure is kept.
type callers struct {
	calls  atomic.Int64
	failed atomic.Pointer[error]
}

func (c *callers) keepCalling(t *testing.T, what string, call func() error) {
	t.Helper()
	go func() {
		for t.Context().Err() == nil && c.failed.Load() == nil {
			if err := call(); err != nil && t.Context().Err() == nil {
				err = fmt.Errorf("%s, after %d calls: %w", what, c.calls.Load(), err)
				c.failed.CompareAndSwap(nil, &err)
				return
			}
			c.calls.Add(1)
		}
	}()
}
