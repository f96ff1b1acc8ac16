// Package gather bounds what a controller spends on counting all that there is.
package gather

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
	// calm is for how long nothing has changed when it is time to count.
	calm = time.Second
	// share is how many times longer than the last count took, and to tell of it, changes gather that do not end: so it takes a hundredth of a
	// core at most, ours or the API server's, as long as most allows that.
	share = 100
	// most is how long anybody waits for a count.
	most = 10 * time.Second
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// Changes gather until it is time to count. The zero value is ready. It is forgotten with the process, and nothing is lost by that: whoever starts
// counts.
type Changes struct {
	// clock is the real one where there is none.
	clock clock.WithDelayedExecution

	mu      sync.Mutex
	longest time.Duration
	waiting map[reconcile.Request]*wait
}

// wait is what a request waits for.
type wait struct {
	since time.Time
	timer clock.Timer
	// queue is that of the last change: what is there at the start waits behind what changes.
	queue queue
}

// Handler makes a request of what changes, if there is one: once nothing has changed for a moment, or changes have gathered for long enough.
func (c *Changes) Handler(requestOf func(client.Object) (reconcile.Request, bool)) handler.EventHandler {
	note := func(object client.Object, q queue) {
		if request, is := requestOf(object); is {
			c.note(q, request)
		}
	}
	return handler.Funcs{
		CreateFunc:  func(_ context.Context, e event.CreateEvent, q queue) { note(e.Object, q) },
		DeleteFunc:  func(_ context.Context, e event.DeleteEvent, q queue) { note(e.Object, q) },
		GenericFunc: func(_ context.Context, e event.GenericEvent, q queue) { note(e.Object, q) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
			note(e.ObjectOld, q)
			note(e.ObjectNew, q)
		},
	}
}

// Always makes the same request, whatever changes.
func Always(request reconcile.Request) func(client.Object) (reconcile.Request, bool) {
	return func(client.Object) (reconcile.Request, bool) { return request, true }
}

func (c *Changes) note(q queue, request reconcile.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting = map[reconcile.Request]*wait{}
	}
	if c.clock == nil {
		c.clock = clock.RealClock{}
	}
	now := c.clock.Now()
	if before, waits := c.waiting[request]; waits {
		before.queue = q
		before.timer.Reset(max(0, min(calm, c.patience()-now.Sub(before.since))))
		return
	}
	begun := &wait{since: now, queue: q}
	begun.timer = c.clock.AfterFunc(calm, func() { c.end(request, begun) })
	c.waiting[request] = begun
}

// end makes a request, unless it was made while this waited for its turn.
func (c *Changes) end(request reconcile.Request, over *wait) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting[request] == over {
		delete(c.waiting, request)
		over.queue.Add(request)
	}
}

// patience is how long changes gather that do not end. Nobody knows at the start how long counting takes, and much is read then.
func (c *Changes) patience() time.Duration {
	if c.longest == 0 {
		return most
	}
	return c.longest
}

// Counted notes how long it took to count, and to tell.
func (c *Changes) Counted(took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.longest = min(max(calm, share*took), most)
}
