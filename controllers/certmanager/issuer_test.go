package certmanager

import (
	"bytes"
	"encoding/pem"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/servingcert/operator/api/v1alpha1"
)

func issued(owner *metav1.OwnerReference, adjust ...func(*cmapi.CertificateRequest)) *cmapi.CertificateRequest {
	request := &cmapi.CertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1"},
		Spec: cmapi.CertificateRequestSpec{
			IssuerRef: cmmeta.IssuerReference{Group: v1alpha1.GroupName, Kind: "ServiceCA", Name: "default"}, Request: []byte("request"),
		},
		Status: cmapi.CertificateRequestStatus{
			Certificate: append(block("leaf"), block("bridge")...), CA: []byte("bundle"),
			Conditions: []cmapi.CertificateRequestCondition{{Type: cmapi.CertificateRequestConditionReady, Status: cmmeta.ConditionTrue}},
		},
	}
	if owner != nil {
		request.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	for _, a := range adjust {
		a(request)
	}
	return request
}

func block(content string) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(content)})
}

// The command for an administrator names only Certificates of cert-manager with valid Kubernetes
// names, and no other owner that a tenant writes into a request.
func TestResponse(t *testing.T) {
	t.Parallel()
	owner := func(version, kind, name string) *metav1.OwnerReference {
		return &metav1.OwnerReference{APIVersion: version, Kind: kind, Name: name, UID: "uid", Controller: new(true)}
	}
	for name, tc := range map[string]struct {
		request      *cmapi.CertificateRequest
		ca           string
		renewCommand string
	}{
		"of a Certificate":  {issued(owner("cert-manager.io/v1", "Certificate", "web")), "default", "cmctl renew -n shop web"},
		"of nobody":         {issued(nil), "default", "CertificateRequest shop/web-1"},
		"of a pod":          {issued(owner("v1", "Pod", "web")), "default", "CertificateRequest shop/web-1"},
		"of another kind":   {issued(owner("example.org/v1", "Certificate", "web")), "default", "CertificateRequest shop/web-1"},
		"of a made-up name": {issued(owner("cert-manager.io/v1", "Certificate", "web; reboot")), "default", "CertificateRequest shop/web-1"},
		"not ready": {issued(nil, func(r *cmapi.CertificateRequest) { r.Status.Conditions = nil }), "",
			"CertificateRequest shop/web-1"},
		"of another issuer": {issued(nil, func(r *cmapi.CertificateRequest) { r.Spec.IssuerRef.Group = "cert-manager.io" }), "",
			"CertificateRequest shop/web-1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			RequestKind{}.StripForCache(tc.request)
			RequestKind{}.StripForCache(tc.request)
			answer := RequestKind{}.Response(tc.request)
			if answer.CA != tc.ca || answer.RenewCommand != tc.renewCommand {
				t.Errorf("the answer is %+v", answer)
			}
			if tc.ca != "" && !bytes.Equal(answer.Certificate, block("leaf")) {
				t.Errorf("the certificate is %q", answer.Certificate)
			}
			if len(tc.request.Spec.Request) > 0 || len(tc.request.Status.CA) > 0 {
				t.Error("the cache holds more than the certificate")
			}
			if got := (RequestKind{}).ServiceCAName(tc.request); got != "" && tc.ca != "" {
				t.Error("a request that is answered is answered again")
			}
		})
	}
}

// A renewal waits for the next CA while its Certificate has a valid certificate according to
// cert-manager. A first certificate does not wait, nor does a request whose Certificate cannot be
// read.
func TestDeferUntil(t *testing.T) {
	t.Parallel()
	created := time.Date(2071, time.March, 14, 15, 0, 0, 0, time.UTC)
	sound := func() *cmapi.Certificate {
		return &cmapi.Certificate{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "uid", Generation: 2},
			Status: cmapi.CertificateStatus{
				NotAfter: &metav1.Time{Time: created.Add(10 * time.Hour)},
				Conditions: []cmapi.CertificateCondition{{
					Type: cmapi.CertificateConditionReady, Status: cmmeta.ConditionTrue, ObservedGeneration: 2,
				}},
			},
		}
	}
	for name, tc := range map[string]struct {
		change func(*cmapi.Certificate)
		kind   string
		wait   time.Duration
	}{
		"sound":          {func(*cmapi.Certificate) {}, "Certificate", 5 * time.Hour},
		"for long":       {func(c *cmapi.Certificate) { c.Status.NotAfter.Time = created.Add(720 * time.Hour) }, "Certificate", maxRenewalWait},
		"of another":     {func(c *cmapi.Certificate) { c.UID = "other" }, "Certificate", 0},
		"not ready":      {func(c *cmapi.Certificate) { c.Status.Conditions[0].Status = cmmeta.ConditionFalse }, "Certificate", 0},
		"changed since":  {func(c *cmapi.Certificate) { c.Generation = 3 }, "Certificate", 0},
		"a first one":    {func(c *cmapi.Certificate) { c.Status = cmapi.CertificateStatus{} }, "Certificate", 0},
		"gone":           {func(c *cmapi.Certificate) { c.Name = "other" }, "Certificate", 0},
		"of another API": {func(*cmapi.Certificate) {}, "Pod", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scheme := runtime.NewScheme()
			if err := cmapi.AddToScheme(scheme); err != nil {
				t.Fatal(err)
			}
			certificate := sound()
			tc.change(certificate)
			d := RequestKind{Live: fake.NewClientBuilder().WithScheme(scheme).WithObjects(certificate).Build()}
			request := issued(&metav1.OwnerReference{APIVersion: "cert-manager.io/v1", Kind: tc.kind, Name: "web", UID: "uid", Controller: new(true)})
			request.CreationTimestamp = metav1.NewTime(created)
			until, err := d.DeferUntil(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			if want := created.Add(tc.wait); (tc.wait == 0) != until.IsZero() || (tc.wait > 0 && !until.Equal(want)) {
				t.Errorf("it waits until %s, want %s", until, want)
			}
		})
	}
}
