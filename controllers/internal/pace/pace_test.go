package pace

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

// now lies far off: a stray time.Now() shows.
var now = time.Date(2071, time.March, 14, 15, 9, 26, 0, time.UTC)

var (
	fought   = types.NamespacedName{Namespace: "shop", Name: "fought"}
	peaceful = types.NamespacedName{Namespace: "shop", Name: "peaceful"}
)

// After a burst a ConfigMap is left alone for a while, and no other ConfigMap with it.
func TestPaceCalmsDown(t *testing.T) {
	var p Pace
	for i := range burst {
		at := now.Add(time.Duration(i) * time.Second)
		if wait := p.Wait(fought, at); wait != 0 {
			t.Fatalf("write %d of %d has to wait for %s", i+1, burst, wait)
		}
		p.Wrote(fought, "bundle", at, nil)
	}
	last := now.Add((burst - 1) * time.Second)
	// In this order: what is asked later makes the pace forget.
	for _, after := range []time.Duration{0, time.Second, calm - 1, calm, time.Hour} {
		if got, want := p.Wait(fought, last.Add(after)), max(0, calm-after); got != want {
			t.Errorf("%s after a burst it is left alone for %s, want %s", after, got, want)
		}
	}
	if wait := p.Wait(peaceful, last); wait != 0 {
		t.Errorf("another ConfigMap is left alone for %s", wait)
	}
}

// Once it was calm, as many writes may follow each other as at first; so a fight costs a burst each time, and no more.
func TestPaceOfALongFight(t *testing.T) {
	var p Pace
	writes, end := 0, now.Add(time.Hour)
	for at := now; at.Before(end); at = at.Add(100 * time.Millisecond) {
		if p.Wait(fought, at) == 0 {
			p.Wrote(fought, "bundle", at, nil)
			writes++
		}
	}
	if most := burst * (1 + int(end.Sub(now)/calm)); writes > most || writes < most/2 {
		t.Errorf("%d writes in an hour, want at most %d, and no standstill", writes, most)
	}
}

// Writes that come singly are never held up, however many they are.
func TestPaceOfRareWrites(t *testing.T) {
	var p Pace
	for i := range 10 * burst {
		at := now.Add(time.Duration(i) * calm)
		if wait := p.Wait(peaceful, at); wait != 0 {
			t.Fatalf("write %d has to wait for %s", i+1, wait)
		}
		p.Wrote(peaceful, "bundle", at, nil)
	}
}

// A CA that rotates again and again fights with nobody: each of its bundles is written at once.
func TestPaceOfRotations(t *testing.T) {
	var p Pace
	for i := range 10 * burst {
		at := now.Add(time.Duration(i) * time.Second)
		if wait := p.Wait(peaceful, at); wait != 0 {
			t.Fatalf("bundle %d has to wait for %s", i+1, wait)
		}
		p.Wrote(peaceful, strconv.Itoa(i), at, nil)
	}
}

// Whoever asks for the bundles of two CAs in turn gets no more writes by it than those of one.
func TestPaceOfTwoCAs(t *testing.T) {
	var p Pace
	writes := 0
	for i := range 10 * burst {
		if p.Wait(fought, now) == 0 {
			p.Wrote(fought, strconv.Itoa(i%2), now, nil)
			writes++
		}
	}
	if most := burst + 1; writes != most {
		t.Errorf("%d writes, want %d", writes, most)
	}
}

// What is long past is forgotten: the ConfigMaps of a cluster's lifetime are not kept.
func TestPaceForgets(t *testing.T) {
	var p Pace
	for i := range 100 {
		p.Wrote(types.NamespacedName{Namespace: "shop", Name: time.Duration(i).String()}, "bundle", now, nil)
	}
	p.Wrote(fought, "bundle", now.Add(calm), nil)
	if len(p.writes) != 1 {
		t.Errorf("%d ConfigMaps are remembered, want 1", len(p.writes))
	}
}

// Several ConfigMaps are written at once.
func TestPaceAtOnce(t *testing.T) {
	var p Pace
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			p.Wait(fought, now)
			p.Wrote(fought, "bundle", now, nil)
		})
	}
	group.Wait()
	if got := p.writes[fought].number; got != 16 {
		t.Errorf("%d writes are counted, want %d", got, 16)
	}
}

// An object that could not be told what stands in its way is hopeless, until it can be; so is one that is fought over.
func TestHopeless(t *testing.T) {
	t.Parallel()
	var p Pace
	if p.Hopeless(peaceful, now) {
		t.Error("it is hopeless from the start")
	}
	p.Told(peaceful, false)
	if !p.Hopeless(peaceful, now) || p.Hopeless(fought, now) {
		t.Error("not exactly the one that could not be told is hopeless")
	}
	p.Told(peaceful, true)
	for range burst {
		p.Wrote(fought, "", now, nil)
	}
	if p.Hopeless(peaceful, now) || !p.Hopeless(fought, now) || p.Hopeless(fought, now.Add(truce)) {
		t.Error("not exactly the one that is fought over is hopeless, until it is calm")
	}
}

// A fight lasts through the pauses that we make, is reported once, and is over when a write has lasted.
func TestFought(t *testing.T) {
	t.Parallel()
	var p Pace
	at := now
	for round := range 3 {
		for range burst {
			if p.Fought(fought, at) > 0 != (round > 0) {
				t.Fatalf("round %d: it is fought over for %s", round, p.Fought(fought, at))
			}
			p.Wrote(fought, "bundle", at, nil)
		}
		p.Blame(fought, "rival")
		if rival, first := p.Rival(fought); first != (round == 0) || rival != "rival" {
			t.Errorf("round %d: %s is told of: %t", round, rival, first)
		}
		at = at.Add(p.Wait(fought, at))
	}
	p.Wrote(fought, "bundle", at, nil)
	if p.Fought(fought, at) != truce || p.Fought(fought, at.Add(truce)) != 0 {
		t.Error("a write that lasts does not end it, or ends it too soon")
	}
	p.Wrote(fought, "bundle", at.Add(truce), nil)
	if rival, tell := p.Rival(fought); p.Fought(fought, at.Add(truce)) != 0 || tell || rival == "rival" {
		t.Error("the next write is one of the fight that was over")
	}
	for range 10 * burst {
		p.Wrote(peaceful, "bundle", now, apierrors.NewForbidden(corev1.Resource("secrets"), "peaceful", nil))
	}
	if p.Fought(peaceful, now) != 0 {
		t.Error("what the API server refuses was not overwritten")
	}
}

// What the API server fails to do, for a while, is nobody's fight; what an object does not take is.
func TestPaceOfFaults(t *testing.T) {
	t.Parallel()
	var p Pace
	for range 10 * burst {
		p.Wrote(peaceful, "", now, errors.New("no route to host"))
		p.Wrote(fought, "", now, apierrors.NewConflict(corev1.Resource("secrets"), "fought", nil))
	}
	if p.Hopeless(peaceful, now) || !p.Hopeless(fought, now) {
		t.Error("not exactly the one that somebody keeps changing is hopeless")
	}
}
