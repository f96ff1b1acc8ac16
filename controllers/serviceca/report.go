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

// reportFailure reports an error about this ServiceCA that has lasted or is a rejection, and
// returns the error so that the reconcile is retried. It reports the error in the status, except
// for one that the status cannot report: the status itself could not be written, or a request was
// rejected or failed after the status was written, such as the deletion of objects that are no
// longer needed. Rejections and these errors are recorded as an Event only.
func (r *Reconciler) reportFailure(ctx context.Context, ca *v1alpha1.ServiceCA, reported bool, err error) error {
	now := r.Clock.Now()
	failure, record := r.failures.RecordFailure(client.ObjectKeyFromObject(ca), now, eventRequestRefused, err)
	switch {
	case failure == nil:
		return err
	case reported || failure.Reason == eventRequestRefused || errors.Is(err, errStatus):
		if record {
			r.Recorder.Eventf(ca, nil, corev1.EventTypeWarning, failure.Reason, "Reconcile", "%s", failure.Message)
		}
		return err
	}
	plan := changePlan{
		problem:   &problem{reason: failure.Reason, message: failure.Message, transient: true},
		blockedBy: []string{failure.Message},
	}
	r.recordProblemEvent(ca, plan.problem)
	return errors.Join(err, apply.IgnoreGone(r.writeStatus(ctx, ca, buildStatus(now, ca, plan, clusterEvidence{}))))
}

// recordEvents records Events about the changes of the signing-key Secret.
func (r *Reconciler) recordEvents(ca *v1alpha1.ServiceCA, plan changePlan) {
	for _, e := range plan.events {
		r.Recorder.Eventf(ca, nil, e.kind, e.reason, "Rotate", "%s", e.message)
	}
}

// recordProblemEvent records an Event about a new problem, only once even when the status cannot be
// written. A nil problem clears the record.
func (r *Reconciler) recordProblemEvent(ca *v1alpha1.ServiceCA, found *problem) {
	if found == nil {
		r.recordedProblems.Delete(ca.Name)
		return
	}
	before, _ := r.recordedProblems.Swap(ca.Name, found.reason)
	ready := meta.FindStatusCondition(ca.Status.Conditions, v1alpha1.ConditionReady)
	if before == found.reason || (ready != nil && ready.Reason == found.reason) {
		return
	}
	r.Recorder.Eventf(ca, nil, corev1.EventTypeWarning, found.reason, "Sign", "%s", found.message)
}
