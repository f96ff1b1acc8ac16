package trust

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/servingcert/operator/api/v1alpha1"
)

// now lies far off: a stray time.Now() shows.
var now = time.Date(2071, time.March, 14, 15, 9, 26, 0, time.UTC)

var (
	fought   = types.NamespacedName{Namespace: "shop", Name: "fought"}
	peaceful = types.NamespacedName{Namespace: "shop", Name: "peaceful"}
)

// After a burst a ConfigMap is left alone for a while, and no other ConfigMap with it.
func TestPaceCalmsDown(t *testing.T) {
	var p pace
	for i := range burst {
		at := now.Add(time.Duration(i) * time.Second)
		if wait := p.wait(fought, at); wait != 0 {
			t.Fatalf("write %d of %d has to wait for %s", i+1, burst, wait)
		}
		p.write(fought, "bundle", at)
	}
	last := now.Add((burst - 1) * time.Second)
	for after, want := range map[time.Duration]time.Duration{0: calm, time.Second: calm - time.Second, calm - 1: 1, calm: 0, time.Hour: 0} {
		if got := p.wait(fought, last.Add(after)); got != want {
			t.Errorf("%s after a burst it is left alone for %s, want %s", after, got, want)
		}
	}
	if wait := p.wait(peaceful, last); wait != 0 {
		t.Errorf("another ConfigMap is left alone for %s", wait)
	}
}

// Once it was calm, as many writes may follow each other as at first; so a fight costs a burst each time, and no more.
func TestPaceOfALongFight(t *testing.T) {
	var p pace
	writes, end := 0, now.Add(time.Hour)
	for at := now; at.Before(end); at = at.Add(100 * time.Millisecond) {
		if p.wait(fought, at) == 0 {
			p.write(fought, "bundle", at)
			writes++
		}
	}
	if most := burst * (1 + int(end.Sub(now)/calm)); writes > most || writes < most/2 {
		t.Errorf("%d writes in an hour, want at most %d, and no standstill", writes, most)
	}
}

// Writes that come singly are never held up, however many they are.
func TestPaceOfRareWrites(t *testing.T) {
	var p pace
	for i := range 10 * burst {
		at := now.Add(time.Duration(i) * calm)
		if wait := p.wait(peaceful, at); wait != 0 {
			t.Fatalf("write %d has to wait for %s", i+1, wait)
		}
		p.write(peaceful, "bundle", at)
	}
}

// A CA that rotates again and again fights with nobody: each of its bundles is written at once.
func TestPaceOfRotations(t *testing.T) {
	var p pace
	for i := range 10 * burst {
		at := now.Add(time.Duration(i) * time.Second)
		if wait := p.wait(peaceful, at); wait != 0 {
			t.Fatalf("bundle %d has to wait for %s", i+1, wait)
		}
		p.write(peaceful, strconv.Itoa(i), at)
	}
}

// Whoever asks for the bundles of two CAs in turn gets no more writes by it than those of one.
func TestPaceOfTwoCAs(t *testing.T) {
	var p pace
	writes := 0
	for i := range 10 * burst {
		if p.wait(fought, now) == 0 {
			p.write(fought, strconv.Itoa(i%2), now)
			writes++
		}
	}
	if most := burst + 1; writes != most {
		t.Errorf("%d writes, want %d", writes, most)
	}
}

// What is long past is forgotten: the ConfigMaps of a cluster's lifetime are not kept.
func TestPaceForgets(t *testing.T) {
	var p pace
	for i := range 100 {
		p.write(types.NamespacedName{Namespace: "shop", Name: time.Duration(i).String()}, "bundle", now)
	}
	p.write(fought, "bundle", now.Add(calm))
	if len(p.writes) != 1 {
		t.Errorf("%d ConfigMaps are remembered, want 1", len(p.writes))
	}
}

// Several ConfigMaps are written at once.
func TestPaceAtOnce(t *testing.T) {
	var p pace
	var group sync.WaitGroup
	for range concurrency {
		group.Go(func() {
			p.wait(fought, now)
			p.write(fought, "bundle", now)
		})
	}
	group.Wait()
	if got := p.writes[fought].number; got != concurrency {
		t.Errorf("%d writes are counted, want %d", got, concurrency)
	}
}

// Whoever was left alone is looked at again, when it has been calm for long enough.
func TestPaceComesBack(t *testing.T) {
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: fought.Namespace, Name: fought.Name, Annotations: map[string]string{v1alpha1.AnnotationInjectCABundle: "default"},
	}}
	c := fake.NewClientBuilder().WithObjects(configMap).Build()
	r := &Reconciler{kind: ConfigMaps, cache: c, targets: c, live: c, clock: clocktesting.NewFakePassiveClock(now.Add(time.Second))}
	for range burst {
		r.pace.write(fought, "bundle", now)
	}
	result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: fought})
	if err != nil || result.RequeueAfter != calm-time.Second {
		t.Errorf("it is looked at again after %s (%v), want %s", result.RequeueAfter, err, calm-time.Second)
	}
}

// The same names are told in whichever order they come, so that a status does not change for nothing.
func TestSome(t *testing.T) {
	t.Parallel()
	var forwards, backwards []string
	for i := range 26 {
		forwards = Some(forwards, string(rune('a'+i)))
		backwards = Some(backwards, string(rune('z'-i)))
	}
	if want := strings.Split("abcdefghij", ""); !slices.Equal(forwards, want) || !slices.Equal(backwards, want) {
		t.Errorf("%v and %v are told, want %v", forwards, backwards, want)
	}
}
