package rotation_test

import (
	"testing"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// generations is a scene at rest after three rotations, a minute apart: the bridge has three certificates, and leads to three roots.
func generations(t *testing.T, edits ...func(*scene)) *scene {
	t.Helper()
	s := newScene(t, func(s *scene) { s.Spec.Propagation.Minimum, s.State.Longest = "0s", time.Hour })
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
func (s *scene) rotates() {
	s.Helper()
	for _, move := range []rotation.Move{rotation.Begin, rotation.Propagate, rotation.Switch} {
		s.Now = s.Now.Add(time.Minute)
		s.move(move, generate(s, "next", s.Now, lifetime))
	}
}

// holds fails unless there are so many roots before the CA that signs, and so many certificates lead to them.
func (s *scene) holds(previous, bridge int) {
	s.Helper()
	if got := s.State; len(got.Previous) != previous || len(got.Active.Bridge()) != bridge || len(got.Bundle()) != previous+1 {
		s.Fatalf("%d CAs before, a bridge of %d, a bundle of %d; want %d, %d, %d",
			len(got.Previous), len(got.Active.Bridge()), len(got.Bundle()), previous, bridge, previous+1)
	}
}

// TestShortenUnused: a root that is unused stays until every certificate has ended that was sent with more than one which leads to it.
func TestShortenUnused(t *testing.T) {
	s := generations(t, untilUnused)
	s.holds(3, 3)
	s.Now = s.State.Previous[0].SignedUntil
	s.move(rotation.Forget, nil) // a single certificate led to the last one
	s.holds(2, 3)
	s.move(rotation.Shorten, nil)
	s.holds(2, 0)
	until := second.Add(s.Now.Sub(second) + time.Hour + rotation.SigningSlack)
	for _, p := range s.State.Previous {
		if !p.SignedUntil.Equal(until) {
			t.Errorf("it is used until %s, want %s", p.SignedUntil, until)
		}
	}
	s.Now = until.Add(-1)
	s.move(rotation.Stay, nil)
	s.Now = until
	s.move(rotation.Forget, nil)
	s.holds(0, 0)
}

// TestShortenWhen: at rest where a root is unused, and at once where it was compromised.
func TestShortenWhen(t *testing.T) {
	enter := func(phase v1alpha1.CAPhase) func(*scene) {
		return func(s *scene) {
			s.State.Phase = phase
			if s.State.Preparing() {
				s.State.Next = generate(s, "next", s.Now, 2*lifetime)
			}
		}
	}
	unused := func(s *scene) {
		s.Spec.PreviousTrust, s.Now = v1alpha1.TrustUntilUnused, s.State.Previous[1].SignedUntil
	}
	used := func(s *scene) { outstanding("a")(s); s.Evidence.Behind = 1 }
	for _, tc := range []struct {
		name   string
		given  []func(*scene)
		want   rotation.Move
		bridge int
	}{
		{"all are used", given(used), rotation.Stay, 3},
		{"two are unused", given(unused), rotation.Shorten, 1},
		{"an instant before", given(unused, func(s *scene) { s.Now = s.Now.Add(-1) }), rotation.Stay, 3},
		{"they are trusted until they end", given(unused, func(s *scene) { s.Spec.PreviousTrust = v1alpha1.TrustUntilExpiry }), rotation.Stay, 3},
		{"two are unused, and it is paused", given(unused, paused), rotation.Shorten, 1},
		{"two are unused while the next is published", given(unused, used, enter(v1alpha1.PhasePublishing)), rotation.Stay, 3},
		{"two are unused while certificates are reissued", given(unused, used, enter(v1alpha1.PhaseReissuing)), rotation.Stay, 3},
		{"all are compromised", given(used, compromised), rotation.Shorten, 1},
		{"the key is lost", given(keyLost, compromised, enter(v1alpha1.PhasePublishing), used), rotation.Stay, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := generations(t, tc.given...)
			s.Spec.RotateBefore = "1h"
			s.move(tc.want, nil)
			if s.State.Active != nil && len(s.State.Active.Bridge()) != tc.bridge {
				t.Errorf("a bridge of %d, want %d", len(s.State.Active.Bridge()), tc.bridge)
			}
		})
	}
}

// TestSwitchBridge: what leads to a compromised root over more than one certificate is not sent; what they were sent with before keeps the root that it leads to.
func TestSwitchBridge(t *testing.T) {
	for _, tc := range []struct {
		name   string
		given  func(*scene)
		bridge int
	}{
		{"routine", func(*scene) {}, 3},
		{"compromise", func(s *scene) { s.Spec.TriggerReason = compromise }, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := generations(t, tc.given)
			s.Spec.Trigger = "4"
			s.rotates()
			s.holds(4, tc.bridge)
			for i, p := range s.State.Previous {
				led := i != 1 // a single certificate led to that one
				if until := s.Now.Add(s.State.Longest + rotation.SigningSlack); p.SignedUntil.Equal(until) != led {
					t.Errorf("predecessor %d is used until %s, and the switch was %s", i, p.SignedUntil, s.Now)
				}
			}
		})
	}
}
