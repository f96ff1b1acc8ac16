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
			Rotation:    v1alpha1.CARotation{RotateBefore: "500h", Propagation: v1alpha1.Propagation{Minimum: "10m"}},
			TrustBundle: v1alpha1.TrustBundleReference{Key: "ca-bundle.crt"},
		},
	}}}
	if source != "" {
		s.serviceCA.Spec.Source.Secret = &v1alpha1.SecretSource{Name: source}
	}
	return s
}

// takesPlace carries one step out, as the controller does: the Secret, the bundle, the status. Every target follows at once.
func (s *scene) takesPlace() step {
	s.Helper()
	decided := s.plan()
	if decided.secret != nil {
		s.secret, s.formerly = decided.secret, nil
		s.secret.Namespace, s.secret.UID = "system", "uid-of-secret"
	}
	if decided.state != nil {
		s.published = decided.state.Bundle().Encode()
	}
	s.serviceCA.Status = buildStatus(s.now, s.serviceCA, decided, evidence{})
	return decided
}

// plan is the next step, where every target carries what is published.
func (s *scene) plan() step {
	given := resolve(s.observed)
	return plan(s.observed, given, behind(s.observed, given))
}

// behind is the evidence where every target carries what is published, and all certificates are reissued.
func behind(in observed, given found) evidence {
	var seen evidence
	if given.state != nil && !bytes.Equal(in.published, given.state.Bundle().Encode()) {
		seen.Behind, seen.BehindNames = 1, []string{"ConfigMap system/default-trust-bundle"}
	}
	return seen
}

// sound carries steps out, which nothing may stand in the way of, until nothing is left to be done but by time.
func (s *scene) sound() *rotation.State {
	s.Helper()
	for range 10 {
		decided := s.takesPlace()
		if decided.problem != nil {
			s.Fatalf("%s: %s", decided.problem.reason, decided.problem.message)
		}
		if decided.secret == nil {
			return decided.state
		}
	}
	s.Fatal("it does not come to rest")
	return nil
}

// rotated is sound, after the time that a rotation takes.
func (s *scene) rotated() *rotation.State {
	s.Helper()
	s.sound()
	s.later(patience)
	return s.sound()
}

const (
	minimum = 10 * time.Minute
	// patience is more than a rotation takes.
	patience = minimum + time.Minute
)

func (s *scene) later(by time.Duration) { s.now = s.now.Add(by) }

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
