package conflict

import (
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// now is far in the future, so that a stray time.Now() makes a test fail.
var now = time.Date(2071, time.March, 14, 15, 9, 26, 0, time.UTC)

var (
	contestedWrites   = types.NamespacedName{Namespace: "shop", Name: "fought"}
	uncontestedWrites = types.NamespacedName{Namespace: "shop", Name: "peaceful"}
)

// After a burst a ConfigMap is left alone for backoff, and other ConfigMaps are not.
func TestTrackerBacksOff(t *testing.T) {
	var p Tracker
	for i := range burst {
		at := now.Add(time.Duration(i) * time.Second)
		if wait := p.RetryAfter(contestedWrites, at); wait != 0 {
			t.Fatalf("write %d of %d has to wait for %s", i+1, burst, wait)
		}
		p.RecordWrite(contestedWrites, "bundle", at, nil)
	}
	last := now.Add((burst - 1) * time.Second)
	// The times must ascend: a call with a later time removes the history.
	for _, after := range []time.Duration{0, time.Second, backoff - 1, backoff, time.Hour} {
		if got, want := p.RetryAfter(contestedWrites, last.Add(after)), max(0, backoff-after); got != want {
			t.Errorf("%s after a burst it is left alone for %s, want %s", after, got, want)
		}
	}
	if wait := p.RetryAfter(uncontestedWrites, last); wait != 0 {
		t.Errorf("another ConfigMap is left alone for %s", wait)
	}
}

// After each pause as many writes may follow each other as at first, so a long conflict costs one
// burst per backoff and no more.
func TestTrackerOfALongConflict(t *testing.T) {
	var p Tracker
	writes, deadline := 0, now.Add(time.Hour)
	for at := now; at.Before(deadline); at = at.Add(100 * time.Millisecond) {
		if p.RetryAfter(contestedWrites, at) == 0 {
			p.RecordWrite(contestedWrites, "bundle", at, nil)
			writes++
		}
	}
	if most := burst * (1 + int(deadline.Sub(now)/backoff)); writes > most || writes < most/2 {
		t.Errorf("%d writes in an hour, want at most %d, and no standstill", writes, most)
	}
}

// Writes that are at least backoff apart are never held up, however many they are.
func TestTrackerOfRareWrites(t *testing.T) {
	var p Tracker
	for i := range 10 * burst {
		at := now.Add(time.Duration(i) * backoff)
		if wait := p.RetryAfter(uncontestedWrites, at); wait != 0 {
			t.Fatalf("write %d has to wait for %s", i+1, wait)
		}
		p.RecordWrite(uncontestedWrites, "bundle", at, nil)
	}
}

// A CA that rotates again and again is not a conflict: each of its bundles is written at once.
func TestTrackerOfRotations(t *testing.T) {
	var p Tracker
	for i := range 10 * burst {
		at := now.Add(time.Duration(i) * time.Second)
		if wait := p.RetryAfter(uncontestedWrites, at); wait != 0 {
			t.Fatalf("bundle %d has to wait for %s", i+1, wait)
		}
		p.RecordWrite(uncontestedWrites, strconv.Itoa(i), at, nil)
	}
}

// An object that switches between the bundles of two CAs gets only one more write than an object
// with a single bundle.
func TestTrackerOfTwoCAs(t *testing.T) {
	var p Tracker
	writes := 0
	for i := range 10 * burst {
		if p.RetryAfter(contestedWrites, now) == 0 {
			p.RecordWrite(contestedWrites, strconv.Itoa(i%2), now, nil)
			writes++
		}
	}
	if most := burst + 1; writes != most {
		t.Errorf("%d writes, want %d", writes, most)
	}
}

// Expired histories are removed: the ConfigMaps of a cluster's lifetime are not kept in memory.
func TestTrackerForgets(t *testing.T) {
	var p Tracker
	for i := range 100 {
		p.RecordWrite(types.NamespacedName{Namespace: "shop", Name: time.Duration(i).String()}, "bundle", now, nil)
	}
	p.RecordWrite(contestedWrites, "bundle", now.Add(backoff), nil)
	if len(p.writes) != 1 {
		t.Errorf("%d ConfigMaps are remembered, want 1", len(p.writes))
	}
}

// A Tracker is safe for concurrent use.
func TestTrackerConcurrently(t *testing.T) {
	var p Tracker
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			p.RetryAfter(contestedWrites, now)
			p.RecordWrite(contestedWrites, "bundle", now, nil)
		})
	}
	group.Wait()
	if got := p.writes[contestedWrites].count; got != 16 {
		t.Errorf("%d writes are counted, want %d", got, 16)
	}
}

// An object on which problems cannot be reported is unresolvable until they can be; a contested one
// is unresolvable, too.
func TestUnresolvable(t *testing.T) {
	t.Parallel()
	var p Tracker
	if p.Unresolvable(uncontestedWrites, now) {
		t.Error("it is hopeless from the start")
	}
	p.SetReportable(uncontestedWrites, false)
	if !p.Unresolvable(uncontestedWrites, now) || p.Unresolvable(contestedWrites, now) {
		t.Error("not exactly the one that could not be told is hopeless")
	}
	p.SetReportable(uncontestedWrites, true)
	for range burst {
		p.RecordWrite(contestedWrites, "", now, nil)
	}
	if p.Unresolvable(uncontestedWrites, now) || !p.Unresolvable(contestedWrites, now) || p.Unresolvable(contestedWrites, now.Add(resolvedAfter)) {
		t.Error("not exactly the one that is fought over is hopeless, until it is calm")
	}
}

// A conflict lasts through the pauses of the operator, is reported once, and is resolved when a
// write was not undone.
func TestContestedFor(t *testing.T) {
	t.Parallel()
	var p Tracker
	at := now
	for round := range 3 {
		for range burst {
			if p.ContestedFor(contestedWrites, at) > 0 != (round > 0) {
				t.Fatalf("round %d: it is fought over for %s", round, p.ContestedFor(contestedWrites, at))
			}
			p.RecordWrite(contestedWrites, "bundle", at, nil)
		}
		p.SetOtherWriter(contestedWrites, "rival")
		if otherWriter, first := p.ReportOtherWriter(contestedWrites); first != (round == 0) || otherWriter != "rival" {
			t.Errorf("round %d: %s is told of: %t", round, otherWriter, first)
		}
		at = at.Add(p.RetryAfter(contestedWrites, at))
	}
	p.RecordWrite(contestedWrites, "bundle", at, nil)
	if p.ContestedFor(contestedWrites, at) != resolvedAfter || p.ContestedFor(contestedWrites, at.Add(resolvedAfter)) != 0 {
		t.Error("a write that lasts does not end it, or ends it too soon")
	}
	p.RecordWrite(contestedWrites, "bundle", at.Add(resolvedAfter), nil)
	if otherWriter, report := p.ReportOtherWriter(contestedWrites); p.ContestedFor(contestedWrites, at.Add(resolvedAfter)) != 0 || report || otherWriter == "rival" {
		t.Error("the next write is one of the fight that was over")
	}
	for range 10 * burst {
		p.RecordWrite(uncontestedWrites, "bundle", now, apierrors.NewForbidden(corev1.Resource("secrets"), "peaceful", nil))
	}
	if p.ContestedFor(uncontestedWrites, now) != 0 {
		t.Error("what the API server refuses was not overwritten")
	}
}

// Errors of the API server are not counted as conflicts; writes that an object does not keep are.
func TestTrackerIgnoresServerErrors(t *testing.T) {
	t.Parallel()
	var p Tracker
	for range 10 * burst {
		p.RecordWrite(uncontestedWrites, "", now, errors.New("no route to host"))
		p.RecordWrite(contestedWrites, "", now, apierrors.NewConflict(corev1.Resource("secrets"), "fought", nil))
	}
	if p.Unresolvable(uncontestedWrites, now) || !p.Unresolvable(contestedWrites, now) {
		t.Error("not exactly the one that somebody keeps changing is hopeless")
	}
}
