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

// report writes on the Service what a reconciliation came to, and returns when the next one is due. An error is reported once it has lasted;
// until then the Service keeps what it says.
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
		// The status of the policy says what the Service cannot.
		r.View.Conflicts.RecordFailure(key, now, unreported)
		r.failuresChanged()
	case err == nil && !result.keepReport && r.View.Conflicts.ClearFailure(key):
		r.failuresChanged()
	}
	if err := errors.Join(err, unreported); err != nil {
		// Behind the Services about which no request fails: a webhook may hang for half a minute each time.
		return ctrl.Result{Priority: new(handler.LowPriority)}, err
	}
	return requeue(result.requeueAfter), nil
}

// failuresChanged has the policies reported on.
func (r *Reconciler) failuresChanged() {
	select {
	case r.FailuresChanged <- event.GenericEvent{Object: &corev1.Service{}}:
	default:
		// They will be, anyway.
	}
}

// handleReportError notes whether a Service could be told: where its owner keeps it from that, nobody waits for it.
func (r *Reconciler) handleReportError(service *corev1.Service, result *reconcileResult, err error) error {
	if result.keepReport {
		// Nothing was tried.
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
