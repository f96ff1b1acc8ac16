package liveintegrations_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/servingcert/operator/api/v1alpha1"
)

// requestFor returns a certificate signing request in PEM, and its key.
func requestFor(t *testing.T, template x509.CertificateRequest) ([]byte, crypto.Signer) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), key
}

// verify checks that a chain in PEM is for that key and name, and verifies by the bundle.
func verify(t *testing.T, chain []byte, bundle string, key crypto.Signer, name string) *x509.Certificate {
	t.Helper()
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(bundle))
	block, rest := pem.Decode(chain)
	if block == nil {
		t.Fatalf("no certificate in %q", chain)
	}
	intermediates.AppendCertsFromPEM(rest)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: intermediates}); err != nil {
		t.Errorf("verify %v for %s: %v", leaf.DNSNames, name, err)
	}
	if public, ok := key.Public().(*ecdsa.PublicKey); !ok || !public.Equal(leaf.PublicKey) {
		t.Error("the certificate is for another key")
	}
	return leaf
}

// smuggled returns requests that the operator must refuse, by the text of the refusal.
func smuggled(namespace string) map[string]x509.CertificateRequest {
	own := "web." + namespace + ".svc"
	many := make([]string, 10000)
	for i := range many {
		many[i] = fmt.Sprintf("%d.%s", i, own)
	}
	uri, _ := url.Parse("spiffe://cluster.local/ns/kube-system/sa/default")
	isCA := pkix.Extension{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}}
	return map[string]x509.CertificateRequest{
		"is no name of a Service here": {DNSNames: []string{own, "web.kube-system.svc"}},
		"*." + own:                     {DNSNames: []string{"*." + own}},
		"kubernetes.default.svc":       {DNSNames: []string{"kubernetes.default.svc"}},
		"IP address 10.0.0.1":          {DNSNames: []string{own}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}},
		"URI":                          {DNSNames: []string{own}, URIs: []*url.URL{uri}},
		"e-mail address":               {DNSNames: []string{own}, EmailAddresses: []string{"root@example.org"}},
		"attribute 2.5.4.10":           {DNSNames: []string{own}, Subject: pkix.Name{Organization: []string{"system:masters"}}},
		"is for a CA":                  {DNSNames: []string{own}, ExtraExtensions: []pkix.Extension{isCA}},
		"longer than":                  {DNSNames: many},
		"10 names, 0 of":               {DNSNames: nil},
	}
}

func TestCertificateSigningRequest(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("web")
	name := "web." + r.name + ".svc"
	request, key := requestFor(t, x509.CertificateRequest{DNSNames: []string{name, name + ".cluster.local"}, Subject: pkix.Name{CommonName: name}})
	current := r.ask("good", request)
	r.eventuallyNot(current, "an unapproved request is answered")
	r.approve(current)
	response := get(t, current, func(current *certificatesv1.CertificateSigningRequest) string {
		if len(current.Status.Certificate) == 0 {
			return fmt.Sprintf("no certificate: %+v", current.Status.Conditions)
		}
		return ""
	})
	leaf := verify(t, response.Status.Certificate, r.bundle(), key, name)
	if lifetime := leaf.NotAfter.Sub(leaf.NotBefore); lifetime != time.Hour {
		t.Errorf("it lives for %s, and an hour was asked for", lifetime)
	}
	if leaf.Subject.CommonName != name || leaf.IsCA {
		t.Errorf("the certificate is %v, CA %t", leaf.Subject, leaf.IsCA)
	}

	i := 0
	for says, template := range smuggled(r.name) {
		i++
		if template.DNSNames == nil {
			says = "names nothing"
		}
		request, _ := requestFor(t, template)
		current := r.ask(fmt.Sprintf("bad-%d", i), request)
		r.approve(current)
		get(t, current, func(current *certificatesv1.CertificateSigningRequest) string {
			if len(current.Status.Certificate) > 0 {
				t.Fatalf("%s: it was signed", says)
			}
			for _, condition := range current.Status.Conditions {
				if condition.Type == certificatesv1.CertificateFailed {
					if !strings.Contains(condition.Message, says) {
						t.Fatalf("it failed with %q, which does not say %q", condition.Message, says)
					}
					return ""
				}
			}
			return says + ": the request has not failed"
		})
	}
}

// eventuallyNot checks that the operator does not answer a request that was not approved: a later
// request that it does answer shows that it passed this one over.
func (r realm) eventuallyNot(current *certificatesv1.CertificateSigningRequest, problem string) {
	r.Helper()
	request, _ := requestFor(r.T, x509.CertificateRequest{DNSNames: []string{"web." + r.name + ".svc"}})
	later := r.ask("later", request)
	r.approve(later)
	get(r.T, later, func(later *certificatesv1.CertificateSigningRequest) string {
		if len(later.Status.Certificate) == 0 {
			return "a later request is not answered"
		}
		return ""
	})
	get(r.T, current, func(current *certificatesv1.CertificateSigningRequest) string {
		if len(current.Status.Certificate) > 0 || len(current.Status.Conditions) > 0 {
			r.Fatal(problem)
		}
		return ""
	})
}

func (r realm) ask(name string, request []byte) *certificatesv1.CertificateSigningRequest {
	r.Helper()
	return create(r.T, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: r.name + "-" + name},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: request, SignerName: "servingcert.dev/" + r.name, ExpirationSeconds: new(int32(3600)),
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
	})
}

func (r realm) approve(current *certificatesv1.CertificateSigningRequest) {
	r.Helper()
	current.Status.Conditions = append(current.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test", Message: "by a test",
	})
	if err := env.kube.SubResource("approval").Update(r.Context(), current); err != nil {
		r.Fatal(err)
	}
}

// In a cluster where cert-manager is installed later, removed and installed again, requests are
// answered whenever their kind exists.
func TestCertManagerIssuer(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("web")
	crds := filepath.Join(moduleOf(t, "github.com/cert-manager/cert-manager"), "deploy", "crds")
	options := envtest.CRDInstallOptions{Paths: []string{
		filepath.Join(crds, "cert-manager.io_certificaterequests.yaml"), filepath.Join(crds, "cert-manager.io_certificates.yaml"),
	}, ErrorIfPathMissing: true, MaxTime: time.Minute}
	for _, round := range []string{"first", "again"} {
		installed, err := envtest.InstallCRDs(env.cluster.Config, options)
		if err != nil {
			t.Fatal(err)
		}
		r.certificateRequests(round)
		if round == "first" {
			bootstrap(t)
			intermediate(t)
			compromised(t)
		}
		if round == "again" {
			break
		}
		for _, crd := range installed {
			if err := env.kube.Delete(t.Context(), crd.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil && !meta.IsNoMatchError(err) {
				t.Fatal(err)
			}
		}
		eventually(t, func(ctx context.Context) string {
			for _, list := range []client.ObjectList{&cmapi.CertificateRequestList{}, &cmapi.CertificateList{}} {
				if err := env.kube.List(ctx, list); err == nil {
					return "cert-manager is still there"
				}
			}
			return ""
		})
	}
}

func (r realm) certificateRequests(round string) {
	r.Helper()
	name := "web." + r.name + ".svc"
	request, key := requestFor(r.T, x509.CertificateRequest{DNSNames: []string{name}})
	good := r.want(round+"-good", request)
	foreign := r.want(round+"-foreign", request, func(c *cmapi.CertificateRequest) { c.Spec.IssuerRef.Group = "cert-manager.io" })
	denied := r.want(round+"-denied", request)
	ca := r.want(round+"-ca", request, func(c *cmapi.CertificateRequest) { c.Spec.IsCA = true })
	clientAuth := r.want(round+"-client", request, func(c *cmapi.CertificateRequest) {
		c.Spec.Usages = append(c.Spec.Usages, cmapi.UsageClientAuth)
	})
	brief := r.want(round+"-brief", request, func(c *cmapi.CertificateRequest) { c.Spec.Duration = &metav1.Duration{Duration: time.Minute} })
	nobody := r.want(round+"-nobody", request, func(c *cmapi.CertificateRequest) { c.Spec.IssuerRef.Name = "nobody" })
	for _, approved := range []*cmapi.CertificateRequest{good, foreign, ca, clientAuth, brief, nobody} {
		r.decide(approved, cmapi.CertificateRequestConditionApproved)
	}
	r.decide(denied, cmapi.CertificateRequestConditionDenied)

	issued := r.reads(good, cmapi.CertificateRequestReasonIssued, "signed by")
	verify(r.T, issued.Status.Certificate, string(issued.Status.CA), key, name)
	verify(r.T, issued.Status.Certificate, r.bundle(), key, name)
	if failed := r.reads(denied, cmapi.CertificateRequestReasonDenied, "denied"); failed.Status.FailureTime == nil {
		r.Error("a denied request has no failureTime")
	}
	if failed := r.reads(ca, cmapi.CertificateRequestReasonFailed, "spec.isCA"); failed.Status.FailureTime == nil {
		r.Error("a failed request has no failureTime")
	}
	r.reads(clientAuth, cmapi.CertificateRequestReasonFailed, "does not allow the usage \"client auth\"")
	r.reads(brief, cmapi.CertificateRequestReasonFailed, "over before it begins")
	r.reads(nobody, cmapi.CertificateRequestReasonPending, "there is no ServiceCA nobody: create it")
	// The Service is applied a moment after the Certificate.
	host := round + "." + r.name + ".svc"
	early, earlyKey := requestFor(r.T, x509.CertificateRequest{DNSNames: []string{host}})
	waiting := r.want(round+"-early", early)
	r.decide(waiting, cmapi.CertificateRequestConditionApproved)
	r.reads(waiting, cmapi.CertificateRequestReasonPending, host)
	r.service(round)
	verify(r.T, r.reads(waiting, cmapi.CertificateRequestReasonIssued, "signed by").Status.Certificate, r.bundle(), earlyKey, host)
	get(r.T, foreign, func(foreign *cmapi.CertificateRequest) string {
		if len(foreign.Status.Conditions) != 1 {
			r.Fatalf("another issuer's request was touched: %+v", foreign.Status)
		}
		return ""
	})
	for says, template := range smuggled(r.name) {
		if template.DNSNames == nil {
			says = "names nothing"
		}
		request, _ := requestFor(r.T, template)
		bad := r.want(round+"-bad", request)
		r.decide(bad, cmapi.CertificateRequestConditionApproved)
		r.reads(bad, cmapi.CertificateRequestReasonFailed, says)
		if err := env.kube.Delete(r.Context(), bad); err != nil {
			r.Fatal(err)
		}
	}
}

// want creates a request as cert-manager does for a Certificate.
func (r realm) want(name string, request []byte, adjust ...func(*cmapi.CertificateRequest)) *cmapi.CertificateRequest {
	r.Helper()
	wanted := &cmapi.CertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name},
		Spec: cmapi.CertificateRequestSpec{
			IssuerRef: cmmeta.IssuerReference{Group: v1alpha1.GroupName, Kind: "ServiceCA", Name: r.name}, Request: request,
			Usages: []cmapi.KeyUsage{cmapi.UsageDigitalSignature, cmapi.UsageKeyEncipherment},
		},
	}
	for _, a := range adjust {
		a(wanted)
	}
	eventually(r.T, func(ctx context.Context) string {
		// The client detects late that the kind exists again.
		wanted.ResourceVersion = ""
		if err := env.kube.Create(ctx, wanted); err != nil {
			return err.Error()
		}
		return ""
	})
	return wanted
}

func (r realm) decide(request *cmapi.CertificateRequest, decision cmapi.CertificateRequestConditionType) {
	r.Helper()
	now := metav1.Now()
	request.Status.Conditions = append(request.Status.Conditions, cmapi.CertificateRequestCondition{
		Type: decision, Status: cmmeta.ConditionTrue, Reason: "Test", Message: "by a test", LastTransitionTime: &now,
	})
	if err := env.kube.Status().Update(r.Context(), request); err != nil {
		r.Fatal(err)
	}
}

// reads waits until a request is answered with this reason, and a message with this text.
func (r realm) reads(request *cmapi.CertificateRequest, reason, says string) *cmapi.CertificateRequest {
	r.Helper()
	return get(r.T, request, func(request *cmapi.CertificateRequest) string {
		index := slices.IndexFunc(request.Status.Conditions, func(c cmapi.CertificateRequestCondition) bool {
			return c.Type == cmapi.CertificateRequestConditionReady && c.Reason == reason && strings.Contains(c.Message, says)
		})
		if index < 0 {
			return fmt.Sprintf("%s is not %s with %q: %+v", request.Name, reason, says, request.Status)
		}
		return ""
	})
}
