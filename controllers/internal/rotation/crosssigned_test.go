package rotation_test

import (
	"testing"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// generations returns a Stable fixture after three rotations within minutes: the cross-signed chain
// has three certificates, and leads to three roots.
func generations(t *testing.T, edits ...func(*fixture)) *fixture {
	t.Helper()
	s := newFixture(t, func(s *fixture) { s.Spec.Propagation.Minimum, s.State.LongestDuration = "0s", time.Hour })
	for _, value := range []string{"1", "2", "3"} {
		s.Spec.Trigger = value
		s.rotates()
	}
	s.State.Phase = v1alpha1.PhaseStable
	for _, edit := range edits {
		edit(s)
	}
	return s
}

// rotates begins a rotation and switches the signer.
func (f *fixture) rotates() {
	f.Helper()
	for _, move := range []rotation.Move{rotation.Begin, rotation.Propagate, rotation.Switch} {
		f.Now = f.Now.Add(time.Minute)
		f.move(move, generate(f, "next", f.Now, lifetime))
	}
}

// holds fails the test unless there are this many predecessors, and a cross-signed chain of this
// length.
func (f *fixture) holds(previous, bridge int) {
	f.Helper()
	if got := f.State; len(got.Previous) != previous || len(got.Active.CrossSigned()) != bridge || len(got.Bundle()) != previous+1 {
		f.Fatalf("%d CAs before, a bridge of %d, a bundle of %d; want %d, %d, %d",
			len(got.Previous), len(got.Active.CrossSigned()), len(got.Bundle()), previous, bridge, previous+1)
	}
}

// TestTrimUnused checks that an unused root stays until every leaf has expired that was sent with
// more than one cross-signed certificate leading to it.
func TestTrimUnused(t *testing.T) {
	s := generations(t, untilUnused)
	s.holds(3, 3)
	s.Now = s.State.Previous[0].SignedUntil
	s.move(rotation.DropRoots, nil) // A single cross-signed certificate led to the last root.
	s.holds(2, 3)
	s.move(rotation.TrimCrossSigned, nil)
	s.holds(2, 0)
	until := second.Add(s.Now.Sub(second) + time.Hour + rotation.SigningSlack)
	for _, p := range s.State.Previous {
		if !p.SignedUntil.Equal(until) {
			t.Errorf("it is used until %s, want %s", p.SignedUntil, until)
		}
	}
	s.Now = until.Add(-1)
	s.move(rotation.NoMove, nil)
	s.Now = until
	s.move(rotation.DropRoots, nil)
	s.holds(0, 0)
}

// TestTrimWhen checks when the chain is trimmed: in phase Stable for an unused root, and at once
// for a compromised one.
func TestTrimWhen(t *testing.T) {
	enter := func(phase v1alpha1.CAPhase) func(*fixture) {
		return func(s *fixture) {
			s.State.Phase = phase
			if s.State.IsPreparing() {
				s.State.Next = generate(s, "next", s.Now, 2*lifetime)
			}
		}
	}
	unused := func(s *fixture) {
		s.Spec.PreviousTrust, s.Now = v1alpha1.TrustUntilUnused, s.State.Previous[1].SignedUntil
	}
	used := func(s *fixture) { outstanding("a")(s); s.Evidence.OutOfDate = 1 }
	for _, tc := range []struct {
		name        string
		given       []func(*fixture)
		want        rotation.Move
		crossSigned int
	}{
		{"all are used", given(used), rotation.NoMove, 3},
		{"two are unused", given(unused), rotation.TrimCrossSigned, 1},
		{"an instant before", given(unused, func(s *fixture) { s.Now = s.Now.Add(-1) }), rotation.NoMove, 3},
		{"they are trusted until they end", given(unused, func(s *fixture) { s.Spec.PreviousTrust = v1alpha1.TrustUntilExpiry }), rotation.NoMove, 3},
		{"two are unused, and it is paused", given(unused, paused), rotation.TrimCrossSigned, 1},
		{"two are unused while the next is published", given(unused, used, enter(v1alpha1.PhasePublishing)), rotation.NoMove, 3},
		{"two are unused while certificates are reissued", given(unused, used, enter(v1alpha1.PhaseReissuing)), rotation.NoMove, 3},
		{"all are compromised", given(used, compromised), rotation.TrimCrossSigned, 1},
		{"the key is lost", given(keyLost, compromised, enter(v1alpha1.PhasePublishing), used), rotation.NoMove, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := generations(t, tc.given...)
			s.Spec.RotateBefore = "1h"
			s.move(tc.want, nil)
			if s.State.Active != nil && len(s.State.Active.CrossSigned()) != tc.crossSigned {
				t.Errorf("a bridge of %d, want %d", len(s.State.Active.CrossSigned()), tc.crossSigned)
			}
		})
	}
}

// TestSwitchCrossSigned checks that the part of a chain that leads to a compromised root by more
// than one certificate is not sent, and that a root stays as long as leaves sent with such a chain.
func TestSwitchCrossSigned(t *testing.T) {
	for _, tc := range []struct {
		name        string
		given       func(*fixture)
		crossSigned int
	}{
		{"routine", func(*fixture) {}, 3},
		{"compromise", func(s *fixture) { s.Spec.TriggerReason = compromise }, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := generations(t, tc.given)
			s.Spec.Trigger = "4"
			s.rotates()
			s.holds(4, tc.crossSigned)
			for i, p := range s.State.Previous {
				led := i != 1 // A single certificate led to this one.
				if until := s.Now.Add(s.State.LongestDuration + rotation.SigningSlack); p.SignedUntil.Equal(until) != led {
					t.Errorf("predecessor %d is used until %s, and the switch was %s", i, p.SignedUntil, s.Now)
				}
			}
		})
	}
}
