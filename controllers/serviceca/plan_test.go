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

// A backup of the signing key that is older than the CA which signed last signs again, gives up no root, and is replaced.
func TestRestoredBackupKeepsEveryRoot(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	first := s.sound()
	backup := s.secret
	s.secret = nil
	s.later(24 * time.Hour)
	second := s.rotated()
	s.secret = backup
	s.later(time.Hour)
	restored := s.takesPlace().state
	if restored.Active.Fingerprint() != first.Active.Fingerprint() {
		t.Errorf("%s signs, want the CA of the backup", restored.Active.Name())
	}
	if !restored.Bundle().Contains(pki.KeyID(second.Active.Certificate().SubjectKeyId)) || restored.Next == nil {
		t.Errorf("of 2 roots and the next %d are trusted", len(restored.Bundle()))
	}
	third := s.rotated()
	if fingerprint := third.Active.Fingerprint(); fingerprint == first.Active.Fingerprint() || fingerprint == second.Active.Fingerprint() {
		t.Errorf("%s signs, want a new CA", third.Active.Name())
	}
	if len(third.Bundle()) != 3 {
		t.Errorf("of 3 roots %d are trusted", len(third.Bundle()))
	}
}

// A backup from the middle of a rotation knows the next CA as one that has not signed: the certificates that it signed since stay trusted.
func TestRestoredFromTheMiddleOfARotation(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	s.sound()
	s.serviceCA.Spec.Rotation.Trigger = "now"
	s.later(time.Hour)
	s.sound()
	backup := s.secret
	s.later(patience)
	second := s.sound()
	s.later(24 * time.Hour)
	s.secret = backup
	if restored := s.takesPlace().state; !restored.Bundle().Contains(pki.KeyID(second.Active.Certificate().SubjectKeyId)) {
		t.Errorf("%s is not trusted any more", second.Active.Name())
	}
}

// The key that was lost and comes back from a backup signs again at once: nothing has taken over from it yet.
func TestRestoredBeforeItsSuccessorSigns(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	first := s.sound()
	backup := s.secret
	s.secret = nil
	s.later(24 * time.Hour)
	if waiting := s.sound(); waiting.Active != nil || s.serviceCA.Status.Active != nil {
		t.Error("somebody signs whose root is not known yet")
	}
	s.secret = backup
	restored := s.takesPlace().state
	if restored.Active.Fingerprint() != first.Active.Fingerprint() || len(restored.Bundle()) != 1 {
		t.Errorf("%s signs, %d roots are trusted", restored.Active.Name(), len(restored.Bundle()))
	}
}

// A key that was given up because it was compromised never signs again, whoever restores it.
func TestRestoredAfterACompromise(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	first := s.sound()
	backup := s.secret
	s.serviceCA.Spec.Rotation.Trigger, s.serviceCA.Spec.Rotation.TriggerReason = "stolen", v1alpha1.TriggerCompromise
	s.later(time.Hour)
	s.rotated()
	s.secret = backup
	s.later(time.Minute)
	for range 3 {
		if restored := s.takesPlace().state; restored.Active != nil && restored.Active.Fingerprint() == first.Active.Fingerprint() {
			t.Fatal("the stolen key signs")
		}
	}
}

// What somebody puts into the signing-key Secret by hand does not sign before its root is known, and takes no trust away.
func TestPutInByHand(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	first := s.sound()
	other := brought(t, nil, mint(t, "by hand", nil))
	s.secret = s.secret.DeepCopy()
	for _, key := range []string{"tls.crt", "tls.key"} {
		s.secret.Data[key] = other.Data[key]
	}
	s.secret.Data[rotation.BundleKey] = other.Data["tls.crt"]
	s.later(time.Hour)
	if state := s.takesPlace().state; state.Active != nil || !state.Bundle().Contains(pki.KeyID(first.Active.Certificate().SubjectKeyId)) {
		t.Errorf("%+v signs, %d roots are trusted", state.Active, len(state.Bundle()))
	}
}

// A bundle never gets empty: the root of the CA that signed last stays, even when it has ended.
func TestBundleIsNeverEmpty(t *testing.T) {
	t.Parallel()
	root := mint(t, "root", nil, lives(-time.Hour, time.Hour))
	for name, made := range map[string]*handmade{
		"a root ends":                         root,
		"a root ends before its intermediate": mint(t, "issuing", root, lives(-time.Hour, 100*time.Hour)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, "corp")
			s.brought = brought(t, pemOf(root), made)
			s.sound()
			for _, later := range []time.Duration{2 * time.Hour, time.Hour, 1000 * time.Hour} {
				s.later(later)
				decided := s.takesPlace()
				if len(decided.state.Bundle()) != 1 || !decided.state.Bundle()[0].Equal(root.Certificate) {
					t.Errorf("%d roots are trusted", len(decided.state.Bundle()))
				}
				if decided.problem == nil || decided.problem.reason != reasonSourceInvalid {
					t.Errorf("the problem is %+v", decided.problem)
				}
			}
		})
	}
}

// A root that was signed anew for the same key takes the place of the one that ended.
func TestRootSignedAnew(t *testing.T) {
	t.Parallel()
	old := mint(t, "root", nil, lives(-1000*time.Hour, 10*time.Hour))
	issuing := mint(t, "issuing", old, lives(-900*time.Hour, 500*time.Hour))
	renewed := mintWith(t, "root", old.key, nil, lives(-time.Hour, 10_000*time.Hour))
	s := newScene(t, "corp")
	s.brought = brought(t, pemOf(old), issuing)
	s.sound()
	s.brought = brought(t, pemOf(renewed), issuing)
	for range 2 {
		s.later(time.Hour)
		if made := s.rotated(); !made.Bundle()[0].Equal(renewed.Certificate) || len(made.Bundle()) != 2 || !made.Active.Root.Equal(renewed.Certificate) {
			t.Errorf("%d roots are trusted, and the first ends %s", len(made.Bundle()), made.Bundle()[0].NotAfter)
		}
	}
	if decided := s.plan(); decided.secret != nil {
		t.Error("what has not changed is written again")
	}
}

// Whatever is renewed of a chain that was brought, the CA that signs has it; and it names another fingerprint, so that the certificates
// that were made before get it too.
func TestRenewedChainIsTaken(t *testing.T) {
	t.Parallel()
	root := mint(t, "root", nil)
	upper := mint(t, "upper", root)
	issuing := mint(t, "issuing", upper)
	newUpper := mintWith(t, "upper", upper.key, root)
	newIssuing := mintWith(t, "issuing", issuing.key, newUpper)
	s := newScene(t, "corp")
	fingerprints := map[string]bool{}
	for i, chain := range [][]*handmade{{issuing, upper}, {issuing, newUpper}, {newIssuing, newUpper}} {
		s.brought = brought(t, pemOf(root), chain...)
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

// What no client would verify is refused with what to do; and what only looks odd works.
func TestWhatIsBrought(t *testing.T) {
	t.Parallel()
	root := mint(t, "root", nil)
	nameless := func(subject pkix.Name) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.Subject = subject }
	}
	allowsNone := func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }
	upper, narrow := mint(t, "upper", root), mint(t, "narrow", root, allowsNone)
	for name, tc := range map[string]struct {
		chain []*handmade
		root  []byte
		// subject is what the status says of it, and refused why it is not taken.
		subject, refused string
	}{
		"no common name":              {[]*handmade{mint(t, "", nil, nameless(pkix.Name{Organization: []string{"Corp"}}))}, nil, "O=Corp", ""},
		"no subject":                  {[]*handmade{mint(t, "", nil, nameless(pkix.Name{}))}, nil, "", "tls.crt has no subject"},
		"an intermediate in ca.crt":   {[]*handmade{mint(t, "issuing", upper)}, pemOf(upper, root), "", "the intermediates between them into tls.crt"},
		"an intermediate in tls.crt":  {[]*handmade{mint(t, "issuing", upper), upper}, pemOf(root), "issuing", ""},
		"the root in tls.crt too":     {[]*handmade{mint(t, "issuing", upper), upper, root}, pemOf(root), "issuing", ""},
		"none below the one above it": {[]*handmade{mint(t, "issuing", narrow), narrow}, pemOf(root), "", "a CA above it allows none"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, "corp")
			s.brought = brought(t, tc.root, tc.chain...)
			decided := s.takesPlace()
			if tc.refused != "" {
				if decided.state != nil || decided.problem == nil || decided.problem.reason != reasonSourceInvalid || !strings.Contains(decided.problem.message, tc.refused) {
					t.Errorf("the problem is %+v, want %q", decided.problem, tc.refused)
				}
				return
			}
			if decided.problem != nil {
				t.Fatal(decided.problem.message)
			}
			if got := s.serviceCA.Status.Active.Subject; got != tc.subject {
				t.Errorf("the status names %q, want %q", got, tc.subject)
			}
			s.sound()
		})
	}
}

// A clock that leapt ahead and came back leaves no CA signing that nobody accepts yet.
func TestClockLeapsAndComesBack(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	first := s.sound()
	s.later(20 * 365 * 24 * time.Hour)
	leapt := s.sound()
	if leapt.Active.Fingerprint() == first.Active.Fingerprint() {
		t.Fatal("an expired CA signs")
	}
	s.now = now
	back := s.takesPlace()
	if back.problem == nil || back.problem.reason != reasonNotYetValid || !back.problem.passing {
		t.Errorf("the problem is %+v", back.problem)
	}
	if back.secret != nil || back.state.Active.Fingerprint() != leapt.Active.Fingerprint() {
		t.Error("another CA signs because of the clock")
	}
}

// However many CAs came before, the status can be written: the API takes 64 of them.
func TestManyFormerCAs(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
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

// A root that somebody put into the published bundle is not taken for one of ours, whatever key identifier it bears.
func TestForgedRootIsNotRecovered(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	ours := s.sound().Active.Certificate()
	forged := mint(t, ours.Subject.CommonName, nil, func(c *x509.Certificate) { c.SubjectKeyId = ours.SubjectKeyId })
	s.published = append(s.published, pemOf(forged)...)
	s.secret = nil
	made := s.sound()
	for _, root := range made.Bundle() {
		if root.Equal(forged.Certificate) {
			t.Error("a forged root is trusted")
		}
	}
	if !made.Bundle().Contains(pki.KeyID(ours.SubjectKeyId)) || len(made.Bundle()) != 2 {
		t.Errorf("%d roots are trusted, want the new one and the lost one", len(made.Bundle()))
	}
}

// A CA that was brought is replaced by a new one when spec.source names it no more.
func TestBackToSelfSigned(t *testing.T) {
	t.Parallel()
	corp := mint(t, "corp", nil)
	s := newScene(t, "corp")
	s.brought = brought(t, nil, corp)
	s.sound()
	s.serviceCA.Spec.Source, s.brought = v1alpha1.CASource{SelfSigned: &v1alpha1.SelfSignedSource{}}, nil
	if made := s.sound(); made.Reason != v1alpha1.RotationSourceChanged || !made.Active.Certificate().Equal(corp.Certificate) {
		t.Errorf("%s signs, because of %q", made.Active.Name(), made.Reason)
	}
	if made := s.rotated(); made.Active.Source != rotation.SelfSigned || !made.Bundle().Contains(pki.KeyID(corp.SubjectKeyId)) {
		t.Errorf("%s signs", made.Active.Name())
	}
}

// However short the certificates are that policies ask for today: what was signed for longer is remembered, over a backup from before.
func TestRestoredBackupForgetsNoLifetime(t *testing.T) {
	t.Parallel()
	const short, long = 90 * 24 * time.Hour, 365 * 24 * time.Hour
	s := newScene(t, "")
	s.longest = short
	s.sound()
	backup := s.secret
	s.longest = long
	s.sound()
	s.longest, s.secret = short, backup
	if restored := s.sound(); restored.Longest != long {
		t.Errorf("certificates of %s are said to be the longest", restored.Longest)
	}
}

// A ServiceCA that was made again remembers nothing, and a backup may be from before the last rotation: what is published stays.
func TestOldBackupWithoutAStatus(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	s.sound()
	backup := s.secret
	s.serviceCA.Spec.Rotation.Trigger = "now"
	s.later(time.Hour)
	second := s.rotated()
	s.secret, s.serviceCA.Status = backup, v1alpha1.ServiceCAStatus{}
	if restored := s.takesPlace().state; !restored.Bundle().Contains(pki.KeyID(second.Active.Certificate().SubjectKeyId)) {
		t.Error("the CA that signed last is not trusted any more")
	}
}

// What kubectl keeps of a Secret that was restored by it holds the key too, and goes with the first write.
func TestKeyIsInNoAnnotation(t *testing.T) {
	t.Parallel()
	s := newScene(t, "")
	s.sound()
	s.secret.Annotations["kubectl.kubernetes.io/last-applied-configuration"] = string(s.secret.Data["tls.key"])
	s.sound()
	for name, value := range s.secret.Annotations {
		if strings.Contains(value, "PRIVATE KEY") {
			t.Errorf("annotation %s holds the key", name)
		}
	}
}

// Two intermediates of one root: what the first signed for longer than the second lives is trusted until it ends.
func TestIntermediatesOfOneRoot(t *testing.T) {
	t.Parallel()
	root := mint(t, "root", nil, lives(-time.Hour, 50_000*time.Hour))
	first := mint(t, "first", root, lives(-time.Hour, 20_000*time.Hour))
	second := mint(t, "second", root, lives(-time.Hour, 700*time.Hour))
	third := mint(t, "third", nil, lives(-time.Hour, 50_000*time.Hour))
	s := newScene(t, "corp")
	s.longest = 10_000 * time.Hour
	for _, next := range [][]*handmade{{first}, {second}, {third}} {
		trusted := pemOf(root)
		if next[0] == third {
			trusted = nil
		}
		s.brought = brought(t, trusted, next...)
		s.later(time.Hour)
		s.rotated()
	}
	if until := s.serviceCA.Status.Previous[0].SignedUntil; until.Before(new(metav1.NewTime(s.now.Add(9_990 * time.Hour)))) {
		t.Errorf("certificates of the first are said to end by %s", until)
	}
}
