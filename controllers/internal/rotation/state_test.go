package rotation_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// TestBundleOrder checks that the newest root is the first, whatever its CA does, and that each
// root occurs once.
func TestBundleOrder(t *testing.T) {
	var roots []*rotation.Signer
	for i := range 4 {
		roots = append(roots, generate(t, "signer", now.Add(-time.Duration(i)*day), lifetime))
	}
	former := func(i int) rotation.Predecessor { return rotation.Predecessor{Root: roots[i].Root} }
	want := (&rotation.State{Active: roots[0], Previous: []rotation.Predecessor{former(1), former(2), former(3)}}).Bundle()
	for name, state := range map[string]*rotation.State{
		"the oldest signs":       {Active: roots[3], Next: roots[0], Previous: []rotation.Predecessor{former(1), former(2)}},
		"nobody signs":           {Next: roots[2], Previous: []rotation.Predecessor{former(3), former(0), former(1)}},
		"one stands there twice": {Active: roots[1], Next: roots[1], Previous: []rotation.Predecessor{former(0), former(3), former(2), former(1)}},
	} {
		if diff := cmp.Diff(want.Encode(), state.Bundle().Encode()); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", name, diff)
		}
	}
	for i, root := range want {
		if !root.Equal(roots[i].Root) {
			t.Errorf("root %d is of %s", i, root.NotBefore)
		}
	}
}

// TestAddPredecessors checks that AddPredecessors does not overwrite what is known about a CA.
func TestAddPredecessors(t *testing.T) {
	s := newFixture(t, in(v1alpha1.PhasePublishing), follows(day))
	before := viewOf(s.State)
	for _, root := range s.State.Bundle() {
		s.State.AddPredecessors(rotation.Predecessor{Root: root, SignedUntil: now.Add(lifetime), Compromised: true})
	}
	same(t, before, viewOf(s.State))
	olderToo(day)(s)
	if len(s.State.Previous) != 2 {
		t.Errorf("%d CAs before, want 2", len(s.State.Previous))
	}
}

// drawFixture draws a state in any phase, with any evidence.
func drawFixture(t *testing.T, rt *rapid.T) *fixture {
	t.Helper()
	phases := []v1alpha1.CAPhase{
		v1alpha1.PhaseStable, v1alpha1.PhasePublishing, v1alpha1.PhasePropagating, v1alpha1.PhaseReissuing, v1alpha1.PhaseRetiring,
	}
	s := newFixture(t, in(rapid.SampledFrom(phases).Draw(rt, "phase")))
	for name, edit := range map[string]func(*fixture){
		"an older CA": olderToo(20 * day), "unused roots are forgotten": untilUnused, "compromised": compromised, "paused": paused,
		"a target lacks the bundle": outOfDate("a"), "outstanding": outstanding("b"), "no successor": noSuccessor,
		"urgent": urgent, "nobody has looked": unknownRestarts, "clients to restart": clients("c"), "a change is on its way": changing,
	} {
		if rapid.Bool().Draw(rt, name) {
			edit(s)
		}
	}
	if rapid.Bool().Draw(rt, "servers to restart") {
		servers(rapid.Int32Range(0, 2).Draw(rt, "held"), "d", "e")(s)
	}
	if s.State.IsPreparing() && rapid.Bool().Draw(rt, "the key is lost") {
		keyLost(s)
	}
	return s
}

// TestNextTransitions checks that the decision never changes with the clock between two
// transitions, so that no check is needed there.
func TestNextTransitions(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := drawFixture(t, rt)
		times := append(s.State.NextTransitions(s.Spec), second.Add(-lifetime), second.Add(2*lifetime))
		slices.SortFunc(times, time.Time.Compare)
		times = slices.CompactFunc(times, time.Time.Equal)
		for i, until := range times[1:] {
			s.Now = times[i]
			atFirst := rotation.Decide(s.Input)
			inBetween := time.Duration(rapid.Int64Range(1, int64(until.Sub(s.Now))-1).Draw(rt, "in between"))
			for _, later := range []time.Time{s.Now.Add(inBetween), until.Add(-1)} {
				s.Now = later
				if diff := cmp.Diff(atFirst, rotation.Decide(s.Input)); diff != "" {
					rt.Errorf("from %s to %s (-then +later):\n%s", times[i], later, diff)
				}
			}
		}
	})
}

// TestAnyLeafValid checks the instants at which the last certificate expires.
func TestAnyLeafValid(t *testing.T) {
	for _, tc := range []struct {
		name  string
		given []func(*fixture)
		want  bool
	}{
		{"a CA signs", nil, true},
		{"its last instant", given(left(1)), true},
		{"its end", given(left(0)), false},
		{"its end, and one before it has signed", given(follows(900*day), keyLost, at(rootEnds-1)), true},
		{"the root of that one has ended", given(follows(900*day), keyLost, at(rootEnds)), false},
		{"a last instant of what the one before signed", given(follows(day), keyLost, at(day-1)), true},
		{"all that it signed has ended", given(follows(day), keyLost, at(day)), false},
		{"only one that has not signed yet", given(in(v1alpha1.PhasePublishing), keyLost), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newFixture(t, tc.given...)
			if got := s.State.AnyLeafValid(s.Now); got != tc.want {
				t.Errorf("Alive = %v, want %v", got, tc.want)
			}
		})
	}
}

// TestNames checks that a CA has the name and the notAfter of its certificate.
func TestNames(t *testing.T) {
	signer := newFixture(t).State.Active
	if signer.Name() != pki.NameOf(signer.Certificate()) || !signer.NotAfter().Equal(signer.Certificate().NotAfter) {
		t.Errorf("%s until %s", signer.Name(), signer.NotAfter())
	}
}
