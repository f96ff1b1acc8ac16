package rotation_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// now is far in the future and between two seconds, so that a stray time.Now() or a forgotten
// truncation makes a test fail.
var now = time.Date(2071, time.March, 14, 15, 9, 26, 535897932, time.UTC)

// second is now with the precision of a Secret.
var second = now.Truncate(time.Second)

const (
	day             = 24 * time.Hour
	lifetime        = 790 * day
	rotateBefore    = 395 * day
	minimum         = 10 * time.Minute
	longestDuration = 90 * day
)

func must[T any](t rapid.TB, value T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// generate returns a self-signed CA.
func generate(t rapid.TB, name string, at time.Time, duration time.Duration) *rotation.Signer {
	t.Helper()
	pair, err := pki.GenerateRoot(at, pki.RootSpec{
		CommonName: name, Duration: duration, Key: pki.KeySpec{Algorithm: v1alpha1.ECDSA, Size: 256},
	})
	authority, err := pki.LoadAuthority(must(t, pair, err))
	must(t, authority, err)
	return &rotation.Signer{Authority: authority, Root: authority.Certificate(), Source: rotation.SelfSigned}
}

// fixture is the input of a decision. By default its CA is fifty days old, and nothing is due.
type fixture struct {
	*testing.T
	rotation.Input
}

func newFixture(t *testing.T, edits ...func(*fixture)) *fixture {
	t.Helper()
	s := &fixture{t, rotation.Input{
		Now: now,
		Spec: v1alpha1.CARotation{
			RotateBefore: "9480h", Mode: v1alpha1.RotationAutomatic, TriggerReason: v1alpha1.TriggerRoutine,
			Propagation: v1alpha1.Propagation{Minimum: "10m"}, PreviousTrust: v1alpha1.TrustUntilExpiry,
		},
		State: &rotation.State{
			Phase: v1alpha1.PhaseStable, Since: second.Add(-50 * day), LongestDuration: longestDuration,
			Active: generate(t, "active", now.Add(-50*day), lifetime),
		},
	}}
	for _, edit := range edits {
		edit(s)
	}
	return s
}

// in puts the state into a phase that has just begun: with a next CA before the switch, with a
// predecessor after it.
func in(phase v1alpha1.CAPhase) func(*fixture) {
	return func(s *fixture) {
		s.State.Phase, s.State.Since, s.State.StartedAt, s.State.Reason = phase, second, second, v1alpha1.RotationTriggered
		switch {
		case s.State.IsPreparing():
			s.State.Next = generate(s, "next", now, lifetime)
		case phase != v1alpha1.PhaseStable:
			follows(60 * day)(s)
		}
	}
}

// follows adds a predecessor of the active CA. The predecessor expires in 300 days, and its last
// certificate after signedFor.
func follows(signedFor time.Duration) func(*fixture) {
	return func(s *fixture) {
		before := generate(s, "before", now.Add(-490*day), lifetime)
		s.State.AddPredecessors(rotation.Predecessor{
			Root: before.Root, KeyID: pki.KeyID(before.Root.SubjectKeyId), SignedUntil: second.Add(signedFor),
		})
	}
}

// after sets the time relative to now.
func after(d time.Duration) func(*fixture) { return func(s *fixture) { s.Now = now.Add(d) } }

// at sets the time relative to the start of the phase.
func at(d time.Duration) func(*fixture) { return func(s *fixture) { s.Now = second.Add(d) } }

// left sets the time so that this much of the active CA's lifetime is left.
func left(d time.Duration) func(*fixture) {
	return func(s *fixture) { s.Now = s.State.Active.NotAfter().Add(-d) }
}

func trigger(value string, reason v1alpha1.TriggerReason) func(*fixture) {
	return func(s *fixture) { s.Spec.Trigger, s.Spec.TriggerReason = value, reason }
}

func cause(reason v1alpha1.RotationReason) func(*fixture) {
	return func(s *fixture) { s.Cause = reason }
}

func outOfDate(names ...string) func(*fixture) {
	return func(s *fixture) { s.Evidence.OutOfDate, s.Evidence.OutOfDateNames = int32(len(names)), names }
}

func outstanding(names ...string) func(*fixture) {
	return func(s *fixture) { s.Evidence.Outstanding, s.Evidence.OutstandingNames = int32(len(names)), names }
}

func requests(renew ...string) func(*fixture) {
	return func(s *fixture) { s.Evidence.Requests, s.Evidence.RequestNames = int32(len(renew)), renew }
}

func paused(s *fixture)      { s.Spec.Mode = v1alpha1.RotationPaused }
func untilUnused(s *fixture) { s.Spec.PreviousTrust = v1alpha1.TrustUntilUnused }
func keyLost(s *fixture)     { s.State.Active = nil }
func restored(s *fixture)    { s.State.Restored = true }
func compromised(s *fixture) {
	for i := range s.State.Previous {
		s.State.Previous[i].Compromised = true
	}
}

func noSuccessor(s *fixture) { s.NoSuccessor = "there is no other: put one there" }

// decided returns the decision, with the names of the CAs replaced by their roles.
func (f *fixture) decided() rotation.Decision {
	f.Helper()
	var names []string
	for role, signer := range map[string]*rotation.Signer{"ACTIVE": f.State.Active, "NEXT": f.State.Next} {
		if signer != nil {
			names = append(names, signer.Name(), role)
		}
	}
	for _, p := range f.State.Previous {
		names = append(names, pki.NameOf(p.Root), "BEFORE")
	}
	decision := rotation.Decide(f.Input)
	for i, sentence := range decision.BlockedBy {
		decision.BlockedBy[i] = strings.NewReplacer(names...).Replace(sentence)
	}
	return decision
}

// move executes the decision. It fails the test if the move is not the expected one.
func (f *fixture) move(want rotation.Move, next *rotation.Signer) {
	f.Helper()
	decision := rotation.Decide(f.Input)
	if decision.Move != want {
		f.Fatalf("at %s in %s: the move is %q, blocked by %q; want %q", f.Now, f.State.Phase, decision.Move, decision.BlockedBy, want)
	}
	moved, err := f.Move(decision, next, time.Hour)
	f.State = must(f, moved, err)
}
