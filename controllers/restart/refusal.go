package restart

import (
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/controllers/internal/apply"
)

const (
	// retryRefused is how long after the API server rejected a write the write is retried, unless
	// the workload changes earlier.
	retryRefused = 5 * time.Minute
	// retryFailed is how long after a failed write, for example because a webhook does not respond,
	// the write is retried.
	retryFailed = 30 * time.Second
	// retryEviction is how long after a PodDisruptionBudget prevented an eviction the eviction is
	// retried.
	retryEviction = 10 * time.Second
)

// refusal is why a workload was not written.
type refusal struct {
	// version is the resourceVersion of the workload that was refused; empty if the refusal does
	// not depend on it.
	version, message string
	until            time.Time
}

// of returns why the workload is not retried now; empty if it may be.
func (r refusal) of(w *workload, now time.Time) string {
	if (r.version != "" && r.version != w.GetResourceVersion()) || now.After(r.until) {
		return ""
	}
	return r.message
}

// namespaceState is what is known of a namespace. A webhook mostly concerns a whole namespace, and
// must not cost one attempt for each of its thousands of workloads.
type namespaceState struct {
	// lastTurn is when the operator last wrote, or tried to write, one of its workloads.
	lastTurn time.Time
	// refusal is why none of its workloads is retried now.
	refusal refusal
}

// recordFailure records that a workload could not be restarted or its pod not evicted, and records
// an Event on the workload if the failure is new.
func (r *Reconciler) recordFailure(now time.Time, item *workloadState, what string, err error, retry time.Duration) {
	failure := refusal{message: what + ": " + err.Error(), until: now.Add(retry)}
	if apply.IsRejected(err) || apply.IsNotPermitted(err) {
		failure.version = item.GetResourceVersion()
	}
	if item.restartRecord.refusal.message != failure.message {
		reason := "RestartFailed"
		if errors.Is(err, errBudgets) {
			reason = "MultipleBudgets" // the recorder would fold this into an Event of the same reason from a minute ago
		}
		r.Recorder.Eventf(item.Object, nil, corev1.EventTypeWarning, reason, "Restart", "%s; it is tried again within %s", failure.message, retry)
	}
	item.restartRecord.refusal, item.refusal = failure, failure.message
}

// recordWrite records the result of a write of a workload, and reports whether it succeeded. After
// a conflict the workload is evaluated again.
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
