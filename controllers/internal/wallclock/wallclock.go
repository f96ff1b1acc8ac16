// Package wallclock makes deadlines follow the wall clock. Go timers follow the monotonic clock,
// which stops while a machine is suspended: a renewal that comes due during a night's suspension
// would otherwise be a night late.
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
	// interval is how often the clocks are compared. Timers shorter than this need no Watcher.
	interval = 30 * time.Second
	// tolerance is how far the clocks may drift apart before everything is reconciled again:
	// ordinary corrections of the wall clock are smaller.
	tolerance = 10 * time.Second
)

// Enqueue adds to the queue of a controller everything that it has timers for.
type Enqueue func(context.Context, workqueue.TypedRateLimitingInterface[reconcile.Request])

// Requests returns an Enqueue that adds these requests.
func Requests(requests ...reconcile.Request) Enqueue {
	return func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		for _, request := range requests {
			queue.Add(request)
		}
	}
}

// Watcher notices when the wall clock has moved further than the monotonic clock, or was set back,
// and then makes the controllers reconcile everything that they have timers for. It implements the
// manager's Runnable.
type Watcher struct {
	// skew returns how much further than the monotonic clock the wall clock has moved since the
	// Watcher was created.
	skew func() time.Duration
	// acknowledged is the skew at the last time that the controllers were triggered.
	acknowledged time.Duration

	mu      sync.Mutex
	enqueue []func()
}

// NewWatcher returns a Watcher of wall.
func NewWatcher(wall clock.PassiveClock) *Watcher {
	start, started := wall.Now().Round(0), time.Now() //nolint:forbidigo // timers use the real clock
	return &Watcher{skew: func() time.Duration {
		// Round drops the monotonic reading, so that Sub compares wall clock readings.
		return wall.Now().Round(0).Sub(start) - time.Since(started) //nolint:forbidigo // as above
	}}
}

// Source returns a watch source that calls enqueue when the wall clock jumps.
func (w *Watcher) Source(enqueue Enqueue) source.Source {
	return source.Func(func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.enqueue = append(w.enqueue, func() { enqueue(ctx, queue) })
		return nil
	})
}

// Start compares the clocks until the context is done.
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
