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
	// slowAfter is when a reconciliation that is still running makes its namespace a slow one: an admission webhook may hang for 30 seconds.
	slowAfter = 5 * time.Second
	// slowFor is how long a namespace stays a slow one after that.
	slowFor = 5 * time.Minute
	// heldBack is when an object of a slow namespace is looked at again that no worker was left for.
	heldBack = 15 * time.Second
)

// Fairly returns a reconciler that gives slow namespaces half of the workers of a controller at most, so that what hangs in one of
// them does not delay all others.
func Fairly(workers int, r reconcile.Reconciler) reconcile.Reconciler {
	return &fair{reconciler: r, most: max(1, workers/2), slow: map[string]*time.Timer{}}
}

type fair struct {
	reconciler reconcile.Reconciler
	// most is how many workers slow namespaces may have.
	most int

	mu sync.Mutex
	// slow are the slow namespaces, each with the timer that ends it, and taken is how many workers they have.
	slow  map[string]*time.Timer
	taken int
}

// worker is one that reconciles an object of a namespace.
type worker struct {
	namespace string
	// slow is set when it counts among those of slow namespaces, and ended when its work is done.
	slow, ended bool
}

// Reconcile implements reconcile.Reconciler.
func (f *fair) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	w := &worker{namespace: request.Namespace}
	if !f.begin(w) {
		return ctrl.Result{RequeueAfter: heldBack, Priority: new(handler.LowPriority)}, nil
	}
	hangs := time.AfterFunc(slowAfter, func() { f.hangs(w) })
	defer f.end(w, hangs)
	return f.reconciler.Reconcile(ctx, request)
}

// begin reports whether there is a worker for an object of its namespace.
func (f *fair) begin(w *worker) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.slow[w.namespace] == nil {
		return true
	}
	if f.taken >= f.most {
		return false
	}
	f.take(w)
	return true
}

func (f *fair) take(w *worker) {
	if !w.slow {
		w.slow = true
		f.taken++
	}
}

// hangs makes the namespace of a worker a slow one.
func (f *fair) hangs(w *worker) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.ended {
		return
	}
	f.take(w)
	if ends := f.slow[w.namespace]; ends != nil {
		ends.Stop()
	}
	var ends *time.Timer
	ends = time.AfterFunc(slowFor, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.slow[w.namespace] == ends {
			delete(f.slow, w.namespace)
		}
	})
	f.slow[w.namespace] = ends
}

// end gives a worker back.
func (f *fair) end(w *worker, hangs *time.Timer) {
	hangs.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	if w.slow {
		f.taken--
	}
	w.ended = true
}
