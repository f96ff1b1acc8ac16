package conflict

import (
	"time"
	"unique"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"

	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

const (
	// reportAfter is how long the requests for an object must have failed before it is reported;
	// shorter failures pass without anyone having to act.
	reportAfter = 5 * time.Second
	// failureGracePeriod is how long a rotation waits for an object whose requests fail. A webhook
	// that restarts is available again by then, and a tenant that keeps a webhook unavailable holds
	// up the rotation of the cluster no longer than this.
	failureGracePeriod = 10 * time.Minute
	// failureEventBurst and failureEventsPerSecond limit the Events about failing requests, however
	// many objects a webhook affects.
	failureEventBurst, failureEventsPerSecond = 100, 1
)

// failure is the last error in an unbroken series of failed requests for an object.
type failure struct {
	since   time.Time
	message unique.Handle[string]
	// unpermitted is true if the operator lacks a permission: rotations wait for the object as long
	// as that lasts.
	unpermitted bool
}

// RecordFailure records an error of a reconciliation and returns the problem to report. It returns
// nil for an error that does not concern this object alone, or that has not lasted for reportAfter.
func (t *Tracker) RecordFailure(key types.NamespacedName, now time.Time, err error) *issuance.Problem {
	if !apply.IsServerFailure(err) {
		return nil
	}
	problem := issuance.NewProblem(issuance.ReasonRequestFailed, "%v", err)
	t.mu.Lock()
	defer t.mu.Unlock()
	before, ok := t.failures[key]
	if !ok {
		before.since = now
	}
	if t.failures == nil {
		t.failures = map[types.NamespacedName]failure{}
	}
	// A webhook that cannot be called causes the same message on every object, so store it once.
	t.failures[key] = failure{before.since, unique.Make(problem.Message), apply.IsNotPermitted(err)}
	if now.Sub(before.since) < reportAfter {
		return nil
	}
	return problem
}

// ClearFailure records that the requests for an object succeeded, or that the object is gone, and
// reports whether they had failed.
func (t *Tracker) ClearFailure(key types.NamespacedName) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, failed := t.failures[key]
	delete(t.failures, key)
	return failed
}

// Failure returns the problem to report while the requests for an object fail; nil if they do not,
// or have not failed for reportAfter.
func (t *Tracker) Failure(key types.NamespacedName, now time.Time) *issuance.Problem {
	t.mu.Lock()
	defer t.mu.Unlock()
	failure, ok := t.failures[key]
	if !ok || now.Sub(failure.since) < reportAfter {
		return nil
	}
	return &issuance.Problem{Reason: issuance.ReasonRequestFailed, Message: failure.message.Value()}
}

// failedTooLong reports whether the requests for an object have failed for failureGracePeriod,
// except for a missing permission of the operator.
func (t *Tracker) failedTooLong(key types.NamespacedName, now time.Time) bool {
	failure, ok := t.failures[key]
	return ok && !failure.unpermitted && now.Sub(failure.since) >= failureGracePeriod
}

// AllowEvent reports whether an Event may be recorded for a problem: Events about failing requests
// are rate limited, and all others are allowed.
func (t *Tracker) AllowEvent(problem *issuance.Problem, now time.Time) bool {
	if problem.Reason != issuance.ReasonRequestFailed {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.events == nil {
		t.events = rate.NewLimiter(failureEventsPerSecond, failureEventBurst)
	}
	return t.events.AllowN(now, 1)
}
