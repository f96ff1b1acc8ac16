// Package debounce bounds what a controller spends on counting all that there is.
package debounce

import (
	"context"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const (
	// quietPeriod is for how long nothing has changed when it is time to count.
	quietPeriod = time.Second
	// delayFactor is how many times longer than the last count took, and to tell of it, changes gather that do not end: so it takes a hundredth of a
	// core at most, ours or the API server's, as long as most allows that.
	delayFactor = 100
	// maxDelay is how long anybody waits for a count.
	maxDelay = 10 * time.Second
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// Debouncer gather until it is time to count. The zero value is ready. It is forgotten with the process, and nothing is lost by that: whoever starts
// counts.
type Debouncer struct {
	// clock is the real one where there is none.
	clock clock.WithDelayedExecution

	mu         sync.Mutex
	delayLimit time.Duration
	pending    map[reconcile.Request]*pendingRequest
}

// pendingRequest is what a request waits for.
type pendingRequest struct {
	since time.Time
	timer clock.Timer
	// queue is that of the last change: what is there at the start waits behind what changes.
	queue queue
}

// Handler makes a request of what changes, if there is one: once nothing has changed for a moment, or changes have gathered for long enough.
func (d *Debouncer) Handler(requestOf func(client.Object) (reconcile.Request, bool)) handler.EventHandler {
	schedule := func(object client.Object, q queue) {
		if request, ok := requestOf(object); ok {
			d.schedule(q, request)
		}
	}
	return handler.Funcs{
		CreateFunc:  func(_ context.Context, e event.CreateEvent, q queue) { schedule(e.Object, q) },
		DeleteFunc:  func(_ context.Context, e event.DeleteEvent, q queue) { schedule(e.Object, q) },
		GenericFunc: func(_ context.Context, e event.GenericEvent, q queue) { schedule(e.Object, q) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
			schedule(e.ObjectOld, q)
			schedule(e.ObjectNew, q)
		},
	}
}

// ConstantRequest makes the same request, whatever changes.
func ConstantRequest(request reconcile.Request) func(client.Object) (reconcile.Request, bool) {
	return func(client.Object) (reconcile.Request, bool) { return request, true }
}

func (d *Debouncer) schedule(q queue, request reconcile.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pending == nil {
		d.pending = map[reconcile.Request]*pendingRequest{}
	}
	if d.clock == nil {
		d.clock = clock.RealClock{}
	}
	now := d.clock.Now()
	if existing, ok := d.pending[request]; ok {
		existing.queue = q
		existing.timer.Reset(max(0, min(quietPeriod, d.currentMaxDelay()-now.Sub(existing.since))))
		return
	}
	added := &pendingRequest{since: now, queue: q}
	added.timer = d.clock.AfterFunc(quietPeriod, func() { d.fire(request, added) })
	d.pending[request] = added
}

// fire makes a request, unless it was made while this waited for its turn.
func (d *Debouncer) fire(request reconcile.Request, expired *pendingRequest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pending[request] == expired {
		delete(d.pending, request)
		expired.queue.Add(request)
	}
}

// currentMaxDelay is how long changes gather that do not end. Nobody knows at the start how long counting takes, and much is read then.
func (d *Debouncer) currentMaxDelay() time.Duration {
	if d.delayLimit == 0 {
		return maxDelay
	}
	return d.delayLimit
}

// RecordDuration notes how long it took to count, and to tell.
func (d *Debouncer) RecordDuration(took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delayLimit = min(max(quietPeriod, delayFactor*took), maxDelay)
}
