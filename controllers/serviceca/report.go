package serviceca

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	ac "github.com/servingcert/operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
)

// errStatus means that the status of a ServiceCA could not be written.
var errStatus = errors.New("write the status")

func (r *Reconciler) writeStatus(ctx context.Context, ca *v1alpha1.ServiceCA, status v1alpha1.ServiceCAStatus) error {
	if err := apply.Status(ctx, r.Client, apply.ServiceCA, ca.Status, status, ac.ServiceCA(ca.Name)); err != nil {
		return fmt.Errorf("%w: %w", errStatus, err)
	}
	return nil
}

// failed reports an error that is about this ServiceCA and has lasted, or is a refusal, and returns it: it is tried again. What the status cannot
// say, that it cannot be written itself, and what is refused or fails after it was written, the removal of what is of no use any more, is
// recorded as an Event alone.
func (r *Reconciler) failed(ctx context.Context, ca *v1alpha1.ServiceCA, reported bool, err error) error {
	now := r.Clock.Now()
	failure, record := r.failures.Failed(client.ObjectKeyFromObject(ca), now, eventRequestRefused, err)
	switch {
	case failure == nil:
		return err
	case reported || failure.Reason == eventRequestRefused || errors.Is(err, errStatus):
		if record {
			r.Recorder.Eventf(ca, nil, corev1.EventTypeWarning, failure.Reason, "Reconcile", "%s", failure.Message)
		}
		return err
	}
	decided := step{
		problem:   &problem{reason: failure.Reason, message: failure.Message, passing: true},
		blockedBy: []string{failure.Message},
	}
	r.announceProblem(ca, decided.problem)
	return errors.Join(err, apply.IgnoreGone(r.writeStatus(ctx, ca, buildStatus(now, ca, decided, evidence{}))))
}

// announceEvents records what was done with the signing-key Secret.
func (r *Reconciler) announceEvents(ca *v1alpha1.ServiceCA, decided step) {
	for _, e := range decided.events {
		r.Recorder.Eventf(ca, nil, e.kind, e.reason, "Rotate", "%s", e.note)
	}
}

// announceProblem records a problem that is new. It does so once also where the status cannot be written.
func (r *Reconciler) announceProblem(ca *v1alpha1.ServiceCA, found *problem) {
	if found == nil {
		r.announced.Delete(ca.Name)
		return
	}
	before, _ := r.announced.Swap(ca.Name, found.reason)
	ready := meta.FindStatusCondition(ca.Status.Conditions, v1alpha1.ConditionReady)
	if before == found.reason || (ready != nil && ready.Reason == found.reason) {
		return
	}
	r.Recorder.Eventf(ca, nil, corev1.EventTypeWarning, found.reason, "Sign", "%s", found.message)
}
