package serviceca

import (
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
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// now lies far off: a stray time.Now() shows.
var now = time.Date(2071, time.March, 14, 15, 9, 26, 535897932, time.UTC)

// scene is a ServiceCA, and all that a plan depends on.
type scene struct {
	*testing.T
	observed
}

// newScene is a ServiceCA without a key; source names the Secret that it takes its CA from, and empty is a CA of its own.
func newScene(t *testing.T, source string) *scene {
	t.Helper()
	s := &scene{t, observed{now: now, serviceCA: &v1alpha1.ServiceCA{
		ObjectMeta: metav1.ObjectMeta{Name: "default", UID: "uid-of-default", Generation: 1},
		Spec: v1alpha1.ServiceCASpec{
			Certificate: v1alpha1.CACertificate{CommonName: "signer", Duration: "1000h"},
			Rotation:    v1alpha1.CARotation{RotateBefore: "500h"},
			TrustBundle: v1alpha1.TrustBundleReference{Key: "ca-bundle.crt"},
		},
	}}}
	if source != "" {
		s.serviceCA.Spec.Source.Secret = &v1alpha1.SecretSource{Name: source}
	}
	return s
}

// takesPlace carries a plan out, as the controller does: the Secret, the bundle, the status.
func (s *scene) takesPlace() step {
	s.Helper()
	decided := plan(s.observed)
	if decided.state != nil {
		s.secret, s.published = secretOf(decided.state), decided.state.bundle.Encode()
	}
	s.serviceCA.Status = buildStatus(s.now, s.serviceCA, decided, evidence{})
	return decided
}

// sound carries a plan out that nothing stands in the way of.
func (s *scene) sound() *state {
	s.Helper()
	decided := s.takesPlace()
	if decided.problem != nil {
		s.Fatalf("%s: %s", decided.problem.reason, decided.problem.message)
	}
	return decided.state
}

func (s *scene) later(by time.Duration) { s.now = s.now.Add(by) }

// secretOf is the signing-key Secret that holds a state.
func secretOf(held *state) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "system", Name: "default-signing-key", UID: "uid-of-secret", Labels: map[string]string{v1alpha1.LabelServiceCA: "default"},
			Annotations: map[string]string{v1alpha1.AnnotationSource: held.source},
		},
		Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSCertKey: held.pair.Certificate, corev1.TLSPrivateKeyKey: held.pair.PrivateKey, keyring.BundleKey: held.bundle.Encode(),
		},
	}
}

// handmade is a CA that a person has made somewhere else.
type handmade struct {
	*x509.Certificate
	key crypto.Signer
}

func lives(from, to time.Duration) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(from), now.Add(to) }
}

// mint makes a CA, signed by parent or by itself; edits may change the certificate before.
func mint(t *testing.T, name string, parent *handmade, edits ...func(*x509.Certificate)) *handmade {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return mintWith(t, name, key, parent, edits...)
}

// mintWith is mint for a key that is there.
func mintWith(t *testing.T, name string, key crypto.Signer, parent *handmade, edits ...func(*x509.Certificate)) *handmade {
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
	return &handmade{certificate, key}
}

func pemOf(cas ...*handmade) []byte {
	var certificates pki.Bundle
	for _, ca := range cas {
		certificates = append(certificates, ca.Certificate)
	}
	return certificates.Encode()
}

// brought is the Secret of a source: a CA with its chain, and its root beside it.
func brought(t *testing.T, root []byte, chain ...*handmade) *corev1.Secret {
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
