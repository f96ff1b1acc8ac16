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
func (r *Reconciler) report(ctx context.Context, service *corev1.Service, result outcome, err error) (ctrl.Result, error) {
	key, now := client.ObjectKeyFromObject(service), r.Clock.Now()
	if err != nil {
		failure := r.View.Pace.Failed(key, now, err)
		if failure == nil {
			return ctrl.Result{}, err
		}
		result = outcome{obstacle: cmp.Or(result.obstacle, failure), signedBy: cmp.Or(result.signedBy, issuance.SignedBy(service))}
	}
	unreported := r.told(service, &result, r.tell(ctx, service, result))
	switch {
	case unreported != nil:
		// The status of the policy says what the Service cannot.
		r.View.Pace.Failed(key, now, unreported)
		r.failuresChanged()
	case err == nil && !result.silent && r.View.Pace.Recovered(key):
		r.failuresChanged()
	}
	if err := errors.Join(err, unreported); err != nil {
		// Behind the Services about which no request fails: a webhook may hang for half a minute each time.
		return ctrl.Result{Priority: new(handler.LowPriority)}, err
	}
	return later(result.again), nil
}

// failuresChanged has the policies reported on.
func (r *Reconciler) failuresChanged() {
	select {
	case r.Failures <- event.GenericEvent{Object: &corev1.Service{}}:
	default:
		// They will be, anyway.
	}
}

// told notes whether a Service could be told: where its owner keeps it from that, nobody waits for it.
func (r *Reconciler) told(service *corev1.Service, result *outcome, err error) error {
	if result.silent {
		// Nothing was tried.
		return err
	}
	refused := err != nil && apply.Refused(err)
	r.View.Pace.Told(client.ObjectKeyFromObject(service), !refused)
	if refused {
		result.again = sooner(result.again, retryUnseen)
		return nil
	}
	return err
}
