package serviceca

import (
	"maps"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

const day = 24 * time.Hour

// history is a ServiceCA with everything that its plan observes.
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
		Rotation:    v1alpha1.CARotation{RotateBefore: "1200h", Propagation: v1alpha1.Propagation{Minimum: "10m"}},
	}}
	return &history{t: t, observed: observed{now: now, serviceCA: ca}}
}

// act takes one step, up to a crash after this many writes, of the Secret, the ConfigMap and the
// status.
func (s *history) act(steps int) changePlan {
	s.t.Helper()
	resolved := resolve(s.observed)
	plan := makePlan(s.observed, resolved, currentEvidence(s.observed, resolved))
	if plan.secret != nil && steps > 0 {
		s.secret, s.formerSecret = plan.secret, nil
	}
	if plan.state != nil && steps > 1 {
		s.published = plan.state.Bundle().Encode()
	}
	if steps > 2 {
		s.serviceCA = s.serviceCA.DeepCopy()
		s.serviceCA.Status = buildStatus(s.now, s.serviceCA, plan, clusterEvidence{})
	}
	return plan
}

const all = 3

// settle acts until only time can cause another step, and returns the Events.
func (s *history) settle() (happened []rotationEvent) {
	s.t.Helper()
	for range 10 {
		plan := s.act(all)
		happened = append(happened, plan.events...)
		if plan.secret == nil {
			return happened
		}
	}
	s.t.Fatal("it does not come to rest")
	return nil
}

// pass settles, waits for as long as a rotation takes, and settles again.
func (s *history) pass() []rotationEvent {
	s.t.Helper()
	happened := s.settle()
	s.now = s.now.Add(timeout)
	return append(happened, s.settle()...)
}

// roots returns the roots that clients trust now; none when nothing is published and no Secret is
// left to publish from.
func (s *history) roots() pki.Bundle {
	s.t.Helper()
	if s.secret == nil && s.published == nil {
		return nil
	}
	bundle, err := pki.ParseBundle(s.published)
	if err != nil {
		s.t.Fatal(err)
	}
	return bundle
}

func (s *history) rotation() *v1alpha1.CARotation { return &s.serviceCA.Spec.Rotation }

func (s *history) pause() { s.rotation().Mode = v1alpha1.RotationPaused }

// corrupt replaces a value of the signing-key Secret; nil removes it. Without a Secret it does
// nothing: an imported CA that has expired is not created again.
func (s *history) corrupt(key string, value []byte) {
	if s.secret == nil {
		return
	}
	s.secret = s.secret.DeepCopy()
	s.secret.Data = maps.Clone(s.secret.Data)
	if s.secret.Data[key] = value; value == nil {
		delete(s.secret.Data, key)
	}
}

// brings sets the source to a Secret with another CA.
func (s *history) brings(lifetime time.Duration) pki.Pair {
	s.t.Helper()
	pair := s.another(lifetime)
	s.serviceCA = s.serviceCA.DeepCopy()
	s.serviceCA.Spec.Source.Secret = &v1alpha1.SecretSource{Name: "corp-ca"}
	s.sourceSecret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "corp-ca"}, Data: map[string][]byte{
		corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.PrivateKey,
	}}
	return pair
}

// another returns a CA that was created outside of the operator.
func (s *history) another(lifetime time.Duration) pki.Pair {
	s.t.Helper()
	pair, err := pki.GenerateRoot(s.now, pki.RootSpec{CommonName: "another", Duration: lifetime, Key: pki.KeySpec{Algorithm: v1alpha1.Ed25519}})
	if err != nil {
		s.t.Fatal(err)
	}
	return pair
}
