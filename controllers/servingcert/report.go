package servingcert

import (
	"cmp"
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// report writes the result of a reconciliation on the Service and returns when to reconcile it
// again. An error is reported once it has lasted for some time; until then the annotations of the
// Service stay as they are.
func (r *Reconciler) report(ctx context.Context, service *corev1.Service, result reconcileResult, err error) (ctrl.Result, error) {
	key, now := client.ObjectKeyFromObject(service), r.Clock.Now()
	if err != nil {
		failure := r.View.Conflicts.RecordFailure(key, now, err)
		if failure == nil {
			return ctrl.Result{}, err
		}
		result = reconcileResult{problem: cmp.Or(result.problem, failure), signedBy: cmp.Or(result.signedBy, issuance.SignedBy(service))}
	}
	unreported := r.handleReportError(service, &result, r.reportStatus(ctx, service, result))
	switch {
	case unreported != nil:
		// The status of the policy reports what cannot be written on the Service.
		r.View.Conflicts.RecordFailure(key, now, unreported)
		r.failuresChanged()
	case err == nil && !result.keepReport && r.View.Conflicts.ClearFailure(key):
		r.failuresChanged()
	}
	if err := errors.Join(err, unreported); err != nil {
		// Retry after the Services whose requests do not fail: a webhook may hang for 30 seconds
		// each time.
		return ctrl.Result{Priority: new(handler.LowPriority)}, err
	}
	return requeue(result.requeueAfter), nil
}

// failuresChanged triggers a status update of the policies. It never blocks.
func (r *Reconciler) failuresChanged() {
	select {
	case r.FailuresChanged <- event.GenericEvent{Object: &corev1.Service{}}:
	default:
		// A status update is already pending.
	}
}

// handleReportError records whether the annotations of a Service could be written. If the API
// server rejects them, which is up to the owner of the Service, rotations do not wait for it, and
// handleReportError returns nil and polls.
func (r *Reconciler) handleReportError(service *corev1.Service, result *reconcileResult, err error) error {
	if result.keepReport {
		// Nothing was written.
		return err
	}
	refused := err != nil && apply.IsRejected(err)
	r.View.Conflicts.SetReportable(client.ObjectKeyFromObject(service), !refused)
	if refused {
		result.requeueAfter = shorter(result.requeueAfter, pollInterval)
		return nil
	}
	return err
}
