package servingcert

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// quick is a kind of key that takes almost no time to generate.
var quick = pki.KeySpec{Algorithm: v1alpha1.Ed25519}

// fakeQueue records which Services are enqueued for reconciliation.
type fakeQueue struct {
	workqueue.TypedRateLimitingInterface[reconcile.Request]

	at []string
}

func (q *fakeQueue) Add(request reconcile.Request) { q.at = append(q.at, request.Name) }

// newTestQueue returns a KeyQueue for two cores with both of its queues bound, the queue for
// reconciliation, and the GC percentages that were set.
func newTestQueue(t *testing.T) (*KeyQueue, *fakeQueue, *[]int) {
	t.Helper()
	percents, reconciles := []int{40}, &fakeQueue{}
	l := newKeyQueue(2, pki.NewKey, func(percent int) int {
		percents = append(percents, percent)
		return percents[len(percents)-2]
	})
	queue := priorityqueue.New[reconcile.Request]("line")
	t.Cleanup(queue.ShutDown)
	if err := l.bindReconcileQueue(t.Context(), reconciles); err != nil {
		t.Fatal(err)
	}
	if err := l.bindKeyQueue(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	return l, reconciles, &percents
}

func named(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "shop", Name: name}
}

func (q *KeyQueue) generateFor(t *testing.T, name string) {
	t.Helper()
	if _, err := q.Reconcile(t.Context(), reconcile.Request{NamespacedName: named(name)}); err != nil {
		t.Error(err)
	}
}

// Urgent Services are served before all others, including those that become urgent while they wait
// and those that were enqueued before the queue was bound.
func TestKeyQueuePriority(t *testing.T) {
	t.Parallel()
	l, _, _ := newTestQueue(t)
	open := l.queue
	l.queue = nil
	l.enqueue(named("early, and reissued"), quick, false)
	l.enqueue(named("early"), quick, true)
	if err := l.bindKeyQueue(t.Context(), open); err != nil {
		t.Fatal(err)
	}
	next := func() string {
		request, _ := open.Get()
		return request.Name
	}
	if early := []string{next(), next()}; early[0] != "early" {
		t.Errorf("the first are %q", early)
	}
	l.enqueue(named("reissued"), quick, false)
	l.enqueue(named("reissued, too"), quick, false)
	l.enqueue(named("ending"), quick, false)
	l.enqueue(named("new"), quick, true)
	l.enqueue(named("ending"), quick, true)
	order := []string{next(), next()}
	slices.Sort(order)
	order = append(order, next(), next())
	if want := []string{"ending", "new", "reissued", "reissued, too"}; !slices.Equal(order, want) {
		t.Errorf("the order is %q, want %q", order, want)
	}
}

func TestKeyQueueNeedsPriorityQueue(t *testing.T) {
	t.Parallel()
	plain := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	t.Cleanup(plain.ShutDown)
	if newKeyQueue(2, pki.NewKey, nil).bindKeyQueue(t.Context(), plain) == nil {
		t.Error("it opened with a queue that has no priorities")
	}
}

// A key is generated once, of the kind that is wanted last, and taken once. No key is generated for
// a Service that no longer wants one.
func TestKeyQueueGenerates(t *testing.T) {
	t.Parallel()
	other := pki.KeySpec{Algorithm: v1alpha1.ECDSA, Size: 256}
	l, reconciles, _ := newTestQueue(t)
	l.enqueue(named("web"), quick, true)
	l.generateFor(t, "web")
	l.generateFor(t, "web")
	if !slices.Equal(reconciles.at, []string{"web"}) {
		t.Errorf("looked at: %q", reconciles.at)
	}
	if key := l.take(named("web")); !key.HasSpec(quick) {
		t.Error("the key is not there, or of another kind")
	}
	if l.take(named("web")) != nil {
		t.Error("the key was there twice")
	}
	l.enqueue(named("web"), quick, true)
	l.take(named("web"))
	l.generateFor(t, "web")
	if len(l.keys) != 0 || len(reconciles.at) != 1 {
		t.Errorf("a key was made that nobody wants; looked at: %q", reconciles.at)
	}
	// The Service is reconciled while its key is generated, and wants the same kind of key again.
	l.newKey = func(spec pki.KeySpec) (*pki.Key, error) {
		l.take(named("web"))
		l.enqueue(named("web"), quick, true)
		return pki.NewKey(spec)
	}
	l.enqueue(named("web"), quick, true)
	l.generateFor(t, "web")
	if !l.take(named("web")).HasSpec(quick) || !slices.Equal(reconciles.at, []string{"web", "web"}) {
		t.Errorf("his key is not there; looked at: %q", reconciles.at)
	}
	reconciles.at = reconciles.at[:1]
	// The Service is reconciled while its key is generated, and wants another kind of key.
	l.newKey = func(spec pki.KeySpec) (*pki.Key, error) {
		if spec == quick {
			l.take(named("web"))
			l.enqueue(named("web"), other, true)
		}
		return pki.NewKey(spec)
	}
	l.enqueue(named("web"), quick, true)
	l.generateFor(t, "web")
	if len(l.keys) != 0 || len(reconciles.at) != 1 {
		t.Errorf("the key of the first wish is handed out; looked at: %q", reconciles.at)
	}
	l.generateFor(t, "web")
	if !l.take(named("web")).HasSpec(other) || len(reconciles.at) != 2 || len(l.pending) != 0 {
		t.Errorf("the key of the last wish is not there; looked at: %q; wanted: %v", reconciles.at, l.pending)
	}
}

// While many keys are wanted, generated keys are handed out in batches and the GC percentage is
// raised. When few are left, keys are handed out at once and the GC percentage is restored.
func TestKeyQueueBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, reconciles, percents := newTestQueue(t)
		for i := range 10 {
			l.enqueue(named(fmt.Sprint(i)), quick, true)
		}
		check := func(when string, looked int, wantPercents ...int) {
			t.Helper()
			synctest.Wait()
			l.mu.Lock()
			defer l.mu.Unlock()
			if len(reconciles.at) != looked || !slices.Equal(*percents, wantPercents) {
				t.Errorf("%s: %d are looked at, want %d; garbage may grow by %v, want %v", when, len(reconciles.at), looked, *percents, wantPercents)
			}
		}
		for i := range 3 {
			l.generateFor(t, fmt.Sprint(i))
		}
		check("at first", 0, 40, burstGCPercent)
		time.Sleep(batchDelay)
		check("together", 3, 40, burstGCPercent)
		for i := range 4 {
			l.generateFor(t, fmt.Sprint(i+3))
		}
		check("three are left", 7, 40, burstGCPercent)
		l.generateFor(t, "7")
		l.generateFor(t, "8")
		check("one is left", 9, 40, burstGCPercent, 40)
		l.generateFor(t, "9")
		time.Sleep(2 * batchDelay)
		check("none is left", 10, 40, burstGCPercent, 40)
	})
}

// However many urgent Services wait, one of every few keys goes to a Service that is not urgent.
func TestKeyQueuePromotes(t *testing.T) {
	t.Parallel()
	l, reconciles, _ := newTestQueue(t)
	for i := range 2 {
		l.enqueue(named("reissued"+fmt.Sprint(i)), quick, false)
	}
	for i := range 10 * fairShare {
		l.enqueue(named("urgent"+fmt.Sprint(i)), quick, true)
	}
	var turns []int
	for i := range 3 * fairShare {
		request, _ := l.queue.Get()
		l.generateFor(t, request.Name)
		l.queue.Done(request)
		if strings.HasPrefix(request.Name, "reissued") {
			turns = append(turns, i)
		}
	}
	if want := []int{fairShare, 2 * fairShare}; !slices.Equal(turns, want) {
		t.Errorf("their turns were %d, want %d; looked at: %q", turns, want, reconciles.at)
	}
}

// Above maxReady keys that no reconciliation has taken, only urgent keys are generated, and above
// twice as many none. Keys that were put back because the API server failed do not count.
func TestKeyQueueIsBounded(t *testing.T) {
	t.Parallel()
	l, _, _ := newTestQueue(t)
	l.newKey = func(pki.KeySpec) (*pki.Key, error) { return &pki.Key{}, nil }
	for i := range 3 * maxReady {
		l.putBack(named("back"+fmt.Sprint(i)), &pki.Key{})
	}
	makes := func(name string, urgent bool) bool {
		l.enqueue(named(name), quick, urgent)
		result, err := l.Reconcile(t.Context(), reconcile.Request{NamespacedName: named(name)})
		if err != nil {
			t.Error(err)
		}
		return result.RequeueAfter == 0
	}
	for i := range 2 * maxReady {
		name := fmt.Sprint(i)
		if made := makes("reissued"+name, false); made != (i < maxReady) {
			t.Fatalf("while %d wait, one that is not urgent is made: %t", i, made)
		}
		if i >= maxReady && !makes("urgent"+name, true) {
			t.Fatalf("while %d wait, one that is urgent is not made", i)
		}
	}
	if makes("urgent", true) {
		t.Error("there is no end")
	}
	l.take(named("reissued0"))
	if !makes("urgent", true) {
		t.Error("one was taken, and no other is made")
	}
}
