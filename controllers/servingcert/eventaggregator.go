package servingcert

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"

	"github.com/servingcert/operator/api/v1alpha1"
)

const (
	// eventBurst and eventsPerSecond limit the Events on the Services of each policy, because an
	// Event costs the API server as much as a certificate.
	eventBurst, eventsPerSecond = 100, 1
	// maxExamples is how many Services an Event about many certificates names.
	maxExamples = 5
)

// EventAggregator records Events for new certificates: one on each Service while there are few, and
// an occasional summary on the policy once there are many. Summaries that were not recorded are
// lost when the process ends; the Secrets and the status of the policy show the same.
type EventAggregator struct {
	recorder events.EventRecorder
	clock    clock.PassiveClock

	mu       sync.Mutex
	policies map[types.UID]*policyEvents
}

// policyEvents holds the Events of one policy.
type policyEvents struct {
	limiter *rate.Limiter
	// aggregates holds the certificates that are not yet reported, by the reason of the Event.
	aggregates map[string]*aggregate
}

// aggregate summarizes the certificates of one policy that were issued for the same reason.
type aggregate struct {
	count    int
	services []string
	secret   *corev1.Secret
}

// NewEventAggregator returns an EventAggregator without any pending Events.
func NewEventAggregator(recorder events.EventRecorder, passiveClock clock.PassiveClock) *EventAggregator {
	return &EventAggregator{recorder: recorder, clock: passiveClock, policies: map[types.UID]*policyEvents{}}
}

// issuedCertificate is what an Event reports about one certificate.
type issuedCertificate struct {
	policy   *v1alpha1.ServingCertPolicy
	service  *corev1.Service
	secret   *corev1.Secret
	signedBy string
	notAfter time.Time
	reason   string
}

func (a *EventAggregator) record(reason string, c issuedCertificate) {
	if a.suppress(reason, c) {
		return
	}
	a.recorder.Eventf(c.service, c.secret, corev1.EventTypeNormal, reason, "Issue",
		"Secret %s has a new certificate, signed by %s and valid until %s, because %s",
		c.secret.Name, c.signedBy, c.notAfter.UTC().Format(time.RFC3339), c.reason)
}

// suppress reports whether a certificate exceeds the limit of Events, and adds it to the summary of
// its policy if so.
func (a *EventAggregator) suppress(reason string, c issuedCertificate) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	ofPolicy := a.policies[c.policy.UID]
	if ofPolicy == nil {
		ofPolicy = &policyEvents{limiter: rate.NewLimiter(eventsPerSecond, eventBurst), aggregates: map[string]*aggregate{}}
		a.policies[c.policy.UID] = ofPolicy
	}
	if ofPolicy.limiter.AllowN(a.clock.Now(), 1) {
		return false
	}
	aggregated := ofPolicy.aggregates[reason]
	if aggregated == nil {
		aggregated = &aggregate{secret: c.secret}
		ofPolicy.aggregates[reason] = aggregated
	}
	aggregated.count++
	if len(aggregated.services) < maxExamples {
		aggregated.services = append(aggregated.services, c.service.Namespace+"/"+c.service.Name)
	}
	return true
}

// Flush records the pending summaries and forgets policies that no longer exist.
func (a *EventAggregator) Flush(policies []v1alpha1.ServingCertPolicy) {
	a.mu.Lock()
	previous := a.policies
	a.policies = map[types.UID]*policyEvents{}
	for i := range policies {
		if ofPolicy := previous[policies[i].UID]; ofPolicy != nil {
			a.policies[policies[i].UID] = &policyEvents{limiter: ofPolicy.limiter, aggregates: map[string]*aggregate{}}
		}
	}
	a.mu.Unlock()
	for i := range policies {
		ofPolicy := previous[policies[i].UID]
		if ofPolicy == nil {
			continue
		}
		for reason, aggregated := range ofPolicy.aggregates {
			a.recorder.Eventf(&policies[i], aggregated.secret, corev1.EventTypeNormal, reason, "Issue", "%s", aggregated.message())
		}
	}
}

func (a *aggregate) message() string {
	message := fmt.Sprintf("%d more Secrets have a new certificate, of Services %s", a.count, strings.Join(a.services, ", "))
	if a.count > len(a.services) {
		message += " and others"
	}
	return message
}
