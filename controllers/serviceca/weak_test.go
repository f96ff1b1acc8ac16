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

// weakRoot returns a root with an RSA key of 1024 bits, which OpenSSL rejects.
func weakRoot(t *testing.T) *testCA {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return generateCAWith(t, "old corp", key, nil)
}

// inUse puts a CA into the signing-key Secret, as a version of the operator did that did not check
// the strength of keys.
func (f *fixture) inUse(root *testCA, below ...*testCA) {
	f.Helper()
	data := sourceSecret(f.T, pemOf(root), append(below, root)...).Data
	authority, err := pki.LoadAuthority(pki.Pair{Certificate: data[corev1.TLSCertKey], PrivateKey: data[corev1.TLSPrivateKeyKey]})
	if err != nil {
		f.Fatal(err)
	}
	state := &rotation.State{Phase: v1alpha1.PhaseStable, Since: now.Truncate(time.Second).Add(-time.Hour), Active: &rotation.Signer{
		Authority: authority, Root: root.Certificate, Source: "secret/corp",
	}}
	if f.serviceCA.Spec.Source.CertManager != nil {
		state.Active.Source = issuerSource(f.serviceCA.Spec.Source.CertManager.IssuerRef)
	}
	f.secret = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Name: f.serviceCA.SigningKeySecretName(), Labels: map[string]string{v1alpha1.LabelServiceCA: f.serviceCA.Name},
	}}
	if err := state.Write(f.secret); err != nil {
		f.Fatal(err)
	}
}

// TestWeakCAIsRefused checks that a CA of which any part is weak does not come into use.
func TestWeakCAIsRefused(t *testing.T) {
	t.Parallel()
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, strong := weakRoot(t), generateCA(t, "root", nil)
	for name, tc := range map[string]struct {
		root    *testCA
		chain   []*testCA
		message string
	}{
		"the CA":       {weak, []*testCA{weak}, `the key of CA "old corp" is too weak`},
		"its root":     {weak, []*testCA{generateCA(t, "issuing", weak)}, `the key of CA "old corp" is too weak`},
		"intermediate": {strong, []*testCA{generateCAWith(t, "issuing", p224, strong)}, `the key of CA "issuing" is too weak`},
	} {
		s := newFixture(t, "corp")
		s.sourceSecret = sourceSecret(t, pemOf(tc.root), tc.chain...)
		for source, s := range map[string]*fixture{"brought": s, "cert-manager": newRequestFixture(t, pemOf(tc.root), tc.chain...)} {
			plan := s.plan()
			if plan.state != nil || plan.problem == nil || plan.problem.reason != reasonSourceInvalid ||
				!strings.Contains(plan.problem.message, tc.message) {
				t.Errorf("%s, %s: state %v, problem %+v", name, source, plan.state, plan.problem)
			}
		}
	}
}

// TestWeakCAInUse checks that a weak CA that is in use continues to sign and stays trusted, and
// that the problem is reported until another CA signs.
func TestWeakCAInUse(t *testing.T) {
	t.Parallel()
	weak := weakRoot(t)
	issuing := generateCA(t, "issuing", weak)
	gone := newFixture(t, "")
	gone.inUse(weak, issuing)
	gone.serviceCA.Spec.Rotation.Mode = v1alpha1.RotationPaused
	same := newFixture(t, "corp")
	same.inUse(weak)
	same.sourceSecret = sourceSecret(t, nil, weak)
	issued := newRequestFixture(t, pemOf(weak), issuing)
	issued.pendingRequest = pendingRequest{}
	issued.inUse(weak, issuing)
	issued.serviceCA.Spec.Certificate.PrivateKey = v1alpha1.PrivateKey{Algorithm: v1alpha1.ECDSA, Size: 256}
	for name, tc := range map[string]struct {
		*fixture
		reason string
	}{
		"whose rotation is held": {gone, reasonWeakCA}, "that is brought still": {same, reasonSourceInvalid}, "that an issuer signed": {issued, reasonWeakCA},
	} {
		for range 2 {
			plan := tc.takesPlace()
			if plan.state == nil || plan.state.Active == nil || !plan.state.Bundle()[0].Equal(weak.Certificate) || plan.state.Phase != v1alpha1.PhaseStable {
				t.Fatalf("a weak CA %s signs no more: %+v", name, plan)
			}
			if problem := plan.problem; problem == nil || problem.reason != tc.reason || !strings.Contains(problem.message, `the key of CA "old corp" is too weak`) {
				t.Errorf("a weak CA %s: %+v", name, problem)
			}
		}
	}
	strong := generateCA(t, "new corp", nil)
	same.sourceSecret = sourceSecret(t, nil, strong)
	same.later(time.Hour)
	if made := same.rotatedFrom(reasonWeakCA); !made.Active.Certificate().Equal(strong.Certificate) {
		t.Errorf("%s signs", made.Active.Name())
	}
}

// rotatedFrom performs a rotation during which a transient problem with this reason is reported,
// and returns the state.
func (f *fixture) rotatedFrom(reason string) *rotation.State {
	f.Helper()
	for {
		plan := f.takesPlace()
		if plan.problem == nil {
			return f.settle()
		}
		if plan.problem.reason != reason || !plan.problem.transient {
			f.Fatalf("%+v", plan.problem)
		}
		f.later(time.Minute)
	}
}
