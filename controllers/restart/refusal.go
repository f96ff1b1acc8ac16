package restart

import (
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/controllers/internal/apply"
)

const (
	// retryRefused is when a write is tried again that the API server refused, unless the workload has changed before.
	retryRefused = 5 * time.Minute
	// retryFailed is when a write is tried again that failed, as where a webhook does not answer.
	retryFailed = 30 * time.Second
	// retryEviction is when a pod is tried again that a PodDisruptionBudget kept.
	retryEviction = 10 * time.Second
)

// refusal is why a workload was not written.
type refusal struct {
	// version of the workload that was refused; empty when another version would fare no better.
	version, message string
	until            time.Time
}

// of is why a workload is not tried now; empty when it may be.
func (r refusal) of(w *workload, now time.Time) string {
	if (r.version != "" && r.version != w.GetResourceVersion()) || now.After(r.until) {
		return ""
	}
	return r.message
}

// namespaceState is what is known of a namespace. A webhook is mostly for all of one: thousands of its workloads must not cost a try each.
type namespaceState struct {
	// lastTurn is when one of its workloads last had a turn, or was to have one.
	lastTurn time.Time
	// refusal is why none of them is tried now.
	refusal refusal
}

// recordFailure notes that a workload could not be restarted, or its pod not be evicted, and tells its owner.
func (r *Reconciler) recordFailure(now time.Time, item *workloadState, what string, err error, retry time.Duration) {
	failure := refusal{message: what + ": " + err.Error(), until: now.Add(retry)}
	if apply.IsRejected(err) || apply.IsNotPermitted(err) {
		failure.version = item.GetResourceVersion()
	}
	if item.restartRecord.refusal.message != failure.message {
		reason := "RestartFailed"
		if errors.Is(err, errBudgets) {
			reason = "MultipleBudgets" // an Event of the same reason, a minute ago, would swallow this one
		}
		r.Recorder.Eventf(item.Object, nil, corev1.EventTypeWarning, reason, "Restart", "%s; it is tried again within %s", failure.message, retry)
	}
	item.restartRecord.refusal, item.refusal = failure, failure.message
}

// recordWrite notes how a write of a workload went, and reports whether it was made. What changed meanwhile is looked at anew.
func (r *Reconciler) recordWrite(now time.Time, item *workloadState, what string, err error) bool {
	state := namespaceState{lastTurn: now}
	item.lastFailedWrite = now
	switch {
	case err == nil:
		item.restartRecord.refusal, item.lastFailedWrite = refusal{}, time.Time{}
	case apply.IsGone(err) || apply.IsConflict(err):
	case apply.IsRejected(err), apply.IsNotPermitted(err):
		r.recordFailure(now, item, what, err, retryRefused)
	default:
		r.recordFailure(now, item, what, err, retryFailed)
		state.refusal = item.restartRecord.refusal
	}
	r.namespaces[item.GetNamespace()] = state
	return err == nil
}
