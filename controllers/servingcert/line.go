package servingcert

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/servingcert/operator/controllers/internal/issuance"
)

// Line is where Services wait whose private key takes long to make: behind thousands of them no other Service should wait. It is the queue of a second
// controller, which does the same without a line. What is lost with the process is asked for again.
type Line struct {
	queue priorityqueue.PriorityQueue[reconcile.Request]
	// open is closed when the queue is there.
	open chan struct{}
}

// setupLine adds the controller that makes the keys which take long.
func (r *Reconciler) setupLine(mgr ctrl.Manager) error {
	r.Line = &Line{open: make(chan struct{})}
	maker := *r
	maker.Line = nil
	return ctrl.NewControllerManagedBy(mgr).
		Named(controllerName + "-slow").
		WatchesRawSource(source.Func(r.Line.start)).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrency}).
		Complete(&maker)
}

func (l *Line) start(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	var ok bool
	if l.queue, ok = queue.(priorityqueue.PriorityQueue[reconcile.Request]); !ok {
		return fmt.Errorf("%T has no priorities", queue)
	}
	close(l.open)
	return nil
}

// add puts a Service into the line: behind all others where it has a certificate that is not about to end.
func (l *Line) add(ctx context.Context, service types.NamespacedName, plan issuance.Plan) error {
	select {
	case <-l.open:
	case <-ctx.Done():
		return fmt.Errorf("wait for the line of keys that take long: %w", context.Cause(ctx))
	}
	priority := 0
	if !plan.NotAfter.IsZero() && !plan.Renewal {
		priority = handler.LowPriority
	}
	l.queue.AddWithOpts(priorityqueue.AddOpts{Priority: &priority}, reconcile.Request{NamespacedName: service})
	return nil
}
