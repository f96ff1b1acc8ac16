package rotation_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// decision is a test case: a move with its reason, or everything that is waited for.
type decision struct {
	name   string
	given  []func(*fixture)
	move   rotation.Move
	reason v1alpha1.RotationReason
	waits  []string
}

func given(edits ...func(*fixture)) []func(*fixture) { return edits }

func decide(t *testing.T, cases []decision) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t, tc.given...)
			got := s.decided()
			// The source must provide another CA whenever the rotation waits for one, unless it is
			// paused.
			wanted := s.Spec.Mode != v1alpha1.RotationPaused && slices.ContainsFunc(tc.waits, func(wait string) bool { return strings.HasSuffix(wait, "and there is no other: put one there") })
			want := rotation.Decision{Move: tc.move, Reason: tc.reason, BlockedBy: tc.waits, NeedsCA: wanted}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

const (
	routine    = v1alpha1.TriggerRoutine
	compromise = v1alpha1.TriggerCompromise
)

func acted(s *fixture) { s.State.Trigger = "now" }

// TestDecideBegin checks what makes a rotation due, and which reason has precedence.
func TestDecideBegin(t *testing.T) {
	const begin = rotation.Begin
	spec := cause(v1alpha1.RotationSpecChanged)
	decide(t, []decision{
		{"nothing is due", nil, rotation.NoMove, "", nil},
		{"an instant more than the threshold is left", given(left(rotateBefore + 1)), rotation.NoMove, "", nil},
		{"the threshold is left", given(left(rotateBefore)), begin, v1alpha1.RotationThresholdPassed, nil},
		{"an instant is left", given(left(1)), begin, v1alpha1.RotationThresholdPassed, nil},
		{"the CA has just ended", given(left(0)), begin, v1alpha1.RotationCAExpired, nil},
		{"the CA ended long ago", given(left(-lifetime)), begin, v1alpha1.RotationCAExpired, nil},
		{"a trigger", given(trigger("now", routine)), begin, v1alpha1.RotationTriggered, nil},
		{"a trigger after another", given(acted, trigger("again", routine)), begin, v1alpha1.RotationTriggered, nil},
		{"a trigger that was acted on", given(acted, trigger("now", routine)), rotation.NoMove, "", nil},
		{"a trigger that was acted on, now a compromise", given(acted, trigger("now", compromise)), rotation.NoMove, "", nil},
		{"a trigger that was removed", given(acted), rotation.NoMove, "", nil},
		{"a compromise", given(trigger("now", compromise)), begin, v1alpha1.RotationCompromise, nil},
		{"no trigger, only its reason", given(trigger("", compromise)), rotation.NoMove, "", nil},
		{"another specification", given(spec), begin, v1alpha1.RotationSpecChanged, nil},
		{"another source", given(cause(v1alpha1.RotationSourceChanged)), begin, v1alpha1.RotationSourceChanged, nil},
		{"from a backup", given(restored), begin, v1alpha1.RotationSigningKeyRestored, nil},
		{"from a backup, and expired", given(restored, trigger("now", compromise), left(0)), begin, v1alpha1.RotationCAExpired, nil},
		{"from a backup, and a compromise", given(restored, trigger("now", compromise)), begin, v1alpha1.RotationSigningKeyRestored, nil},
		{"a compromise, and another specification", given(trigger("now", compromise), spec), begin, v1alpha1.RotationCompromise, nil},
		{"a trigger, and another specification", given(trigger("now", routine), spec), begin, v1alpha1.RotationTriggered, nil},
		{"another specification past the threshold", given(spec, left(1)), begin, v1alpha1.RotationSpecChanged, nil},
		{"while certificates are reissued", given(in(v1alpha1.PhaseReissuing), outstanding("a"), spec), begin, v1alpha1.RotationSpecChanged, nil},
		{"while a CA retires", given(in(v1alpha1.PhaseRetiring), trigger("now", routine)), begin, v1alpha1.RotationTriggered, nil},
		{"a rotation before a root is forgotten", given(in(v1alpha1.PhaseRetiring), untilUnused, at(60*day), spec), begin, v1alpha1.RotationSpecChanged, nil},
	})
}

// TestDecideWithoutSuccessor checks that, when the source has no other CA, a due rotation is
// reported, and a rotation in progress continues.
func TestDecideWithoutSuccessor(t *testing.T) {
	due := func(reason string) string {
		return "a rotation is due (" + reason + "), and there is no other: put one there"
	}
	decide(t, []decision{
		{"nothing is due", given(noSuccessor), rotation.NoMove, "", nil},
		{"a trigger", given(noSuccessor, trigger("now", routine)), rotation.NoMove, "", []string{due("Triggered")}},
		{"the CA has ended", given(noSuccessor, left(0)), rotation.NoMove, "", []string{due("CAExpired")}},
		{"while certificates are reissued", given(in(v1alpha1.PhaseReissuing), noSuccessor, outstanding("a"), trigger("now", routine)), rotation.NoMove, "",
			[]string{due("Triggered"), "1 certificates of CAs before ACTIVE are not reissued yet: a"}},
		{"once they are", given(in(v1alpha1.PhaseReissuing), noSuccessor, trigger("now", routine)), rotation.Retire, "", []string{due("Triggered")}},
		{"a root is forgotten", given(in(v1alpha1.PhaseRetiring), noSuccessor, untilUnused, at(60*day), trigger("now", routine)),
			rotation.DropRoots, "", []string{due("Triggered")}},
		{"the CA before has retired", given(in(v1alpha1.PhaseRetiring), noSuccessor, at(60*day), trigger("now", routine)),
			rotation.Complete, "", []string{due("Triggered")}},
		{"the next CA has ended", given(in(v1alpha1.PhasePropagating), noSuccessor, after(lifetime)), rotation.NoMove, "",
			[]string{"NEXT has expired before it signed, and there is no other: put one there"}},
	})
}

// TestDecidePrepare checks that the next CA signs only after all clients had time to trust it.
func TestDecidePrepare(t *testing.T) {
	publishing, propagating := in(v1alpha1.PhasePublishing), in(v1alpha1.PhasePropagating)
	const (
		lacks   = "2 targets do not carry the bundle with NEXT yet: ConfigMap a/b, ConfigMap c/d"
		reading = "every target carries the bundle with NEXT, and until 2071-03-14T15:19:26Z clients are given the time to read it"
		second  = `spec.rotation.trigger "again" waits until this rotation has switched the signer`
	)
	two, again := outOfDate("ConfigMap a/b", "ConfigMap c/d"), trigger("again", compromise)
	soonOver := func(s *fixture) { s.State.Next = generate(s, "soon over", now.Add(-time.Hour), 2*time.Hour) }
	decide(t, []decision{
		{"targets lack the bundle", given(publishing, two), rotation.NoMove, "", []string{lacks}},
		{"long after", given(publishing, two, after(300*day)), rotation.NoMove, "", []string{lacks}},
		{"many targets lack it", given(publishing, outOfDate("1", "2", "3", "4", "5", "6")), rotation.NoMove, "",
			[]string{"6 targets do not carry the bundle with NEXT yet: 1, 2, 3, 4, 5, …"}},
		{"every target has it", given(publishing), rotation.Propagate, "", nil},
		{"clients read it", given(propagating), rotation.NoMove, "", []string{reading}},
		{"for an instant more", given(propagating, at(minimum-1)), rotation.NoMove, "", []string{reading}},
		{"clients have read it", given(propagating, at(minimum)), rotation.Switch, "", nil},
		{"no time is given", given(propagating, func(s *fixture) { s.Spec.Propagation.Minimum = "0s" }), rotation.Switch, "", nil},
		{"a target that is new lacks it", given(propagating, two, at(minimum)), rotation.NoMove, "", []string{lacks}},
		{"a second trigger while targets lack it", given(publishing, two, again), rotation.NoMove, "", []string{second, lacks}},
		{"a second trigger while clients read it", given(propagating, again), rotation.NoMove, "", []string{second, reading}},
		{"a second trigger stops nothing", given(propagating, again, at(minimum)), rotation.Switch, "", nil},
		{"another specification meanwhile", given(propagating, cause(v1alpha1.RotationSpecChanged)), rotation.NoMove, "", []string{
			"a change of the spec or of the source (SpecChanged) waits until this rotation has switched the signer", reading,
		}},
		{"the threshold passes meanwhile", given(propagating, two, left(1)), rotation.NoMove, "", []string{lacks}},
		{"the next CA ends in an instant", given(propagating, soonOver, two, at(time.Hour-1)), rotation.NoMove, "", []string{lacks}},
		{"the next CA has ended", given(propagating, soonOver, two, at(time.Hour)), rotation.Begin, v1alpha1.RotationTriggered, nil},
		{"both CAs have ended", given(publishing, soonOver, left(0)), rotation.Begin, v1alpha1.RotationTriggered, nil},
	})
}

// TestDecideNoLeafValid checks that the switch does not wait for the bundle if no certificate of
// another CA is valid.
func TestDecideNoLeafValid(t *testing.T) {
	lacks := []string{"1 targets do not carry the bundle with NEXT yet: a"}
	for _, phase := range []v1alpha1.CAPhase{v1alpha1.PhasePublishing, v1alpha1.PhasePropagating} {
		t.Run(string(phase), func(t *testing.T) {
			waiting := func(edits ...func(*fixture)) []func(*fixture) {
				return append(given(in(phase), outOfDate("a")), edits...)
			}
			endless := func(s *fixture) { s.State.Next = generate(s, "next", now, 10*lifetime) }
			decide(t, []decision{
				{"the CA that signs ends in an instant", waiting(left(1)), rotation.NoMove, "", lacks},
				{"the CA that signs has ended", waiting(left(0)), rotation.Switch, "", nil},
				{"it has, and so has the root before it", waiting(follows(900*day), left(0)), rotation.Switch, "", nil},
				{"it has, and certificates of the one before live on", waiting(follows(day), func(s *fixture) {
					s.State.Active = generate(s, "active", now.Add(-day), day)
				}), rotation.NoMove, "", lacks},
				{"the key is lost, with nothing before", waiting(keyLost), rotation.Switch, "", nil},
				{"the key is lost, and its certificates live", waiting(keyLost, follows(day)), rotation.NoMove, "", lacks},
				{"their last instant", waiting(keyLost, follows(day), at(day-1)), rotation.NoMove, "", lacks},
				{"they have ended", waiting(keyLost, follows(day), at(day)), rotation.Switch, "", nil},
				{"their root has ended", waiting(keyLost, follows(900*day), endless, at(301*day)), rotation.Switch, "", nil},
			})
		})
	}
}
