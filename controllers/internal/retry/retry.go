// Package retry decides when a controller retries after an error, and whether it logs the error.
package retry

import (
	"context"
	"time"

	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/servingcert/operator/controllers/internal/apply"
)

const (
	// firstDelay is the delay after the first error; it doubles after each further error in a row,
	// up to MaxDelay.
	firstDelay = 5 * time.Millisecond
	// MaxDelay is the longest time between two attempts: a cause that an administrator has removed
	// is noticed by then.
	MaxDelay = time.Minute
	// conflictDelay gives the cache time to receive what another client wrote.
	conflictDelay = time.Second
)

// Options returns the options of a controller that reconciles concurrency objects at a time.
func Options(concurrency int) controller.Options {
	return controller.Options{
		MaxConcurrentReconciles: concurrency,
		RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstDelay, MaxDelay),
	}
}

// WithQuietConflicts returns a reconciler that retries after a conflict without logging an error:
// another client was faster, which is not a fault.
func WithQuietConflicts(r reconcile.Reconciler) reconcile.Reconciler {
	return reconcile.Func(func(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
		result, err := r.Reconcile(ctx, request)
		if !isConflict(err) {
			return result, err
		}
		ctrl.LoggerFrom(ctx).V(1).Info("somebody else was faster", "error", err.Error())
		return ctrl.Result{RequeueAfter: conflictDelay}, nil
	})
}

// isConflict reports whether err is a conflict and, if it joins several errors, all of them are.
func isConflict(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, wrapped := range joined.Unwrap() {
			if !isConflict(wrapped) {
				return false
			}
		}
		return true
	}
	return apply.IsConflict(err)
}
