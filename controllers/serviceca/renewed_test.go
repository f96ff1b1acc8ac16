package serviceca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/keyutil"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// renewals are the ways in which the certificate of a CA is renewed with the same key: by hand in
// the signing-key Secret, by a Secret that is created again without the operator's data, and in the
// source Secret, with or without the loss of the operator's copy.
var renewals = map[string]struct {
	sourceSecret bool
	renew        func(s *fixture, renewed *corev1.Secret)
}{
	"tls.crt by hand": {false, func(s *fixture, renewed *corev1.Secret) { s.putIn(renewed.Data[corev1.TLSCertKey]) }},
	"a Secret made anew": {false, func(s *fixture, renewed *corev1.Secret) {
		renewed.Name, renewed.Labels = s.secret.Name, s.secret.Labels
		s.secret = renewed
	}},
	"brought":                      {true, func(s *fixture, renewed *corev1.Secret) { s.sourceSecret = renewed }},
	"brought, and the copy lost":   {true, func(s *fixture, renewed *corev1.Secret) { s.sourceSecret, s.secret = renewed, nil }},
	"brought, and the copy broken": {true, func(s *fixture, renewed *corev1.Secret) { s.sourceSecret = renewed; s.putIn([]byte("?")) }},
}

// putIn puts a certificate into the signing-key Secret as an administrator would.
func (f *fixture) putIn(certificate []byte) {
	f.secret = f.secret.DeepCopy()
	f.secret.Data[corev1.TLSCertKey] = certificate
}

// TestRenewedWithTheSameKey checks that a certificate that is renewed with the same key comes into
// use while a CA signs at all times: the certificate is published first, and the leaves that it
// signs verify for clients with only the previous one.
func TestRenewedWithTheSameKey(t *testing.T) {
	t.Parallel()
	for _, subject := range []string{"corp", "corp, renewed"} {
		for name, tc := range renewals {
			t.Run(subject+"/"+name, func(t *testing.T) {
				t.Parallel()
				old := generateCA(t, "corp", nil)
				renewed := generateCAWith(t, subject, old.key, nil, lives(-time.Hour, 3000*time.Hour))
				s := newFixture(t, "")
				if tc.sourceSecret {
					s = newFixture(t, "corp")
				}
				s.longestDuration = 10 * time.Hour
				s.sourceSecret = sourceSecret(t, nil, old)
				s.secret = sourceSecret(t, nil, old)
				s.secret.Name, s.secret.Labels = s.serviceCA.SigningKeySecretName(), map[string]string{v1alpha1.LabelServiceCA: "default"}
				if tc.sourceSecret {
					s.secret = nil
				}
				s.settle()
				s.later(time.Hour)
				tc.renew(s, sourceSecret(t, nil, renewed))
				s.renewsTo(old, renewed)
			})
		}
	}
}

// renewsTo fails the test unless the renewed CA replaces the old one in a rotation during which the
// old one continues to sign.
func (f *fixture) renewsTo(old, renewed *testCA) {
	f.Helper()
	for range 5 {
		plan := f.takesPlace()
		if plan.problem != nil || plan.state.Active == nil || !plan.state.Active.Certificate().Equal(old.Certificate) {
			f.Fatalf("the old certificate does not sign on: %+v", plan)
		}
		for _, happened := range plan.events {
			if strings.Contains(happened.message, "backup") || happened.reason == eventSigningKeyLost {
				f.Errorf("%s: %s", happened.reason, happened.message)
			}
		}
	}
	state := stateOf(f.now, f.secret)
	if state.Next == nil || !state.Next.Certificate().Equal(renewed.Certificate) || len(state.Bundle()) != 2 || state.Reason != v1alpha1.RotationSourceChanged {
		f.Fatalf("the renewed certificate is not published: next is %v, reason %s", state.Next, state.Reason)
	}
	made := f.rotated()
	if !made.Active.Certificate().Equal(renewed.Certificate) || len(made.Bundle()) != 2 || len(made.Previous) != 1 || made.LongestDuration < 10*time.Hour {
		f.Fatalf("%s signs, %d roots are trusted", made.Active.Name(), len(made.Bundle()))
	}
	pair, err := made.Active.Issue(f.now, pki.LeafSpec{
		DNSNames: []string{"web.shop.svc"}, Key: pki.KeySpec{Algorithm: v1alpha1.ECDSA, Size: 256},
		Usages: []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth},
	}, time.Hour, nil)
	if err != nil {
		f.Fatal(err)
	}
	leaf, err := pair.Leaf()
	if err != nil {
		f.Fatal(err)
	}
	for _, root := range []*x509.Certificate{old.Certificate, renewed.Certificate} {
		if err := leaf.VerifyWithRoots(pki.Bundle{root}.Pool(), f.now); err != nil {
			f.Errorf("a client that knows only the root that ends %s: %v", root.NotAfter, err)
		}
	}
	if plan := f.plan(); plan.secret != nil || plan.problem != nil {
		f.Errorf("it does not come to rest: %+v", plan)
	}
}

// TestRenewedIntermediate checks that an intermediate that is renewed below a trusted root signs at
// once, and one below another root only once that root is published.
func TestRenewedIntermediate(t *testing.T) {
	t.Parallel()
	root, another := generateCA(t, "root", nil), generateCA(t, "another root", nil)
	old := generateCA(t, "issuing", root)
	for name, tc := range map[string]struct {
		root *testCA
		lost bool
		next bool
	}{
		"the same root":                 {root, false, true},
		"the same root, a copy is lost": {root, true, false},
		"another root":                  {another, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			renewed := generateCAWith(t, "issuing", old.key, tc.root, lives(-time.Hour, 900*time.Hour))
			s := newFixture(t, "corp")
			s.sourceSecret = sourceSecret(t, pemOf(root), old)
			s.settle()
			if s.sourceSecret = sourceSecret(t, pemOf(tc.root), renewed); tc.lost {
				s.secret = nil
			}
			s.later(time.Hour)
			state := s.settle()
			if state.Active == nil || (state.Next != nil) != tc.next || state.Restored {
				t.Fatalf("%v signs, next is %v", state.Active, state.Next)
			}
			if made := s.rotated(); !made.Active.Certificate().Equal(renewed.Certificate) || !made.Bundle().Contains(pki.KeyID(root.SubjectKeyId)) {
				t.Errorf("%s signs, %d roots are trusted", made.Active.Name(), len(made.Bundle()))
			}
		})
	}
}

// TestRenewedIntermediateByHand checks that an intermediate that is renewed in the signing-key
// Secret, below any root, takes over in a rotation, too.
func TestRenewedIntermediateByHand(t *testing.T) {
	t.Parallel()
	root, another := generateCA(t, "root", nil), generateCA(t, "another root", nil)
	old := generateCA(t, "issuing", root)
	s := newRequestFixture(t, pemOf(root), old)
	s.serviceCA.Spec.Certificate.PrivateKey = v1alpha1.PrivateKey{Algorithm: v1alpha1.ECDSA, Size: 256}
	s.settle()
	s.pendingRequest = pendingRequest{}
	s.later(time.Hour)
	renewed := generateCAWith(t, "issuing", old.key, another)
	s.putIn(pemOf(renewed, another))
	if state := s.settle(); !state.Active.Certificate().Equal(old.Certificate) || state.Next == nil || len(state.Bundle()) != 2 {
		t.Fatalf("%s signs, next is %v", state.Active.Name(), state.Next)
	}
	if made := s.rotated(); !made.Active.Certificate().Equal(renewed.Certificate) || len(made.Bundle()) != 2 || made.Phase == v1alpha1.PhasePublishing {
		t.Errorf("%s signs, %d roots are trusted, in %s", made.Active.Name(), len(made.Bundle()), made.Phase)
	}
}

// TestRenewedAndNotTaken checks that a renewed certificate waits for what has to come first, is
// dropped when another CA takes over, and is rejected when it is not usable.
func TestRenewedAndNotTaken(t *testing.T) {
	t.Parallel()
	old := generateCA(t, "corp", nil)
	renewed := generateCAWith(t, "corp", old.key, nil, lives(-time.Hour, 3000*time.Hour))
	for name, tc := range map[string]struct {
		source string
		given  func(*fixture)
		put    *testCA
		// waits is set when the certificate stays in tls.crt, and message is what is reported about it.
		waits   bool
		message string
	}{
		"paused":          {"", func(s *fixture) { s.serviceCA.Spec.Rotation.Mode = v1alpha1.RotationPaused }, renewed, true, rotation.PausedMessage},
		"in a rotation":   {"", func(s *fixture) { s.serviceCA.Spec.Rotation.Trigger = "now"; s.takesPlace() }, renewed, false, "a rotation to signer@"},
		"of a brought CA": {"corp", func(*fixture) {}, renewed, false, "comes from Secret corp: put a renewed certificate there"},
		"expired":         {"", func(*fixture) {}, generateCAWith(t, "corp", old.key, nil, lives(-time.Hour, time.Minute)), false, "tls.crt expired"},
		"not valid yet":   {"", func(*fixture) {}, generateCAWith(t, "corp", old.key, nil, lives(24*time.Hour, 3000*time.Hour)), true, "tls.crt is not valid before"},
		"the key was compromised": {"", func(s *fixture) {
			s.serviceCA.Spec.Rotation.Trigger, s.serviceCA.Spec.Rotation.TriggerReason = "stolen", v1alpha1.TriggerCompromise
		}, renewed, false, "Compromise"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t, tc.source)
			s.sourceSecret = sourceSecret(t, nil, old)
			s.secret = sourceSecret(t, nil, old)
			s.secret.Name, s.secret.Labels = s.serviceCA.SigningKeySecretName(), map[string]string{v1alpha1.LabelServiceCA: "default"}
			if tc.source != "" {
				s.secret = nil
			}
			s.settle()
			s.later(time.Hour)
			tc.given(s)
			s.putIn(pemOf(tc.put))
			plan := s.takesPlace()
			message := strings.Join(plan.blockedBy, " ")
			for _, happened := range plan.events {
				message += happened.message
			}
			if plan.problem != nil {
				message += plan.problem.message
			}
			if !strings.Contains(message, tc.message) || !plan.state.Active.Certificate().Equal(old.Certificate) {
				t.Errorf("%s signs, and it says %q", plan.state.Active.Name(), message)
			}
			if waits := bytes.Equal(s.secret.Data[corev1.TLSCertKey], pemOf(tc.put)); waits != tc.waits {
				t.Errorf("it waits in tls.crt: %v, want %v", waits, tc.waits)
			}
			if next := stateOf(s.now, s.secret).Next; next != nil && next.HasKey(old.Certificate) {
				t.Errorf("%s is next, with the same key", next.Name())
			}
		})
	}
}

// TestUselessCertificatePutBack checks that a certificate in tls.crt that does not fit the key is
// replaced by the previous one, which continues to sign.
func TestUselessCertificatePutBack(t *testing.T) {
	t.Parallel()
	old := generateCA(t, "corp", nil)
	for name, tc := range map[string]struct {
		put     []byte
		message string
	}{
		"no CA": {pemOf(generateCAWith(t, "corp", old.key, nil, func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature
		})), "is no CA"},
		"an intermediate without its root": {pemOf(generateCAWith(t, "corp", old.key, generateCA(t, "root", nil))), "does not lead to a root"},
		"of another key":                   {pemOf(generateCA(t, "corp", nil)), "tls.key is not the private key"},
		"a broken paste":                   {pemOf(old)[:200], "tls.crt"},
		"nothing":                          {nil, "tls.crt"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t, "")
			s.secret = sourceSecret(t, nil, old)
			s.secret.Name, s.secret.Labels = s.serviceCA.SigningKeySecretName(), map[string]string{v1alpha1.LabelServiceCA: "default"}
			s.settle()
			s.later(time.Hour)
			before := s.secret.Data
			s.putIn(tc.put)
			plan := s.takesPlace()
			if plan.problem != nil || plan.state.Phase != v1alpha1.PhaseStable || !plan.state.Active.Certificate().Equal(old.Certificate) {
				t.Fatalf("the CA does not sign on: %+v", plan)
			}
			if !maps.EqualFunc(before, s.secret.Data, bytes.Equal) {
				t.Error("the Secret is not as it was")
			}
			if events := plan.events; len(events) != 1 || events[0].reason != eventCertificatePutBack || !strings.Contains(events[0].message, tc.message) {
				t.Errorf("it tells %v, want %s with %q", events, eventCertificatePutBack, tc.message)
			}
			if plan := s.takesPlace(); plan.secret != nil || len(plan.events) > 0 {
				t.Errorf("it does not come to rest: %+v", plan)
			}
		})
	}
}

// TestUselessRenewalHoldsUpNothing checks that a certificate in tls.crt with the same key that has
// expired or is too weak is replaced by the previous one, and does not delay a rotation that is
// due.
func TestUselessRenewalHoldsUpNothing(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak := generateCAWith(t, "weak root", key, nil)
	for name, renewed := range map[string]func(crypto.Signer) []byte{
		"expired": func(key crypto.Signer) []byte {
			return pemOf(generateCAWith(t, "corp", key, nil, lives(-3*time.Hour, time.Minute)))
		},
		"too weak": func(key crypto.Signer) []byte { return pemOf(generateCAWith(t, "corp", key, weak), weak) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t, "")
			first := s.settle()
			s.later(time.Hour)
			s.putIn(renewed(privateKey(t, s.secret)))
			plan := s.takesPlace()
			if len(plan.events) != 1 || plan.events[0].reason != eventCertificatePutBack || plan.problem != nil {
				t.Errorf("it tells %v, the problem is %+v", plan.events, plan.problem)
			}
			s.now = first.Active.NotAfter().Add(-time.Hour)
			if state := s.settle(); state.Next == nil || state.Reason != v1alpha1.RotationThresholdPassed {
				t.Errorf("next is %v, reason %q", state.Next, state.Reason)
			}
		})
	}
}

// TestBroughtWithDuplicate checks that the plan settles for an imported CA whose chain contains a
// certificate twice.
func TestBroughtWithDuplicate(t *testing.T) {
	t.Parallel()
	root := generateCA(t, "root", nil)
	intermediate := generateCA(t, "intermediate", root)
	ca := generateCA(t, "corp", intermediate)
	for name, chain := range map[string][]*testCA{
		"the intermediate": {ca, intermediate, intermediate}, "the CA": {ca, ca, intermediate}, "neither": {ca, intermediate},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t, "corp")
			s.sourceSecret = sourceSecret(t, pemOf(root), chain...)
			s.settle()
			s.later(timeout)
			if plan := s.takesPlace(); plan.secret != nil || plan.state.Phase != v1alpha1.PhaseStable || len(plan.events) > 0 {
				t.Errorf("in %s, it tells %v", plan.state.Phase, plan.events)
			}
		})
	}
}

// TestRestoredFromBeforeARenewal checks that the certificate from before a renewal, restored from a
// backup, does not undo the renewal: the key is the same.
func TestRestoredFromBeforeARenewal(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	first := s.settle()
	backup := s.secret
	s.later(time.Hour)
	renewed := generateCAWith(t, first.Active.Name(), privateKey(t, s.secret), nil, lives(-time.Hour, 3000*time.Hour))
	s.putIn(pemOf(renewed))
	s.rotated()
	s.secret = backup
	s.later(time.Hour)
	restored := s.settle()
	if !restored.Active.Certificate().Equal(renewed.Certificate) || restored.Restored || restored.Next != nil || len(restored.Bundle()) != 2 {
		t.Errorf("%s until %s signs, next is %v, %d roots are trusted", restored.Active.Name(), restored.Active.NotAfter(), restored.Next, len(restored.Bundle()))
	}
}

// privateKey returns the key in tls.key.
func privateKey(t *testing.T, secret *corev1.Secret) crypto.Signer {
	t.Helper()
	parsed, err := keyutil.ParsePrivateKeyPEM(secret.Data[corev1.TLSPrivateKeyKey])
	key, ok := parsed.(crypto.Signer)
	if err != nil || !ok {
		t.Fatal(err)
	}
	return key
}
