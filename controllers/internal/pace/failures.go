package pace

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
	// waitForFailing is how long a rotation waits for an object about which requests fail. A webhook that is restarted is back by then, and a
	// tenant who keeps one away does not hold up the cluster for longer.
	waitForFailing = 10 * time.Minute
	// failureEvents come at once, and failureEventsPerSecond in the long run, however many objects a webhook concerns.
	failureEvents, failureEventsPerSecond = 100, 1
)

// failure is the last error of requests about an object that all failed.
type failure struct {
	since   time.Time
	message unique.Handle[string]
	// unpermitted is set where the operator lacks the right: whoever waits for the object waits for as long as that lasts.
	unpermitted bool
}

// Failed notes an error of a reconciliation, and returns what to report of it: nil for an error that is not about this object alone, or has
// not lasted for long enough.
func (p *Pace) Failed(key types.NamespacedName, now time.Time, err error) *issuance.Obstacle {
	if !apply.Failed(err) {
		return nil
	}
	obstacle := issuance.NewObstacle(issuance.ReasonRequestFailed, "%v", err)
	p.mu.Lock()
	defer p.mu.Unlock()
	before, failing := p.failures[key]
	if !failing {
		before.since = now
	}
	if p.failures == nil {
		p.failures = map[types.NamespacedName]failure{}
	}
	// A webhook that cannot be called says the same about every object.
	p.failures[key] = failure{before.since, unique.Make(obstacle.Message), apply.Unpermitted(err)}
	if now.Sub(before.since) < reportAfter {
		return nil
	}
	return obstacle
}

// Recovered notes that the requests about an object were carried out, or that it is gone, and reports whether they had failed.
func (p *Pace) Recovered(key types.NamespacedName) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, failed := p.failures[key]
	delete(p.failures, key)
	return failed
}

// Failing returns what to report of the requests about an object that fail; nil while they do not, or have not for long enough.
func (p *Pace) Failing(key types.NamespacedName, now time.Time) *issuance.Obstacle {
	p.mu.Lock()
	defer p.mu.Unlock()
	found, failing := p.failures[key]
	if !failing || now.Sub(found.since) < reportAfter {
		return nil
	}
	return &issuance.Obstacle{Reason: issuance.ReasonRequestFailed, Message: found.message.Value()}
}

// failsTooLong reports whether the requests about an object have failed for as long as anybody waits for it.
func (p *Pace) failsTooLong(key types.NamespacedName, now time.Time) bool {
	found, failing := p.failures[key]
	return failing && !found.unpermitted && now.Sub(found.since) >= waitForFailing
}

// AllowsEvent reports whether an obstacle may be recorded as an Event: of requests that failed only some are.
func (p *Pace) AllowsEvent(obstacle *issuance.Obstacle, now time.Time) bool {
	if obstacle.Reason != issuance.ReasonRequestFailed {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.events == nil {
		p.events = rate.NewLimiter(failureEventsPerSecond, failureEvents)
	}
	return p.events.AllowN(now, 1)
}
