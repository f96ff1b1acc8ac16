package retry

import (
	"context"
	"sync"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const (
	// slowThreshold is when a reconciliation that is still running makes its namespace a slow one: an admission webhook may hang for 30 seconds.
	slowThreshold = 5 * time.Second
	// slowTTL is how long a namespace stays a slow one after that.
	slowTTL = 5 * time.Minute
	// slowRequeueDelay is when an object of a slow namespace is looked at again that no worker was left for.
	slowRequeueDelay = 15 * time.Second
)

// LimitSlowNamespaces returns a reconciler that gives slow namespaces half of the workers of a controller at most, so that what hangs in one of
// them does not delay all others.
func LimitSlowNamespaces(workers int, r reconcile.Reconciler) reconcile.Reconciler {
	return &slowNamespaceLimiter{reconciler: r, maxSlowWorkers: max(1, workers/2), slowNamespaces: map[string]*time.Timer{}}
}

type slowNamespaceLimiter struct {
	reconciler reconcile.Reconciler
	// maxSlowWorkers is how many workers slow namespaces may have.
	maxSlowWorkers int

	mu sync.Mutex
	// slowNamespaces are the slow namespaces, each with the timer that ends it, and taken is how many workers they have.
	slowNamespaces map[string]*time.Timer
	slowWorkers    int
}

// worker is one that reconciles an object of a namespace.
type worker struct {
	namespace string
	// slow is set when it counts among those of slow namespaces, and ended when its work is done.
	slow, done bool
}

// Reconcile implements reconcile.Reconciler.
func (l *slowNamespaceLimiter) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	w := &worker{namespace: request.Namespace}
	if !l.acquire(w) {
		return ctrl.Result{RequeueAfter: slowRequeueDelay, Priority: new(handler.LowPriority)}, nil
	}
	hangs := time.AfterFunc(slowThreshold, func() { l.markSlow(w) })
	defer l.release(w, hangs)
	return l.reconciler.Reconcile(ctx, request)
}

// acquire reports whether there is a worker for an object of its namespace.
func (l *slowNamespaceLimiter) acquire(w *worker) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.slowNamespaces[w.namespace] == nil {
		return true
	}
	if l.slowWorkers >= l.maxSlowWorkers {
		return false
	}
	l.countAsSlow(w)
	return true
}

func (l *slowNamespaceLimiter) countAsSlow(w *worker) {
	if !w.slow {
		w.slow = true
		l.slowWorkers++
	}
}

// markSlow makes the namespace of a worker a slow one.
func (l *slowNamespaceLimiter) markSlow(w *worker) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.done {
		return
	}
	l.countAsSlow(w)
	if ends := l.slowNamespaces[w.namespace]; ends != nil {
		ends.Stop()
	}
	var ends *time.Timer
	ends = time.AfterFunc(slowTTL, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.slowNamespaces[w.namespace] == ends {
			delete(l.slowNamespaces, w.namespace)
		}
	})
	l.slowNamespaces[w.namespace] = ends
}

// release gives a worker back.
func (l *slowNamespaceLimiter) release(w *worker, hangs *time.Timer) {
	hangs.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.slow {
		l.slowWorkers--
	}
	w.done = true
}
