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

// now lies far off, and between two seconds: a stray time.Now() shows, and so does a forgotten truncation.
var now = time.Date(2071, time.March, 14, 15, 9, 26, 535897932, time.UTC)

// second is now as a Secret holds it.
var second = now.Truncate(time.Second)

const (
	day          = 24 * time.Hour
	lifetime     = 790 * day
	rotateBefore = 395 * day
	minimum      = 10 * time.Minute
	longest      = 90 * day
)

func must[T any](t rapid.TB, value T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// generate is a CA of our own.
func generate(t rapid.TB, name string, at time.Time, lasts time.Duration) *rotation.Signer {
	t.Helper()
	pair, err := pki.GenerateRoot(at, pki.RootSpec{
		CommonName: name, Duration: lasts, Key: pki.KeySpec{Algorithm: v1alpha1.ECDSA, Size: 256},
	})
	authority, err := pki.LoadAuthority(must(t, pair, err))
	must(t, authority, err)
	return &rotation.Signer{Authority: authority, Root: authority.Certificate(), Source: rotation.SelfSigned}
}

// scene is all that decides. Its CA is fifty days old, with nothing due.
type scene struct {
	*testing.T
	rotation.Input
}

func newScene(t *testing.T, edits ...func(*scene)) *scene {
	t.Helper()
	s := &scene{t, rotation.Input{
		Now: now,
		Spec: v1alpha1.CARotation{
			RotateBefore: "9480h", Mode: v1alpha1.RotationAutomatic, TriggerReason: v1alpha1.TriggerRoutine,
			Propagation: v1alpha1.Propagation{Minimum: "10m"}, PreviousTrust: v1alpha1.TrustUntilExpiry,
		},
		State: &rotation.State{
			Phase: v1alpha1.PhaseStable, Since: second.Add(-50 * day), Longest: longest,
			Active: generate(t, "active", now.Add(-50*day), lifetime),
		},
	}}
	for _, edit := range edits {
		edit(s)
	}
	return s
}

// in puts the state into a phase that began just now: with a next CA before the switch, with one before it after.
func in(phase v1alpha1.CAPhase) func(*scene) {
	return func(s *scene) {
		s.State.Phase, s.State.Since, s.State.StartedAt, s.State.Reason = phase, second, second, v1alpha1.RotationTriggered
		switch {
		case s.State.Preparing():
			s.State.Next = generate(s, "next", now, lifetime)
		case phase != v1alpha1.PhaseStable:
			follows(60 * day)(s)
		}
	}
}

// follows adds a CA before the active one, which ends in 300 days, and whose last certificate ends after some time.
func follows(signedFor time.Duration) func(*scene) {
	return func(s *scene) {
		before := generate(s, "before", now.Add(-490*day), lifetime)
		s.State.Know(rotation.Predecessor{
			Root: before.Root, KeyID: pki.KeyID(before.Root.SubjectKeyId), SignedUntil: second.Add(signedFor),
		})
	}
}

// after lets time go by since now.
func after(d time.Duration) func(*scene) { return func(s *scene) { s.Now = now.Add(d) } }

// at is a time relative to the start of the phase.
func at(d time.Duration) func(*scene) { return func(s *scene) { s.Now = second.Add(d) } }

// left is a time at which so much is left of the active CA.
func left(d time.Duration) func(*scene) {
	return func(s *scene) { s.Now = s.State.Active.NotAfter().Add(-d) }
}

func trigger(value string, reason v1alpha1.TriggerReason) func(*scene) {
	return func(s *scene) { s.Spec.Trigger, s.Spec.TriggerReason = value, reason }
}

func cause(reason v1alpha1.RotationReason) func(*scene) { return func(s *scene) { s.Cause = reason } }

func behind(names ...string) func(*scene) {
	return func(s *scene) { s.Evidence.Behind, s.Evidence.BehindNames = int32(len(names)), names }
}

func outstanding(names ...string) func(*scene) {
	return func(s *scene) { s.Evidence.Outstanding, s.Evidence.OutstandingNames = int32(len(names)), names }
}

func requests(renew ...string) func(*scene) {
	return func(s *scene) { s.Evidence.Requests, s.Evidence.RequestNames = int32(len(renew)), renew }
}

func paused(s *scene)      { s.Spec.Mode = v1alpha1.RotationPaused }
func untilUnused(s *scene) { s.Spec.PreviousTrust = v1alpha1.TrustUntilUnused }
func keyLost(s *scene)     { s.State.Active = nil }
func restored(s *scene)    { s.State.Restored = true }
func compromised(s *scene) {
	for i := range s.State.Previous {
		s.State.Previous[i].Compromised = true
	}
}

func noSuccessor(s *scene) { s.NoSuccessor = "there is no other: put one there" }

// decided is a decision with the names of the CAs replaced by what they are here.
func (s *scene) decided() rotation.Decision {
	s.Helper()
	var names []string
	for role, signer := range map[string]*rotation.Signer{"ACTIVE": s.State.Active, "NEXT": s.State.Next} {
		if signer != nil {
			names = append(names, signer.Name(), role)
		}
	}
	for _, p := range s.State.Previous {
		names = append(names, pki.NameOf(p.Root), "BEFORE")
	}
	decision := rotation.Decide(s.Input)
	for i, sentence := range decision.BlockedBy {
		decision.BlockedBy[i] = strings.NewReplacer(names...).Replace(sentence)
	}
	return decision
}

// move carries out what is decided, and fails where that is something else.
func (s *scene) move(want rotation.Move, next *rotation.Signer) {
	s.Helper()
	decision := rotation.Decide(s.Input)
	if decision.Move != want {
		s.Fatalf("at %s in %s: the move is %q, blocked by %q; want %q", s.Now, s.State.Phase, decision.Move, decision.BlockedBy, want)
	}
	moved, err := s.Move(decision, next, time.Hour)
	s.State = must(s, moved, err)
}
