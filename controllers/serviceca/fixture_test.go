package serviceca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// now is far in the future, so that a stray call of time.Now is noticed.
var now = time.Date(2071, time.March, 14, 15, 9, 26, 535897932, time.UTC)

// fixture is a ServiceCA with everything that a plan depends on.
type fixture struct {
	*testing.T
	observed
}

// newFixture returns a ServiceCA without a key. Source is the name of the Secret for source.secret;
// empty for a self-signed CA.
func newFixture(t *testing.T, source string) *fixture {
	t.Helper()
	s := &fixture{t, observed{now: now, serviceCA: &v1alpha1.ServiceCA{
		ObjectMeta: metav1.ObjectMeta{Name: "default", UID: "uid-of-default", Generation: 1},
		Spec: v1alpha1.ServiceCASpec{
			Certificate: v1alpha1.CACertificate{CommonName: "signer", Duration: "1000h"},
			Rotation:    v1alpha1.CARotation{RotateBefore: "500h", Propagation: v1alpha1.Propagation{Minimum: "10m"}},
			TrustBundle: v1alpha1.TrustBundleReference{Key: "ca-bundle.crt"},
		},
	}}}
	if source != "" {
		s.serviceCA.Spec.Source.Secret = &v1alpha1.SecretSource{Name: source}
	}
	return s
}

// takesPlace performs one step as the controller does: it writes the Secret, the bundle and the
// status. Every target is updated at once.
func (f *fixture) takesPlace() changePlan {
	f.Helper()
	plan := f.plan()
	if plan.secret != nil {
		f.secret, f.formerSecret = plan.secret, nil
		f.secret.Namespace, f.secret.UID = "system", "uid-of-secret"
	}
	if plan.state != nil {
		f.published = plan.state.Bundle().Encode()
	}
	f.serviceCA.Status = buildStatus(f.now, f.serviceCA, plan, clusterEvidence{})
	return plan
}

// plan returns the next step when every target carries the published bundle.
func (f *fixture) plan() changePlan {
	resolved := resolve(f.observed)
	return makePlan(f.observed, resolved, currentEvidence(f.observed, resolved))
}

// currentEvidence returns the evidence when every target carries the published bundle and all
// certificates are reissued.
func currentEvidence(in observed, resolved resolution) clusterEvidence {
	var evidence clusterEvidence
	if resolved.state != nil && !bytes.Equal(in.published, resolved.state.Bundle().Encode()) {
		evidence.OutOfDate, evidence.OutOfDateNames = 1, []string{"ConfigMap system/default-trust-bundle"}
	}
	return evidence
}

// settle performs steps until only time can cause another one, and returns the
// state. A problem fails the test.
func (f *fixture) settle() *rotation.State {
	f.Helper()
	for range 10 {
		plan := f.takesPlace()
		if plan.problem != nil {
			f.Fatalf("%s: %s", plan.problem.reason, plan.problem.message)
		}
		if plan.secret == nil {
			return plan.state
		}
	}
	f.Fatal("it does not come to rest")
	return nil
}

// rotated returns the state after the time that a rotation takes.
func (f *fixture) rotated() *rotation.State {
	f.Helper()
	f.settle()
	f.later(timeout)
	return f.settle()
}

const (
	minimum = 10 * time.Minute
	// timeout is longer than a rotation takes.
	timeout = minimum + time.Minute
)

func (f *fixture) later(by time.Duration) { f.now = f.now.Add(by) }

// testCA is a CA that was created outside of the operator.
type testCA struct {
	*x509.Certificate
	key crypto.Signer
}

func lives(from, to time.Duration) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(from), now.Add(to) }
}

// generateCA returns a CA signed by parent, or a self-signed one when parent is nil. Edits change
// the certificate before it is signed.
func generateCA(t *testing.T, name string, parent *testCA, edits ...func(*x509.Certificate)) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return generateCAWith(t, name, key, parent, edits...)
}

// generateCAWith is generateCA with an existing key.
func generateCAWith(t *testing.T, name string, key crypto.Signer, parent *testCA, edits ...func(*x509.Certificate)) *testCA {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	for _, edit := range edits {
		edit(template)
	}
	issuer, signer := template, key
	if parent != nil {
		issuer, signer = parent.Certificate, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{certificate, key}
}

func pemOf(cas ...*testCA) []byte {
	var certificates pki.Bundle
	for _, ca := range cas {
		certificates = append(certificates, ca.Certificate)
	}
	return certificates.Encode()
}

// sourceSecret returns the Secret of a source: a CA with its chain, and its root in ca.crt.
func sourceSecret(t *testing.T, root []byte, chain ...*testCA) *corev1.Secret {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(chain[0].key)
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: "corp"}, Data: map[string][]byte{
		corev1.TLSCertKey: pemOf(chain...), corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		corev1.ServiceAccountRootCAKey: root,
	}}
}
