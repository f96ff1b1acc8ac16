package servingcertpolicy

import (
	"maps"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/conflict"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/retry"
)

const (
	// reasonRequestRefused is the reason of the Event when the API server rejects the status of a
	// policy.
	reasonRequestRefused = "RequestRefused"
	// firstRetry is the delay before a status that could not be written is retried; it doubles
	// after each further failure, up to retry.MaxDelay.
	firstRetry = time.Second
)

// statusFailures holds the policies whose status cannot be written. Each has its own retry time, so
// that a hanging webhook does not delay the other policies at every status update. The zero value
// is ready to use.
type statusFailures struct {
	reports conflict.Reports
	retries map[types.NamespacedName]retryState
}

// retryState is when a status is written again, and the delay since the last attempt.
type retryState struct {
	next  time.Time
	after time.Duration
}

// keyOf returns a key that differs for a policy that is deleted and created again with the same
// name: it uses the UID as the namespace.
func keyOf(p *v1alpha1.ServingCertPolicy) types.NamespacedName {
	return types.NamespacedName{Namespace: string(p.UID), Name: p.Name}
}

// nextRetry returns when to retry the status of a policy; the zero time if it did not fail.
func (f *statusFailures) nextRetry(p *v1alpha1.ServingCertPolicy) time.Time {
	return f.retries[keyOf(p)].next
}

// record records that a status could not be written, and returns the problem to record as an Event,
// or nil.
func (f *statusFailures) record(now time.Time, p *v1alpha1.ServingCertPolicy, err error) *issuance.Problem {
	key := keyOf(p)
	after := min(max(firstRetry, 2*f.retries[key].after), retry.MaxDelay)
	if f.retries == nil {
		f.retries = map[types.NamespacedName]retryState{}
	}
	f.retries[key] = retryState{next: now.Add(after), after: after}
	if failure, record := f.reports.RecordFailure(key, now, reasonRequestRefused, err); record {
		return failure
	}
	return nil
}

// clear records that a status was written.
func (f *statusFailures) clear(p *v1alpha1.ServingCertPolicy) { f.forget(keyOf(p)) }

// keepOnly forgets all policies that are not in policies.
func (f *statusFailures) keepOnly(policies []v1alpha1.ServingCertPolicy) {
	gone := maps.Clone(f.retries)
	for i := range policies {
		delete(gone, keyOf(&policies[i]))
	}
	for key := range gone {
		f.forget(key)
	}
}

func (f *statusFailures) forget(key types.NamespacedName) {
	delete(f.retries, key)
	f.reports.ClearFailure(key)
}
