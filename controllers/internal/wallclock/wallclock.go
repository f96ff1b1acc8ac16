// Package wallclock makes deadlines follow the wall clock. Timers follow the monotonic clock, which stands still while a machine is
// suspended: a renewal that is due after a night's sleep would come a night late.
package wallclock

import (
	"context"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

const (
	// interval is how often the clocks are compared. Timers that are shorter need no Watcher.
	interval = 30 * time.Second
	// tolerance is how far they may drift apart before everything is looked at again: corrections of the wall clock are smaller.
	tolerance = 10 * time.Second
)

// Enqueue adds to the queue of a controller all that it waits for.
type Enqueue func(context.Context, workqueue.TypedRateLimitingInterface[reconcile.Request])

// Requests returns an Enqueue that adds these requests.
func Requests(requests ...reconcile.Request) Enqueue {
	return func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		for _, request := range requests {
			queue.Add(request)
		}
	}
}

// Watcher notices that the wall clock has moved further than the monotonic clock, or was set back, and has the controllers look again
// at all that they have timers for. It is a manager's Runnable.
type Watcher struct {
	// skew returns by how much the wall clock has moved further since some time.
	skew func() time.Duration
	// acknowledged is the skew that the controllers know of.
	acknowledged time.Duration

	mu      sync.Mutex
	enqueue []func()
}

// NewWatcher returns a Watcher of a wall clock.
func NewWatcher(wall clock.PassiveClock) *Watcher {
	start, started := wall.Now().Round(0), time.Now() //nolint:forbidigo // timers follow no other clock
	return &Watcher{skew: func() time.Duration {
		// Round drops the monotonic reading, so that the difference is that of the wall clock.
		return wall.Now().Round(0).Sub(start) - time.Since(started) //nolint:forbidigo // the same
	}}
}

// Source is for the controllers that have timers.
func (w *Watcher) Source(enqueue Enqueue) source.Source {
	return source.Func(func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.enqueue = append(w.enqueue, func() { enqueue(ctx, queue) })
		return nil
	})
}

// Start compares the clocks until the context ends.
func (w *Watcher) Start(ctx context.Context) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			w.check(ctx)
		}
	}
}

func (w *Watcher) check(ctx context.Context) {
	skew := w.skew()
	jump := skew - w.acknowledged
	if jump.Abs() <= tolerance {
		return
	}
	w.acknowledged = skew
	ctrl.LoggerFrom(ctx).Info("The wall clock jumped, so everything with a deadline is looked at again: was the machine suspended?",
		"jump", jump.Round(time.Second).String())
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, enqueue := range w.enqueue {
		enqueue()
	}
}
