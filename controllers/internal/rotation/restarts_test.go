package rotation_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

func clients(names ...string) func(*fixture) {
	return func(s *fixture) {
		s.Evidence.Restarts.Clients, s.Evidence.Restarts.ClientNames = int32(len(names)), names
	}
}

func servers(held int32, names ...string) func(*fixture) {
	return func(s *fixture) {
		s.Evidence.Restarts.Servers, s.Evidence.Restarts.ServerNames, s.Evidence.Restarts.HeldServers = int32(len(names)), names, held
	}
}

func unknownRestarts(s *fixture) { s.Evidence.Restarts.Unknown = true }
func urgent(s *fixture)          { s.State.Compromise = true }
func changing(s *fixture)        { s.State.TrustChanging = true }

// TestDecideClients checks that the switch waits for restarts of the clients that do not reload the
// bundle, but not after a compromise, and not so long that the CA would expire first.
func TestDecideClients(t *testing.T) {
	propagating := in(v1alpha1.PhasePropagating)
	waitsUntil := func(until string) []string {
		return []string{"1 workloads that have not read the bundle with NEXT are going to be restarted, and are waited for until " + until + " at the latest: Deployment shop/web"}
	}
	waits, waitsInHurry := waitsUntil("2071-03-15T15:09:26Z"), waitsUntil("2072-09-07T03:09:26Z")
	const half = rotateBefore / 2
	late := func(s *fixture) { s.State.Since = s.State.Active.NotAfter().Add(-half - time.Hour) }
	decide(t, []decision{
		{"a client has not restarted", given(propagating, after(minimum), clients("Deployment shop/web")), rotation.NoMove, "", waits},
		{"nobody has looked", given(propagating, after(minimum), unknownRestarts), rotation.NoMove, "", []string{"the workloads that read the bundle are being looked at"}},
		{"all have restarted", given(propagating, after(minimum)), rotation.Switch, "", nil},
		{"a server has not", given(propagating, after(minimum), servers(0, "Deployment shop/web")), rotation.Switch, "", nil},
		{"the key was compromised", given(propagating, after(minimum), urgent, clients("Deployment shop/web"), unknownRestarts), rotation.Switch, "", nil},
		{"the last instant of waiting", given(propagating, at(rotation.RestartTimeout-1), clients("Deployment shop/web")), rotation.NoMove, "", waits},
		{"nobody waits any longer", given(propagating, at(rotation.RestartTimeout), clients("Deployment shop/web")), rotation.Switch, "", nil},
		{"nobody has looked for a day", given(propagating, at(rotation.RestartTimeout), unknownRestarts), rotation.Switch, "", nil},
		{"the CA is about to end", given(propagating, late, left(half+1), clients("Deployment shop/web")), rotation.NoMove, "", waitsInHurry},
		{"it cannot wait any longer", given(propagating, late, left(half), clients("Deployment shop/web")), rotation.Switch, "", nil},
		{"nobody can sign, for an hour", given(propagating, keyLost, olderToo(day), at(minimum+rotation.ReissueTimeout-1), clients("Deployment shop/web")), rotation.NoMove, "",
			[]string{"1 workloads that have not read the bundle with NEXT are going to be restarted, and are waited for until 2071-03-14T16:19:26Z at the latest: Deployment shop/web"}},
		{"nobody can sign any longer", given(propagating, keyLost, olderToo(day), at(minimum+rotation.ReissueTimeout), clients("Deployment shop/web")), rotation.Switch, "", nil},
	})
}

// TestDecideServers checks that the distrust of a compromised CA waits for restarts of the servers
// that hold its certificates: only for those that policies restart now, and for a day at most. A
// rotation without a compromise only reports them.
func TestDecideServers(t *testing.T) {
	retiring := given(in(v1alpha1.PhaseRetiring), compromised, urgent)
	decide(t, []decision{
		{"a server has not restarted", slices.Concat(retiring, given(at(minimum), servers(0, "Deployment shop/web"))), rotation.NoMove, "", []string{
			"BEFORE: distrusted as soon as 1 workloads are restarted that hold older certificates (Deployment shop/web), and at the latest 2071-03-15T15:09:26Z"}},
		{"nobody has looked", slices.Concat(retiring, given(at(minimum), unknownRestarts)), rotation.NoMove, "", []string{
			"BEFORE: distrusted as soon as the workloads that hold older certificates have been looked at, and at the latest 2071-03-15T15:09:26Z"}},
		{"its window is closed", slices.Concat(retiring, given(at(minimum), servers(1, "Deployment shop/web"))), rotation.DropRoots, "", nil},
		{"a day is over", slices.Concat(retiring, given(at(rotation.RestartTimeout), servers(0, "Deployment shop/web"))), rotation.DropRoots, "", nil},
		{"a client has not restarted", slices.Concat(retiring, given(at(minimum), clients("Deployment shop/web"))), rotation.DropRoots, "", nil},
		{"no hurry", given(in(v1alpha1.PhaseRetiring), servers(0, "Deployment shop/web")), rotation.NoMove, "", []string{
			"certificates of CAs before ACTIVE may live in the memory of servers until 2071-05-13T15:09:26Z",
			"1 workloads hold older certificates than their Secrets, and are going to be restarted: Deployment shop/web"}},
		{"no hurry, and all has ended", given(in(v1alpha1.PhaseRetiring), at(60*day), servers(0, "Deployment shop/web")), rotation.Complete, "", nil},
	})
}

// TestTrustChanged checks that processes must read the bundle again when a root was added, or a
// compromised one was dropped, once every target carries the change. They need not when an expired
// root was dropped.
func TestTrustChanged(t *testing.T) {
	s := newFixture(t, trigger("now", v1alpha1.TriggerRoutine))
	never := func(what string) {
		t.Helper()
		if !s.State.TrustChangedAt.IsZero() {
			t.Errorf("%s, processes had to read at %s", what, s.State.TrustChangedAt)
		}
	}
	never("before the first rotation")
	s.move(rotation.Begin, generate(t, "next", now, lifetime))
	never("as long as it is published")
	s.Now = s.Now.Add(time.Minute)
	s.move(rotation.Propagate, nil)
	changed := s.State.TrustChangedAt
	if !changed.Equal(second.Add(time.Minute)) || s.State.TrustChanging {
		t.Errorf("processes have to read at %s, want one minute after %s", changed, second)
	}
	s.Now = s.Now.Add(time.Hour)
	s.move(rotation.Switch, nil)
	s.move(rotation.Retire, nil)
	s.Now = s.State.Previous[0].SignedUntil
	s.move(rotation.Complete, nil)
	s.Now = s.State.Previous[0].Root.NotAfter
	s.Spec.RotateBefore = "1h"
	s.move(rotation.DropRoots, nil)
	if !s.State.TrustChangedAt.Equal(changed) || s.State.TrustChanging {
		t.Errorf("an ended root was dropped, and processes have to read at %s", s.State.TrustChangedAt)
	}
}

// TestTrustChangedByDistrust checks that the change is recorded when every target carries the
// bundle without the compromised roots.
func TestTrustChangedByDistrust(t *testing.T) {
	s := newFixture(t, in(v1alpha1.PhaseRetiring), compromised, urgent, at(minimum))
	s.move(rotation.DropRoots, nil)
	outOfDate("ConfigMap a/b")(s)
	s.move(rotation.Complete, nil)
	if !s.State.TrustChangedAt.IsZero() {
		t.Fatal("a target still carries the root")
	}
	outOfDate()(s)
	s.Now = s.Now.Add(time.Minute)
	s.move(rotation.RecordPropagated, nil)
	if want := second.Add(minimum + time.Minute); !s.State.TrustChangedAt.Equal(want) {
		t.Errorf("processes have to read at %s, want %s", s.State.TrustChangedAt, want)
	}
	s.move(rotation.NoMove, nil)
}

// TestTrustChanging checks that TrustChanging is set from when a root is added that processes must
// trust, or one is dropped that they must not trust, until every target carries the change; and
// only then.
func TestTrustChanging(t *testing.T) {
	ended := func(s *fixture) { s.State.Next = generate(s, "ended", now.Add(-2*time.Hour), time.Hour) }
	for _, tc := range []struct {
		name  string
		given []func(*fixture)
		move  rotation.Move
		// changing is the expected TrustChanging; changed is whether a change has just reached
		// every target.
		changing, changed bool
	}{
		{"a root is added", given(trigger("now", routine)), rotation.Begin, true, false},
		{"another, for the first has ended", given(in(v1alpha1.PhasePropagating), ended), rotation.Begin, true, false},
		{"another, while one is dropped", given(in(v1alpha1.PhaseRetiring), trigger("now", routine), changing), rotation.Begin, true, false},
		{"every target carries it", given(in(v1alpha1.PhasePublishing), changing), rotation.Propagate, false, true},
		{"nobody held anything before", given(in(v1alpha1.PhasePublishing)), rotation.Propagate, false, false},
		{"nothing is alive", given(in(v1alpha1.PhasePublishing), keyLost, changing), rotation.Switch, true, false},
		{"it signs, and every target carries it", given(in(v1alpha1.PhaseReissuing), changing), rotation.RecordPropagated, false, true},
		{"a target does not, and reissuing goes on", given(in(v1alpha1.PhaseReissuing), changing, outOfDate("a")), rotation.Retire, true, false},
		{"at rest, every target carries it", given(changing), rotation.RecordPropagated, false, true},
		{"at rest, a target does not", given(changing, outOfDate("a")), rotation.NoMove, true, false},
		{"paused", given(changing, paused), rotation.NoMove, true, false},
		{"a compromised root is dropped", given(in(v1alpha1.PhaseRetiring), compromised, urgent, at(minimum)), rotation.DropRoots, true, false},
		{"one that has ended", given(in(v1alpha1.PhaseRetiring), compromised, at(rootEnds)), rotation.DropRoots, false, false},
		{"an unused one", given(in(v1alpha1.PhaseRetiring), untilUnused, at(60*day)), rotation.DropRoots, false, false},
		{"an unused one that was compromised", given(in(v1alpha1.PhaseReissuing), compromised, untilUnused, at(60*day)), rotation.DropRoots, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newFixture(t, tc.given...)
			s.move(tc.move, generate(t, "another", s.Now, lifetime))
			if s.State.TrustChanging != tc.changing || s.State.TrustChangedAt.IsZero() == tc.changed {
				t.Errorf("a change is on its way: %t, and came %s; want %t, %t", s.State.TrustChanging, s.State.TrustChangedAt, tc.changing, tc.changed)
			}
		})
	}
}

// TestTrustChangedLater checks that TrustChangedAt never goes back, whatever the clock says, and
// has no fraction of a second.
func TestTrustChangedLater(t *testing.T) {
	s := newFixture(t, changing, func(s *fixture) { s.State.TrustChangedAt = second.Add(time.Hour) })
	s.move(rotation.RecordPropagated, nil)
	if got := s.State.TrustChangedAt; !got.Equal(second.Add(time.Hour)) {
		t.Errorf("it went back to %s", got)
	}
	changing(s)
	s.Now = now.Add(2 * time.Hour)
	s.move(rotation.RecordPropagated, nil)
	if got := s.State.TrustChangedAt; !got.Equal(second.Add(2 * time.Hour)) {
		t.Errorf("it came %s, want %s", got, second.Add(2*time.Hour))
	}
}

// TestTrustChangedIsKept checks that the Secret holds TrustChangedAt and TrustChanging.
func TestTrustChangedIsKept(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.State.TrustChangedAt, s.State.TrustChanging = second, true })
	secret := write(t, s.State)
	if got := read(t, secret); !got.TrustChangedAt.Equal(second) || !got.TrustChanging {
		t.Errorf("the Secret says %s and %t", got.TrustChangedAt, got.TrustChanging)
	}
	secret = write(t, newFixture(t).State)
	if kept := string(secret.Data[rotation.RecordKey]); strings.Contains(kept, "trustChang") {
		t.Errorf("the record of a first CA is %s", kept)
	}
	if got := read(t, secret); !got.TrustChangedAt.IsZero() || got.TrustChanging {
		t.Errorf("a Secret that says nothing says %s and %t", got.TrustChangedAt, got.TrustChanging)
	}
}
