package rotation_test

import (
	"testing"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// rootEnds is the notAfter of the predecessor of follows, from the start of the phase.
const rootEnds = 300 * day

// TestDecideReissue checks that phase Retiring begins only after the last certificate is reissued.
func TestDecideReissue(t *testing.T) {
	reissuing := in(v1alpha1.PhaseReissuing)
	decide(t, []decision{
		{"one is left", given(reissuing, outstanding("Secret a/b")), rotation.NoMove, "",
			[]string{"1 certificates of CAs before ACTIVE are not reissued yet: Secret a/b"}},
		{"many are left", given(reissuing, outstanding("1", "2", "3", "4", "5", "6")), rotation.NoMove, "",
			[]string{"6 certificates of CAs before ACTIVE are not reissued yet: 1, 2, 3, 4, 5, …"}},
		{"none is left", given(reissuing), rotation.Retire, "", nil},
		{"none is left, and a target lacks the bundle", given(reissuing, outOfDate("a")), rotation.Retire, "", nil},
		{"none is left of a compromised CA", given(reissuing, compromised, at(rootEnds-1)), rotation.Retire, "", nil},
	})
}

// TestDecideRetire checks that a rotation ends when no certificate of a predecessor can be valid
// any more, even in the memory of a server.
func TestDecideRetire(t *testing.T) {
	retiring := in(v1alpha1.PhaseRetiring)
	mayLive := []string{"certificates of CAs before ACTIVE may live in the memory of servers until 2071-05-13T15:09:26Z"}
	decide(t, []decision{
		{"certificates may live", given(retiring), rotation.NoMove, "", mayLive},
		{"their last instant", given(retiring, at(60*day-1)), rotation.NoMove, "", mayLive},
		{"they have ended", given(retiring, at(60*day)), rotation.Complete, "", nil},
		{"the latest of two CAs matters", given(retiring, olderToo(30*day), at(30*day)), rotation.NoMove, "", mayLive},
		{"in whichever order", given(retiring, olderToo(90*day), at(60*day)), rotation.NoMove, "",
			[]string{"certificates of CAs before ACTIVE may live in the memory of servers until 2071-06-12T15:09:26Z"}},
		{"there is no CA before", given(retiring, func(s *fixture) { s.State.Previous = nil }), rotation.Complete, "", nil},
		{"one is outstanding that is new", given(retiring, outstanding("a")), rotation.NoMove, "", mayLive},
		{"a request's certificate holds up nothing", given(retiring, requests("a"), at(60*day)), rotation.Complete, "", nil},
	})
}

// olderToo adds a CA that is older than the predecessor of follows.
func olderToo(signedFor time.Duration) func(*fixture) {
	return func(s *fixture) {
		older := generate(s, "older", now.Add(-600*day), lifetime)
		s.State.AddPredecessors(rotation.Predecessor{Root: older.Root, KeyID: pki.KeyID(older.Root.SubjectKeyId), SignedUntil: second.Add(signedFor)})
	}
}

// TestDecideDropRoots checks that a root is trusted as long as spec.rotation.previousTrust says,
// and never beyond its notAfter.
func TestDecideDropRoots(t *testing.T) {
	reissue := []string{"1 certificates of CAs before ACTIVE are not reissued yet: a"}
	mayLive := []string{"certificates of CAs before ACTIVE may live in the memory of servers until 2071-03-14T15:09:26Z"}
	for _, tc := range []struct {
		phase v1alpha1.CAPhase
		// used is what is waited for while certificates of the predecessor may be valid. unused and
		// waits are the result while only its root is valid.
		used   []string
		unused rotation.Move
		waits  []string
	}{
		{v1alpha1.PhaseStable, nil, rotation.NoMove, nil},
		{v1alpha1.PhaseReissuing, reissue, rotation.NoMove, reissue},
		{v1alpha1.PhaseRetiring, mayLive, rotation.Complete, nil},
	} {
		t.Run(string(tc.phase), func(t *testing.T) {
			standing := func(edits ...func(*fixture)) []func(*fixture) {
				return append(given(in(tc.phase), func(s *fixture) { s.State.Previous = nil }, follows(0), outstanding("a")), edits...)
			}
			rootLeft := func(d time.Duration) func(*fixture) {
				return func(s *fixture) { s.Now = s.State.Previous[0].Root.NotAfter.Add(-d) }
			}
			decide(t, []decision{
				{"unused, and trusted until it ends", standing(at(0)), tc.unused, "", tc.waits},
				{"its last instant", standing(rootLeft(1)), tc.unused, "", tc.waits},
				{"it has ended", standing(rootLeft(0)), rotation.DropRoots, "", nil},
				{"used for an instant more", standing(untilUnused, at(-1)), rotation.NoMove, "", tc.used},
				{"unused", standing(untilUnused, at(0)), rotation.DropRoots, "", nil},
				{"another one is unused", standing(untilUnused, olderToo(-day), at(-1)), rotation.DropRoots, "", nil},
			})
		})
	}
}

// TestDecideCompromised checks that a compromised CA is distrusted as soon as every certificate is
// reissued and servers have read theirs, no matter how long its certificates would be valid.
func TestDecideCompromised(t *testing.T) {
	retiring := in(v1alpha1.PhaseRetiring)
	reading := []string{"BEFORE: distrusted at 2071-03-14T15:19:26Z, until when servers are given the time to read what ACTIVE signed"}
	reissue := []string{"BEFORE: distrusted as soon as 1 more certificates are reissued: Secret a/b"}
	decide(t, []decision{
		{"servers read what is new", given(retiring, compromised), rotation.NoMove, "", reading},
		{"for an instant more", given(retiring, compromised, at(minimum-1)), rotation.NoMove, "", reading},
		{"they have read it", given(retiring, compromised, at(minimum)), rotation.DropRoots, "", nil},
		{"a certificate has turned up", given(retiring, compromised, outstanding("Secret a/b"), at(minimum)), rotation.NoMove, "", reissue},
		{"its root ends first", given(retiring, compromised, outstanding("Secret a/b"), at(rootEnds)), rotation.DropRoots, "", nil},
		{"a request's certificate is not renewed", given(retiring, compromised, requests("cmctl renew -n shop web"), at(minimum)), rotation.NoMove, "",
			[]string{"BEFORE: distrusted as soon as 1 certificates that requests got are renewed, and at the latest 2071-03-14T16:09:26Z: cmctl renew -n shop web"}},
		{"requests are not known yet", given(retiring, compromised, func(s *fixture) { s.Evidence.RequestsUnknown = true }, at(minimum)), rotation.NoMove, "",
			[]string{"BEFORE: distrusted as soon as the certificates that requests got have been looked at, and at the latest 2071-03-14T16:09:26Z"}},
		{"nor within an hour", given(retiring, compromised, requests("cmctl renew -n shop web"), at(rotation.ReissueTimeout)), rotation.DropRoots, "", nil},
		{"one of two", given(retiring, compromised, olderToo(30*day)), rotation.NoMove, "", append(reading,
			"certificates of CAs before ACTIVE may live in the memory of servers until 2071-04-13T15:09:26Z")},
		{"one of two is forgotten", given(retiring, compromised, olderToo(30*day), at(minimum)), rotation.DropRoots, "", nil},
		{"not while they are reissued", given(in(v1alpha1.PhaseReissuing), compromised, at(minimum)), rotation.Retire, "", nil},
	})
}

// TestDecidePaused checks that Paused stops a rotation in its phase, and that this is reported
// beside what the rotation would wait for anyway.
func TestDecidePaused(t *testing.T) {
	const p = rotation.PausedMessage
	reissuing, retiring := in(v1alpha1.PhaseReissuing), in(v1alpha1.PhaseRetiring)
	publishing, propagating := in(v1alpha1.PhasePublishing), in(v1alpha1.PhasePropagating)
	lacks := "1 targets do not carry the bundle with NEXT yet: a"
	decide(t, []decision{
		{"nothing is due", given(paused), rotation.NoMove, "", nil},
		{"a rotation is due", given(paused, left(1)), rotation.NoMove, "", []string{p}},
		{"the CA has ended", given(paused, left(0)), rotation.NoMove, "", []string{p}},
		{"a trigger", given(paused, trigger("now", compromise)), rotation.NoMove, "", []string{p}},
		{"a root has ended", given(paused, follows(0), at(rootEnds)), rotation.NoMove, "", []string{p}},
		{"due without a successor", given(paused, noSuccessor, left(1)), rotation.NoMove, "",
			[]string{"a rotation is due (ThresholdPassed), and there is no other: put one there"}},
		{"every target has the bundle", given(publishing, paused), rotation.NoMove, "", []string{p}},
		{"a target lacks it", given(publishing, paused, outOfDate("a")), rotation.NoMove, "", []string{p, lacks}},
		{"the next CA has ended", given(publishing, paused, after(lifetime)), rotation.NoMove, "", []string{p}},
		{"nobody is alive", given(publishing, paused, left(0)), rotation.NoMove, "", []string{p}},
		{"clients read it", given(propagating, paused), rotation.NoMove, "", []string{p,
			"every target carries the bundle with NEXT, and until 2071-03-14T15:19:26Z clients are given the time to read it"}},
		{"clients have read it", given(propagating, paused, at(minimum)), rotation.NoMove, "", []string{p}},
		{"certificates are reissued", given(reissuing, paused, outstanding("a")), rotation.NoMove, "",
			[]string{p, "1 certificates of CAs before ACTIVE are not reissued yet: a"}},
		{"all are", given(reissuing, paused), rotation.NoMove, "", []string{p}},
		{"certificates may live", given(retiring, paused), rotation.NoMove, "",
			[]string{p, "certificates of CAs before ACTIVE may live in the memory of servers until 2071-05-13T15:09:26Z"}},
		{"they have ended", given(retiring, paused, at(60*day)), rotation.NoMove, "", []string{p}},
		{"a compromised CA is distrusted", given(retiring, paused, compromised, at(minimum)), rotation.NoMove, "", []string{p}},
	})
}
