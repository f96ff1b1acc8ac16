package servingcert

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/retry"
)

const (
	// batchDelay is for how long a key that is made waits for others while many are wanted: what comes together costs the API server a third less than
	// what comes one by one.
	batchDelay = 250 * time.Millisecond
	// burstGCPercent is the percentage of what is in use by which garbage may grow while many keys are made: an RSA key leaves half a MiB of it, and all
	// that comes besides leaves little.
	burstGCPercent = 100
	// maxReady is how many keys are made that wait for their look, before only urgent ones are, and twice as many before none is.
	maxReady = 1000
	// fairShare is of how many keys one is made for somebody who can wait, however many cannot.
	fairShare = 5
)

// entry is that of a Service in the line.
type entry struct {
	spec pki.KeySpec
	// urgent: it does not wait behind those that are not.
	urgent bool
}

// KeyQueue is where Services wait whose private key takes long to make, so that no other Service waits behind them. A controller makes the keys and nothing
// else, as many at a time as there are cores: a Service whose key is made is looked at again, and that look takes it. What is lost with the process is
// wanted again.
type KeyQueue struct {
	cores int
	// newKey is pki.NewKey.
	newKey func(pki.KeySpec) (*pki.Key, error)
	// setGCPercent is debug.SetGCPercent.
	setGCPercent func(percent int) (before int)

	mu sync.Mutex
	// pending are the keys that are not made yet, and made are those that nobody has taken yet.
	pending map[types.NamespacedName]entry
	keys    map[types.NamespacedName]*pki.Key
	// returned are those of them that could not be written.
	returned sets.Set[types.NamespacedName]
	// generated are how many were made.
	generated int
	// ready are the Services that will be looked at, all at once.
	ready []reconcile.Request
	// restoreGC is called when a core has none to make any more; nil until many are wanted.
	restoreGC func()
	// queue is where Services wait for their key, and looks where they wait to be looked at.
	queue          priorityqueue.PriorityQueue[reconcile.Request]
	reconcileQueue workqueue.TypedRateLimitingInterface[reconcile.Request]
}

func newKeyQueue(cores int, newKey func(pki.KeySpec) (*pki.Key, error), setGCPercent func(percent int) (before int)) *KeyQueue {
	return &KeyQueue{
		cores: cores, newKey: newKey, setGCPercent: setGCPercent,
		pending: map[types.NamespacedName]entry{}, keys: map[types.NamespacedName]*pki.Key{}, returned: sets.Set[types.NamespacedName]{},
	}
}

// SetupWithManager adds the controller that makes the keys.
func (q *KeyQueue) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named(controllerName + "-keys").
		WatchesRawSource(source.Func(q.bindKeyQueue)).
		WithOptions(retry.Options(q.cores)).
		Complete(retry.WithQuietConflicts(q))
}

// bindKeyQueue is called with the queue of those who wait for a key. Some may have come before.
func (q *KeyQueue) bindKeyQueue(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	priorities, ok := queue.(priorityqueue.PriorityQueue[reconcile.Request])
	if !ok {
		return fmt.Errorf("%T has no priorities", queue)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue = priorities
	for service, item := range q.pending {
		q.addToQueue(service, item.priority())
	}
	return nil
}

// bindReconcileQueue is called with the queue of those who are looked at.
func (q *KeyQueue) bindReconcileQueue(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.reconcileQueue = queue
	return nil
}

// enqueue puts a Service into the line, behind all that are not urgent if it is not.
func (q *KeyQueue) enqueue(service types.NamespacedName, spec pki.KeySpec, urgent bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	item := entry{spec, urgent}
	q.pending[service] = item
	if q.isBusy() && q.restoreGC == nil {
		usual := q.setGCPercent(burstGCPercent)
		q.restoreGC = func() { q.setGCPercent(usual) }
	}
	if q.queue != nil {
		q.addToQueue(service, item.priority())
	}
}

func (e entry) priority() int {
	if e.urgent {
		return 0
	}
	return handler.LowPriority
}

func (q *KeyQueue) addToQueue(service types.NamespacedName, priority int) {
	q.queue.AddWithOpts(priorityqueue.AddOpts{Priority: &priority}, reconcile.Request{NamespacedName: service})
}

// isBusy reports whether the cores have as many keys again to make after those that they make now.
func (q *KeyQueue) isBusy() bool { return len(q.pending) >= 2*q.cores }

// take is the key that was made for a Service; nil for none. It is looked at, and no key is wanted for it unless that look asks for one.
func (q *KeyQueue) take(service types.NamespacedName) *pki.Key {
	q.mu.Lock()
	defer q.mu.Unlock()
	key := q.keys[service]
	delete(q.keys, service)
	q.returned.Delete(service)
	q.dropPending(service)
	return key
}

func (q *KeyQueue) dropPending(service types.NamespacedName) {
	delete(q.pending, service)
	if len(q.pending) < q.cores && q.restoreGC != nil {
		q.restoreGC()
		q.restoreGC = nil
	}
}

// Reconcile makes the key of a Service, if it still wants one.
func (q *KeyQueue) Reconcile(_ context.Context, request ctrl.Request) (ctrl.Result, error) {
	q.mu.Lock()
	item, wanted := q.pending[request.NamespacedName]
	waiting := len(q.keys) - len(q.returned)
	q.mu.Unlock()
	switch {
	case !wanted:
		return ctrl.Result{}, nil
	case waiting >= 2*maxReady, waiting >= maxReady && !item.urgent:
		return ctrl.Result{RequeueAfter: time.Second}, nil
	}
	key, err := q.newKey(item.spec)
	if err != nil {
		return ctrl.Result{}, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pending[request.NamespacedName].spec != item.spec {
		return ctrl.Result{}, nil
	}
	q.dropPending(request.NamespacedName)
	q.promoteOne()
	q.keys[request.NamespacedName] = key
	q.ready = append(q.ready, request)
	switch {
	case !q.isBusy():
		q.flush()
	case len(q.ready) == 1:
		time.AfterFunc(batchDelay, func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.flush()
		})
	}
	return ctrl.Result{}, nil
}

// promoteOne has the next key made for one who is not urgent, now and then: with a Service that is made and removed every second a tenant could hold up a rotation.
func (q *KeyQueue) promoteOne() {
	q.generated++
	if q.generated%fairShare != 0 {
		return
	}
	for service, item := range q.pending {
		if !item.urgent {
			q.pending[service] = entry{item.spec, true}
			q.addToQueue(service, 1)
			return
		}
	}
}

// putBack keeps a key that could not be written for the next look; nil is none.
func (q *KeyQueue) putBack(service types.NamespacedName, key *pki.Key) {
	if key == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.keys[service] = key
	q.returned.Insert(service)
}

// flush has the Services looked at whose keys are made.
func (q *KeyQueue) flush() {
	for _, request := range q.ready {
		q.reconcileQueue.Add(request)
	}
	q.ready = nil
}
