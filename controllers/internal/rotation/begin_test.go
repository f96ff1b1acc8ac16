package rotation_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// TestBegin checks that a trigger is acted on once, even if something else made the rotation due.
func TestBegin(t *testing.T) {
	was := func(trigger string, compromise bool) func(*fixture) {
		return func(s *fixture) { s.State.Trigger, s.State.Compromise = trigger, compromise }
	}
	nextHasEnded := func(s *fixture) {
		in(v1alpha1.PhasePropagating)(s)
		s.State.Next, s.State.Reason = generate(s, "ended", now.Add(-2*time.Hour), time.Hour), v1alpha1.RotationCompromise
	}
	for _, tc := range []struct {
		name       string
		given      []func(*fixture)
		reason     v1alpha1.RotationReason
		trigger    string
		compromise bool
	}{
		{"a trigger", given(trigger("now", routine)), v1alpha1.RotationTriggered, "now", false},
		{"a compromise", given(trigger("now", compromise)), v1alpha1.RotationCompromise, "now", true},
		{"a trigger at the end of the CA", given(trigger("now", compromise), left(0)), v1alpha1.RotationCAExpired, "now", true},
		{"a trigger after a restore", given(restored, trigger("now", routine)), v1alpha1.RotationSigningKeyRestored, "now", false},
		{"the threshold", given(left(1)), v1alpha1.RotationThresholdPassed, "", false},
		{"the threshold, long after a compromise", given(was("now", true), trigger("now", compromise), left(1)), v1alpha1.RotationThresholdPassed, "now", false},
		{"a trigger, long after a compromise", given(was("now", true), trigger("again", routine)), v1alpha1.RotationTriggered, "again", false},
		{"the next CA of a compromise has ended", given(nextHasEnded, was("now", true), trigger("now", compromise)), v1alpha1.RotationCompromise, "now", true},
		{"it has, and there is another trigger", given(nextHasEnded, was("now", true), trigger("again", routine)), v1alpha1.RotationCompromise, "again", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newFixture(t, tc.given...)
			old, next := s.State.Active, generate(t, "new", s.Now, lifetime)
			s.move(rotation.Begin, next)
			got := s.State
			if got.Reason != tc.reason || got.Trigger != tc.trigger || got.Compromise != tc.compromise || got.Restored {
				t.Errorf("reason %q, trigger %q, compromise %v, restored %v; want %q, %q, %v, false",
					got.Reason, got.Trigger, got.Compromise, got.Restored, tc.reason, tc.trigger, tc.compromise)
			}
			if got.Phase != v1alpha1.PhasePublishing || !got.StartedAt.Equal(got.Since) || got.Active != old || !got.Next.Root.Equal(next.Root) {
				t.Errorf("in %s since %s, started %s, next %s", got.Phase, got.Since, got.StartedAt, got.Next.Name())
			}
			if decision := rotation.Decide(s.Input); decision.Move == rotation.Begin {
				t.Errorf("it begins again: %s", decision.Reason)
			}
		})
	}
}

// TestBeginCrossSigns checks that the cross-signed chain to the next CA is made while both keys
// exist, if there can be one.
func TestBeginCrossSigns(t *testing.T) {
	for _, tc := range []struct {
		name  string
		given []func(*fixture)
		want  int
	}{
		{"from the CA that signs", given(trigger("now", routine)), 1},
		{"from one that has ended", given(left(-day)), 0},
		{"from one that is lost", given(in(v1alpha1.PhasePropagating), keyLost, after(lifetime)), 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newFixture(t, tc.given...)
			active, next := s.State.Active, generate(t, "new", s.Now, lifetime)
			s.move(rotation.Begin, next)
			if got := s.State.Next.CrossSigned(); len(got) != tc.want {
				t.Fatalf("a bridge of %d certificates, want %d", len(got), tc.want)
			}
			if len(next.CrossSigned()) != 0 {
				t.Error("the CA that was given has a bridge")
			}
			if tc.want > 0 && s.State.Next.CrossSigned()[0].CheckSignatureFrom(active.Root) != nil {
				t.Error("the CA that signs did not sign it")
			}
		})
	}
}

// TestRotationBackToAFormerCA checks that a former CA that signs again is trusted once, in its
// present role.
func TestRotationBackToAFormerCA(t *testing.T) {
	s := newFixture(t, trigger("away", routine), func(s *fixture) { s.Spec.Propagation.Minimum = "0s" })
	first, second := s.State.Active, generate(t, "second", now, lifetime)
	for _, next := range []*rotation.Signer{second, first} {
		for _, move := range []rotation.Move{rotation.Begin, rotation.Propagate, rotation.Switch} {
			s.Now = s.Now.Add(time.Minute)
			s.move(move, next)
			if bundle := s.State.Bundle(); len(bundle) != 2 {
				t.Errorf("%d roots are trusted, want both", len(bundle))
			}
		}
		s.Spec.Trigger = "back"
	}
	if len(s.State.Previous) != 1 || !s.State.Previous[0].Root.Equal(second.Root) || s.State.Active.Name() != first.Name() {
		t.Errorf("%s signs after %d CAs, want the first after the second", s.State.Active.Name(), len(s.State.Previous))
	}
}

// TestSwitchCompromise checks that after a compromise all predecessors count as compromised: an
// attacker with one key may have had every key that was ever beside it.
func TestSwitchCompromise(t *testing.T) {
	for _, compromise := range []bool{true, false} {
		s := newFixture(t, in(v1alpha1.PhasePropagating), follows(day), olderToo(day), at(minimum), func(s *fixture) {
			s.State.Compromise = compromise
			s.State.Previous[1].Compromised = true
		})
		older := s.State.Previous[1].Root
		s.move(rotation.Switch, nil)
		if len(s.State.Previous) != 3 {
			t.Fatalf("%d CAs before, want 3", len(s.State.Previous))
		}
		for _, p := range s.State.Previous {
			if want := compromise || p.Root.Equal(older); p.Compromised != want {
				t.Errorf("with compromise %v, %s is compromised: %v, want %v", compromise, pki.NameOf(p.Root), p.Compromised, want)
			}
		}
		if got, want := len(s.State.Generations()), map[bool]int{true: 0, false: 2}[compromise]; got != want {
			t.Errorf("with compromise %v, %d generations before count, want %d", compromise, got, want)
		}
		s.State.Previous[0].KeyID = "that of an intermediate"
		if got, want := len(s.State.Generations()), map[bool]int{true: 0, false: 1}[compromise]; got != want {
			t.Errorf("with compromise %v, %d generations before count, and one was an intermediate, want %d", compromise, got, want)
		}
		sorted := slices.IsSortedFunc(s.State.Previous, func(a, b rotation.Predecessor) int { return b.Root.NotBefore.Compare(a.Root.NotBefore) })
		if !sorted {
			t.Error("the newest is not the first")
		}
	}
}

// below returns an intermediate signed by a root.
func below(t *testing.T, root *x509.Certificate, rootKey *ecdsa.PrivateKey, name string) *rotation.Signer {
	t.Helper()
	certificate, key := certify(t, name, root, rootKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	authority, err := pki.LoadAuthority(pki.Pair{
		Certificate: pki.Bundle{certificate}.Encode(), PrivateKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(t, der, err)}),
	})
	return &rotation.Signer{Authority: must(t, authority, err), Root: root, Source: "secret/corp"}
}

// certify makes a CA certificate, signed by a parent or, without one, by itself.
func certify(t *testing.T, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, key, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-day), NotAfter: now.Add(lifetime),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	certificate, err := x509.ParseCertificate(must(t, der, err))
	return must(t, certificate, err), key
}

// TestSwitchUnderOneRoot checks that, when the next CA is under the same root, no client has to
// trust another root and no CA becomes a predecessor.
func TestSwitchUnderOneRoot(t *testing.T) {
	root, key := certify(t, "root", nil, nil)
	s := newFixture(t, in(v1alpha1.PhasePropagating), at(minimum), func(s *fixture) {
		s.State.Active, s.State.Next = below(t, root, key, "first"), below(t, root, key, "second")
	})
	s.move(rotation.Switch, nil)
	if s.State.Active.Name() != "second" || len(s.State.Previous) != 0 || len(s.State.Bundle()) != 1 {
		t.Errorf("%s signs after %d CAs, with %d roots", s.State.Active.Name(), len(s.State.Previous), len(s.State.Bundle()))
	}
}
