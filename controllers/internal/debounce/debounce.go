// Package debounce coalesces watch events, so that a controller that counts all objects does so at
// most once per second.
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
	// quietPeriod is how long no further event must arrive before a request is made.
	quietPeriod = time.Second
	// delayFactor bounds the share of time that counting takes while events do not stop: a request
	// is delayed by that many times the duration of the last count and its status writes. So
	// counting takes at most a hundredth of a core, of the operator or of the API server, within
	// the limit of maxDelay.
	delayFactor = 100
	// maxDelay is the longest that a request is delayed.
	maxDelay = 10 * time.Second
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// Debouncer delays and coalesces requests. The zero value is ready to use. Pending requests are
// lost when the process ends, which does no harm: controllers count when they start.
type Debouncer struct {
	// clock is the real clock if nil.
	clock clock.WithDelayedExecution

	mu         sync.Mutex
	delayLimit time.Duration
	pending    map[reconcile.Request]*pendingRequest
}

// pendingRequest is a request that is not yet due.
type pendingRequest struct {
	since time.Time
	timer clock.Timer
	// queue is the queue of the last event: events of the initial list have lower priority than
	// later changes.
	queue queue
}

// Handler returns an event handler that makes the request that requestOf returns for each object,
// if any. The request is made once no further event has arrived for quietPeriod, or once it has
// been delayed for long enough.
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

// ConstantRequest returns a function that returns the same request for every object.
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

// fire makes a request, unless it was already made while the timer waited for the lock.
func (d *Debouncer) fire(request reconcile.Request, expired *pendingRequest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pending[request] == expired {
		delete(d.pending, request)
		expired.queue.Add(request)
	}
}

// currentMaxDelay returns how long a request is delayed while events do not stop. Before the first
// count its duration is unknown, and many objects are read at startup, so it is maxDelay then.
func (d *Debouncer) currentMaxDelay() time.Duration {
	if d.delayLimit == 0 {
		return maxDelay
	}
	return d.delayLimit
}

// RecordDuration records how long the last count and its status writes took.
func (d *Debouncer) RecordDuration(took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delayLimit = min(max(quietPeriod, delayFactor*took), maxDelay)
}
