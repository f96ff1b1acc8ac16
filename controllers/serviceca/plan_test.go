package serviceca

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// TestBundleIsNeverEmpty checks that the root of the CA that signed last stays in the bundle even
// after its notAfter.
func TestBundleIsNeverEmpty(t *testing.T) {
	t.Parallel()
	root := generateCA(t, "root", nil, lives(-time.Hour, time.Hour))
	for name, made := range map[string]*testCA{
		"a root ends":                         root,
		"a root ends before its intermediate": generateCA(t, "issuing", root, lives(-time.Hour, 100*time.Hour)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t, "corp")
			s.sourceSecret = sourceSecret(t, pemOf(root), made)
			s.settle()
			for _, later := range []time.Duration{2 * time.Hour, time.Hour, 1000 * time.Hour} {
				s.later(later)
				plan := s.takesPlace()
				if len(plan.state.Bundle()) != 1 || !plan.state.Bundle()[0].Equal(root.Certificate) {
					t.Errorf("%d roots are trusted", len(plan.state.Bundle()))
				}
				if plan.problem == nil || plan.problem.reason != reasonSourceInvalid {
					t.Errorf("the problem is %+v", plan.problem)
				}
			}
		})
	}
}

// TestRootSignedAnew checks that a root that was reissued for the same key replaces the expired
// one.
func TestRootSignedAnew(t *testing.T) {
	t.Parallel()
	old := generateCA(t, "root", nil, lives(-1000*time.Hour, 10*time.Hour))
	issuing := generateCA(t, "issuing", old, lives(-900*time.Hour, 500*time.Hour))
	renewed := generateCAWith(t, "root", old.key, nil, lives(-time.Hour, 10_000*time.Hour))
	s := newFixture(t, "corp")
	s.sourceSecret = sourceSecret(t, pemOf(old), issuing)
	s.settle()
	s.sourceSecret = sourceSecret(t, pemOf(renewed), issuing)
	for range 2 {
		s.later(time.Hour)
		if made := s.rotated(); !made.Bundle()[0].Equal(renewed.Certificate) || len(made.Bundle()) != 2 || !made.Active.Root.Equal(renewed.Certificate) {
			t.Errorf("%d roots are trusted, and the first ends %s", len(made.Bundle()), made.Bundle()[0].NotAfter)
		}
	}
	if plan := s.plan(); plan.secret != nil {
		t.Error("what has not changed is written again")
	}
}

// TestRenewedChainIsTaken checks that the CA uses any renewed certificate in an imported chain, and
// that its fingerprint changes, so that existing leaves are reissued with the new chain.
func TestRenewedChainIsTaken(t *testing.T) {
	t.Parallel()
	root := generateCA(t, "root", nil)
	upper := generateCA(t, "upper", root)
	issuing := generateCA(t, "issuing", upper)
	newUpper := generateCAWith(t, "upper", upper.key, root)
	newIssuing := generateCAWith(t, "issuing", issuing.key, newUpper)
	s := newFixture(t, "corp")
	fingerprints := map[string]bool{}
	for i, chain := range [][]*testCA{{issuing, upper}, {issuing, newUpper}, {newIssuing, newUpper}} {
		s.sourceSecret = sourceSecret(t, pemOf(root), chain...)
		made := s.rotated()
		if got := made.Active.Chain(); len(got) != 2 || !got[0].Equal(chain[0].Certificate) || !got[1].Equal(chain[1].Certificate) {
			t.Errorf("%d: the chain has %d certificates, and is not what was brought", i, len(got))
		}
		fingerprints[s.serviceCA.Status.Active.Fingerprint] = true
		if len(made.Bundle()) != 1 || len(s.serviceCA.Status.Previous) != 0 {
			t.Errorf("%d: %d roots are trusted, %d CAs are shown as former", i, len(made.Bundle()), len(s.serviceCA.Status.Previous))
		}
	}
	if len(fingerprints) != 3 {
		t.Errorf("3 chains have %d fingerprints", len(fingerprints))
	}
}

// TestSourceSecret checks that a source that no client would verify is rejected with a remedy, and
// that a source that only looks unusual works.
func TestSourceSecret(t *testing.T) {
	t.Parallel()
	root := generateCA(t, "root", nil)
	nameless := func(subject pkix.Name) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.Subject = subject }
	}
	allowsNone := func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }
	upper, narrow := generateCA(t, "upper", root), generateCA(t, "narrow", root, allowsNone)
	for name, tc := range map[string]struct {
		chain []*testCA
		root  []byte
		// subject is the subject in the status, and refused why the source is rejected.
		subject, refused string
	}{
		"no common name":              {[]*testCA{generateCA(t, "", nil, nameless(pkix.Name{Organization: []string{"Corp"}}))}, nil, "O=Corp", ""},
		"no subject":                  {[]*testCA{generateCA(t, "", nil, nameless(pkix.Name{}))}, nil, "", "tls.crt has no subject"},
		"an intermediate in ca.crt":   {[]*testCA{generateCA(t, "issuing", upper)}, pemOf(upper, root), "", "the intermediates between them into tls.crt"},
		"an intermediate in tls.crt":  {[]*testCA{generateCA(t, "issuing", upper), upper}, pemOf(root), "issuing", ""},
		"the root in tls.crt too":     {[]*testCA{generateCA(t, "issuing", upper), upper, root}, pemOf(root), "issuing", ""},
		"none below the one above it": {[]*testCA{generateCA(t, "issuing", narrow), narrow}, pemOf(root), "", "a CA above it allows none"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t, "corp")
			s.sourceSecret = sourceSecret(t, tc.root, tc.chain...)
			plan := s.takesPlace()
			if tc.refused != "" {
				if plan.state != nil || plan.problem == nil || plan.problem.reason != reasonSourceInvalid || !strings.Contains(plan.problem.message, tc.refused) {
					t.Errorf("the problem is %+v, want %q", plan.problem, tc.refused)
				}
				return
			}
			if plan.problem != nil {
				t.Fatal(plan.problem.message)
			}
			if got := s.serviceCA.Status.Active.Subject; got != tc.subject {
				t.Errorf("the status names %q, want %q", got, tc.subject)
			}
			s.settle()
		})
	}
}

// TestClockJumpsBack checks that no CA signs whose certificate is not valid yet, after the clock
// was ahead and has been corrected.
func TestClockJumpsBack(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	first := s.settle()
	s.later(20 * 365 * 24 * time.Hour)
	leapt := s.settle()
	if leapt.Active.Fingerprint() == first.Active.Fingerprint() {
		t.Fatal("an expired CA signs")
	}
	s.now = now
	back := s.takesPlace()
	if back.problem == nil || back.problem.reason != reasonNotYetValid || !back.problem.transient {
		t.Errorf("the problem is %+v", back.problem)
	}
	if back.secret != nil || back.state.Active.Fingerprint() != leapt.Active.Fingerprint() {
		t.Error("another CA signs because of the clock")
	}
}

// TestManyFormerCAs checks that the status can be written after any number of rotations: the API
// allows 64 former CAs.
func TestManyFormerCAs(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	for range maxPrevious + 6 {
		s.later(time.Minute)
		s.secret = nil
		s.rotated()
	}
	status := s.serviceCA.Status
	if len(status.Previous) != 64 || status.TrustBundle.Certificates != maxPrevious+6 {
		t.Fatalf("%d former CAs are shown and %d roots trusted, want 64 and %d", len(status.Previous), status.TrustBundle.Certificates, maxPrevious+6)
	}
	for i := range status.Previous[1:] {
		if status.Previous[i].NotBefore.Before(&status.Previous[i+1].NotBefore) {
			t.Fatalf("former CA %d is older than the one after it: the newest are shown first", i)
		}
	}
}

// TestBackToSelfSigned checks that an imported CA is replaced by a new one when spec.source no
// longer refers to it.
func TestBackToSelfSigned(t *testing.T) {
	t.Parallel()
	corp := generateCA(t, "corp", nil)
	s := newFixture(t, "corp")
	s.sourceSecret = sourceSecret(t, nil, corp)
	s.settle()
	s.serviceCA.Spec.Source, s.sourceSecret = v1alpha1.CASource{SelfSigned: &v1alpha1.SelfSignedSource{}}, nil
	if made := s.settle(); made.Reason != v1alpha1.RotationSourceChanged || !made.Active.Certificate().Equal(corp.Certificate) {
		t.Errorf("%s signs, because of %q", made.Active.Name(), made.Reason)
	}
	if made := s.rotated(); made.Active.Source != rotation.SelfSigned || !made.Bundle().Contains(pki.KeyID(corp.SubjectKeyId)) {
		t.Errorf("%s signs", made.Active.Name())
	}
}

// TestIntermediatesOfOneRoot checks, with two intermediates of one root, that leaves of the first
// one stay trusted until their notAfter, even when that is later than the notAfter of the second
// one.
func TestIntermediatesOfOneRoot(t *testing.T) {
	t.Parallel()
	root := generateCA(t, "root", nil, lives(-time.Hour, 50_000*time.Hour))
	first := generateCA(t, "first", root, lives(-time.Hour, 20_000*time.Hour))
	second := generateCA(t, "second", root, lives(-time.Hour, 700*time.Hour))
	third := generateCA(t, "third", nil, lives(-time.Hour, 50_000*time.Hour))
	s := newFixture(t, "corp")
	s.longestDuration = 10_000 * time.Hour
	for _, next := range [][]*testCA{{first}, {second}, {third}} {
		trusted := pemOf(root)
		if next[0] == third {
			trusted = nil
		}
		s.sourceSecret = sourceSecret(t, trusted, next...)
		s.later(time.Hour)
		s.rotated()
	}
	if until := s.serviceCA.Status.Previous[0].SignedUntil; until.Before(new(metav1.NewTime(s.now.Add(9_990 * time.Hour)))) {
		t.Errorf("certificates of the first are said to end by %s", until)
	}
}
