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
	// slowThreshold is how long a reconciliation may run before its namespace counts as slow: an
	// admission webhook may hang for 30 seconds.
	slowThreshold = 5 * time.Second
	// slowTTL is how long a namespace counts as slow after that.
	slowTTL = 5 * time.Minute
	// slowRequeueDelay is when an object of a slow namespace is tried again for which no worker was
	// free.
	slowRequeueDelay = 15 * time.Second
)

// LimitSlowNamespaces returns a reconciler that gives slow namespaces at most half of a
// controller's workers, so that requests that hang in one of them do not delay all others.
func LimitSlowNamespaces(workers int, r reconcile.Reconciler) reconcile.Reconciler {
	return &slowNamespaceLimiter{reconciler: r, maxSlowWorkers: max(1, workers/2), slowNamespaces: map[string]*time.Timer{}}
}

type slowNamespaceLimiter struct {
	reconciler reconcile.Reconciler
	// maxSlowWorkers is how many workers slow namespaces may occupy.
	maxSlowWorkers int

	mu sync.Mutex
	// slowNamespaces holds the slow namespaces, each with the timer after which it no longer counts
	// as slow, and slowWorkers is how many workers they occupy.
	slowNamespaces map[string]*time.Timer
	slowWorkers    int
}

// worker is a worker that reconciles an object of a namespace.
type worker struct {
	namespace string
	// slow is true if the worker is counted in slowWorkers, and done is true once its
	// reconciliation has returned.
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

// acquire reports whether the object of w may be reconciled, and counts w if its namespace is slow.
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

// markSlow marks the namespace of a worker that is still running as slow for slowTTL.
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

// release stops the timer of a worker and no longer counts it.
func (l *slowNamespaceLimiter) release(w *worker, hangs *time.Timer) {
	hangs.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.slow {
		l.slowWorkers--
	}
	w.done = true
}
