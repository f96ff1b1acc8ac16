package serviceca

import (
	"maps"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
)

const day = 24 * time.Hour

// history is the world of one ServiceCA, as far as its plan sees it.
type history struct {
	t interface {
		Helper()
		Fatal(...any)
		Errorf(string, ...any)
	}
	observed
}

func newHistory(t *testing.T) *history {
	t.Helper()
	ca := &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default", Generation: 1}, Spec: v1alpha1.ServiceCASpec{
		Certificate: v1alpha1.CACertificate{CommonName: "signer", Duration: "2400h", PrivateKey: v1alpha1.PrivateKey{Algorithm: v1alpha1.Ed25519}},
		Rotation:    v1alpha1.CARotation{RotateBefore: "1200h"},
	}}
	return &history{t: t, observed: observed{now: now, serviceCA: ca}}
}

// act does what the plan says, up to a crash: after no step, after the write of the Secret, of the ConfigMap, or of the status.
func (s *history) act(steps int) step {
	s.t.Helper()
	decided := plan(s.observed)
	if decided.state != nil && steps > 0 {
		s.secret = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "default-signing-key", Labels: map[string]string{v1alpha1.LabelServiceCA: "default"},
				Annotations: map[string]string{v1alpha1.AnnotationSource: decided.state.source}},
			Data: map[string][]byte{
				corev1.TLSCertKey: decided.state.pair.Certificate, corev1.TLSPrivateKeyKey: decided.state.pair.PrivateKey,
				keyring.BundleKey: decided.state.bundle.Encode(),
			},
		}
		s.formerly = nil
	}
	if decided.state != nil && steps > 1 {
		s.published = decided.state.bundle.Encode()
	}
	if steps > 2 {
		s.serviceCA = s.serviceCA.DeepCopy()
		s.serviceCA.Status = buildStatus(s.now, s.serviceCA, decided, evidence{})
	}
	return decided
}

const all = 3

// settle acts, and checks that nothing is left to be done.
func (s *history) settle() step {
	s.t.Helper()
	first := s.act(all)
	if again := s.act(all); again.write || again.reason != "" {
		s.t.Errorf("it does not come to rest: %q %s", again.reason, again.note)
	}
	return first
}

// roots are the certificates that clients trust now.
func (s *history) roots() pki.Bundle {
	s.t.Helper()
	bundle, err := pki.ParseBundle(s.published)
	if err != nil {
		s.t.Fatal(err)
	}
	return bundle
}

// spoil replaces a value of the signing-key Secret; nil removes it.
func (s *history) spoil(key string, value []byte) {
	s.secret = s.secret.DeepCopy()
	s.secret.Data = maps.Clone(s.secret.Data)
	if s.secret.Data[key] = value; value == nil {
		delete(s.secret.Data, key)
	}
}

// brings makes the CA come from a Secret that holds another one.
func (s *history) brings(lifetime time.Duration) pki.Pair {
	s.t.Helper()
	pair := s.another(lifetime)
	s.serviceCA = s.serviceCA.DeepCopy()
	s.serviceCA.Spec.Source.Secret = &v1alpha1.SecretSource{Name: "corp-ca"}
	s.brought = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "corp-ca"}, Data: map[string][]byte{
		corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.PrivateKey,
	}}
	return pair
}

// another is a CA that a person has made somewhere else.
func (s *history) another(lifetime time.Duration) pki.Pair {
	s.t.Helper()
	pair, err := pki.GenerateRoot(s.now, pki.RootSpec{CommonName: "another", Duration: lifetime, Key: pki.KeySpec{Algorithm: v1alpha1.Ed25519}})
	if err != nil {
		s.t.Fatal(err)
	}
	return pair
}
