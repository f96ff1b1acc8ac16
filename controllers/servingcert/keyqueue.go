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
	// batchDelay is how long a generated key waits for others while many are wanted: creating their
	// Secrets together costs the API server a third less than one by one.
	batchDelay = 250 * time.Millisecond
	// burstGCPercent is the garbage collection percentage (GOGC) while many keys are generated:
	// each RSA key leaves half a MiB of garbage, and everything else leaves little.
	burstGCPercent = 100
	// maxReady is how many generated keys may wait for their reconciliation before only urgent keys
	// are generated. At twice as many, none are.
	maxReady = 1000
	// fairShare is how many keys are generated for each one that goes to a Service that is not
	// urgent, however many urgent Services wait.
	fairShare = 5
)

// entry is a Service that waits in the KeyQueue.
type entry struct {
	spec pki.KeySpec
	// urgent is true for entries that are served before all others.
	urgent bool
}

// KeyQueue generates private keys that are slow to generate (RSA), so that no other Service waits
// behind them. Its controller only generates keys, as many at a time as there are cores; a Service
// is then reconciled again, and that reconciliation takes the key. After a restart of the process
// the reconcilers enqueue their keys again.
type KeyQueue struct {
	cores int
	// newKey is pki.NewKey, except in tests.
	newKey func(pki.KeySpec) (*pki.Key, error)
	// setGCPercent is debug.SetGCPercent, except in tests.
	setGCPercent func(percent int) (before int)

	mu sync.Mutex
	// pending holds the Services whose key is not generated yet, and keys holds the generated keys
	// that no reconciliation has taken yet.
	pending map[types.NamespacedName]entry
	keys    map[types.NamespacedName]*pki.Key
	// returned holds the Services whose key in keys could not be written and was put back.
	returned sets.Set[types.NamespacedName]
	// generated counts the generated keys.
	generated int
	// ready holds the Services that the next flush enqueues for reconciliation.
	ready []reconcile.Request
	// restoreGC restores the garbage collection percentage; it is called once there are fewer
	// pending keys than cores, and nil unless many are wanted.
	restoreGC func()
	// queue holds the Services that wait for a key, and reconcileQueue those that wait for
	// reconciliation.
	queue          priorityqueue.PriorityQueue[reconcile.Request]
	reconcileQueue workqueue.TypedRateLimitingInterface[reconcile.Request]
}

func newKeyQueue(cores int, newKey func(pki.KeySpec) (*pki.Key, error), setGCPercent func(percent int) (before int)) *KeyQueue {
	return &KeyQueue{
		cores: cores, newKey: newKey, setGCPercent: setGCPercent,
		pending: map[types.NamespacedName]entry{}, keys: map[types.NamespacedName]*pki.Key{}, returned: sets.Set[types.NamespacedName]{},
	}
}

// SetupWithManager adds the controller that generates the keys.
func (q *KeyQueue) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named(controllerName + "-keys").
		WatchesRawSource(source.Func(q.bindKeyQueue)).
		WithOptions(retry.Options(q.cores)).
		Complete(retry.WithQuietConflicts(q))
}

// bindKeyQueue sets the queue of the controller that generates keys, and adds the Services that
// were enqueued before. It returns an error if the queue has no priorities.
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

// bindReconcileQueue sets the queue of the controller that reconciles Services.
func (q *KeyQueue) bindReconcileQueue(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.reconcileQueue = queue
	return nil
}

// enqueue adds a Service to the queue; unless it is urgent, all urgent ones are served first.
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

// isBusy reports whether there are at least twice as many pending keys as cores.
func (q *KeyQueue) isBusy() bool { return len(q.pending) >= 2*q.cores }

// take returns the key that was generated for a Service, or nil. It is called when the Service is
// reconciled, and removes the Service from the queue unless that reconciliation enqueues it again.
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

// Reconcile generates the key of a Service, if it is still wanted.
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

// promoteOne makes one entry urgent after every fairShare keys. Otherwise a tenant could hold up a
// rotation by creating and deleting a Service every second.
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

// putBack keeps a key that could not be written for the next reconciliation; it ignores a nil key.
func (q *KeyQueue) putBack(service types.NamespacedName, key *pki.Key) {
	if key == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.keys[service] = key
	q.returned.Insert(service)
}

// flush enqueues the Services whose keys are generated for reconciliation.
func (q *KeyQueue) flush() {
	for _, request := range q.ready {
		q.reconcileQueue.Add(request)
	}
	q.ready = nil
}
