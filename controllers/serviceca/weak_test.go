package serviceca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// weakRoot is a root with an RSA key of 1024 bits, which OpenSSL refuses.
func weakRoot(t *testing.T) *handmade {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return mintWith(t, "old corp", key, nil)
}

// inUse puts a CA into the signing-key Secret, as an operator that did not check the strength of keys has done.
func (s *scene) inUse(root *handmade, below ...*handmade) {
	s.Helper()
	data := brought(s.T, pemOf(root), append(below, root)...).Data
	authority, err := pki.LoadAuthority(pki.Pair{Certificate: data[corev1.TLSCertKey], PrivateKey: data[corev1.TLSPrivateKeyKey]})
	if err != nil {
		s.Fatal(err)
	}
	state := &rotation.State{Phase: v1alpha1.PhaseStable, Since: now.Truncate(time.Second).Add(-time.Hour), Active: &rotation.Signer{
		Authority: authority, Root: root.Certificate, Source: "secret/corp",
	}}
	if s.serviceCA.Spec.Source.CertManager != nil {
		state.Active.Source = issuerOf(s.serviceCA.Spec.Source.CertManager.IssuerRef)
	}
	s.secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Name: s.serviceCA.SigningKeySecretName(), Labels: map[string]string{v1alpha1.LabelServiceCA: s.serviceCA.Name},
	}}
	if err := state.Write(s.secret); err != nil {
		s.Fatal(err)
	}
}

// A weak CA does not come into use, whichever part of it is weak.
func TestWeakCAIsRefused(t *testing.T) {
	t.Parallel()
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, strong := weakRoot(t), mint(t, "root", nil)
	for name, tc := range map[string]struct {
		root  *handmade
		chain []*handmade
		says  string
	}{
		"the CA":       {weak, []*handmade{weak}, `the key of CA "old corp" is too weak`},
		"its root":     {weak, []*handmade{mint(t, "issuing", weak)}, `the key of CA "old corp" is too weak`},
		"intermediate": {strong, []*handmade{mintWith(t, "issuing", p224, strong)}, `the key of CA "issuing" is too weak`},
	} {
		s := newScene(t, "corp")
		s.brought = brought(t, pemOf(tc.root), tc.chain...)
		for source, s := range map[string]*scene{"brought": s, "cert-manager": asks(t, pemOf(tc.root), tc.chain...)} {
			decided := s.plan()
			if decided.state != nil || decided.problem == nil || decided.problem.reason != reasonSourceInvalid ||
				!strings.Contains(decided.problem.message, tc.says) {
				t.Errorf("%s, %s: state %v, problem %+v", name, source, decided.state, decided.problem)
			}
		}
	}
}

// A weak CA that is in use signs on and stays trusted, and that is said until another one signs.
func TestWeakCAInUse(t *testing.T) {
	t.Parallel()
	weak := weakRoot(t)
	issuing := mint(t, "issuing", weak)
	gone := newScene(t, "")
	gone.inUse(weak, issuing)
	gone.serviceCA.Spec.Rotation.Mode = v1alpha1.RotationPaused
	same := newScene(t, "corp")
	same.inUse(weak)
	same.brought = brought(t, nil, weak)
	issued := asks(t, pemOf(weak), issuing)
	issued.asked = asked{}
	issued.inUse(weak, issuing)
	issued.serviceCA.Spec.Certificate.PrivateKey = v1alpha1.PrivateKey{Algorithm: v1alpha1.ECDSA, Size: 256}
	for name, tc := range map[string]struct {
		*scene
		reason string
	}{
		"whose rotation is held": {gone, reasonWeakCA}, "that is brought still": {same, reasonSourceInvalid}, "that an issuer signed": {issued, reasonWeakCA},
	} {
		for range 2 {
			decided := tc.takesPlace()
			if decided.state == nil || decided.state.Active == nil || !decided.state.Bundle()[0].Equal(weak.Certificate) || decided.state.Phase != v1alpha1.PhaseStable {
				t.Fatalf("a weak CA %s signs no more: %+v", name, decided)
			}
			if problem := decided.problem; problem == nil || problem.reason != tc.reason || !strings.Contains(problem.message, `the key of CA "old corp" is too weak`) {
				t.Errorf("a weak CA %s: %+v", name, problem)
			}
		}
	}
	strong := mint(t, "new corp", nil)
	same.brought = brought(t, nil, strong)
	same.later(time.Hour)
	if made := same.rotatedFrom(reasonWeakCA); !made.Active.Certificate().Equal(strong.Certificate) {
		t.Errorf("%s signs", made.Active.Name())
	}
}

// rotatedFrom lets a rotation take place, all through which a problem is passing.
func (s *scene) rotatedFrom(reason string) *rotation.State {
	s.Helper()
	for {
		decided := s.takesPlace()
		if decided.problem == nil {
			return s.sound()
		}
		if decided.problem.reason != reason || !decided.problem.passing {
			s.Fatalf("%+v", decided.problem)
		}
		s.later(time.Minute)
	}
}
