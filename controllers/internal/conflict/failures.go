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
	// reportAfter is how long the requests about an object must have failed before it is reported: what is shorter is nobody's concern.
	reportAfter = 5 * time.Second
	// failureGracePeriod is how long a rotation waits for an object about which requests fail. A webhook that is restarted is back by then, and a
	// tenant who keeps one away does not hold up the cluster for longer.
	failureGracePeriod = 10 * time.Minute
	// failureEventBurst come at once, and failureEventsPerSecond in the long run, however many objects a webhook concerns.
	failureEventBurst, failureEventsPerSecond = 100, 1
)

// failure is the last error of requests about an object that all failed.
type failure struct {
	since   time.Time
	message unique.Handle[string]
	// unpermitted is set where the operator lacks the right: whoever waits for the object waits for as long as that lasts.
	unpermitted bool
}

// RecordFailure notes an error of a reconciliation, and returns what to report of it: nil for an error that is not about this object alone, or has
// not lasted for long enough.
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
	// A webhook that cannot be called says the same about every object.
	t.failures[key] = failure{before.since, unique.Make(problem.Message), apply.IsNotPermitted(err)}
	if now.Sub(before.since) < reportAfter {
		return nil
	}
	return problem
}

// ClearFailure notes that the requests about an object were carried out, or that it is gone, and reports whether they had failed.
func (t *Tracker) ClearFailure(key types.NamespacedName) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, failed := t.failures[key]
	delete(t.failures, key)
	return failed
}

// Failure returns what to report of the requests about an object that fail; nil while they do not, or have not for long enough.
func (t *Tracker) Failure(key types.NamespacedName, now time.Time) *issuance.Problem {
	t.mu.Lock()
	defer t.mu.Unlock()
	failure, ok := t.failures[key]
	if !ok || now.Sub(failure.since) < reportAfter {
		return nil
	}
	return &issuance.Problem{Reason: issuance.ReasonRequestFailed, Message: failure.message.Value()}
}

// failedTooLong reports whether the requests about an object have failed for as long as anybody waits for it.
func (t *Tracker) failedTooLong(key types.NamespacedName, now time.Time) bool {
	failure, ok := t.failures[key]
	return ok && !failure.unpermitted && now.Sub(failure.since) >= failureGracePeriod
}

// AllowEvent reports whether a problem may be recorded as an Event: of requests that failed only some are.
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
