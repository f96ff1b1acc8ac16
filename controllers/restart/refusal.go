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

// tenant is what is known of a namespace. A webhook is mostly for all of one: thousands of its workloads must not cost a try each.
type tenant struct {
	// served is when one of its workloads last had a turn, or was to have one.
	served time.Time
	// refusal is why none of them is tried now.
	refusal refusal
}

// failed notes that a workload could not be restarted, or its pod not be evicted, and tells its owner.
func (r *Reconciler) failed(now time.Time, one *item, what string, err error, retry time.Duration) {
	made := refusal{message: what + ": " + err.Error(), until: now.Add(retry)}
	if apply.Refused(err) || apply.Unpermitted(err) {
		made.version = one.GetResourceVersion()
	}
	if one.entry.refusal.message != made.message {
		reason := "RestartFailed"
		if errors.Is(err, errBudgets) {
			reason = "MultipleBudgets" // an Event of the same reason, a minute ago, would swallow this one
		}
		r.Recorder.Eventf(one.Object, nil, corev1.EventTypeWarning, reason, "Restart", "%s; it is tried again within %s", made.message, retry)
	}
	one.entry.refusal, one.refusal = made, made.message
}

// written notes how a write of a workload went, and reports whether it was made. What changed meanwhile is looked at anew.
func (r *Reconciler) written(now time.Time, one *item, what string, err error) bool {
	served := tenant{served: now}
	one.tried = now
	switch {
	case err == nil:
		one.entry.refusal, one.tried = refusal{}, time.Time{}
	case apply.Going(err) || apply.Conflict(err):
	case apply.Refused(err), apply.Unpermitted(err):
		r.failed(now, one, what, err, retryRefused)
	default:
		r.failed(now, one, what, err, retryFailed)
		served.refusal = one.entry.refusal
	}
	r.tenants[one.GetNamespace()] = served
	return err == nil
}
