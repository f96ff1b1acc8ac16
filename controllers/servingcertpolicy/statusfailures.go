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
	// reasonRequestRefused is of a policy whose status the API server does not take.
	reasonRequestRefused = "RequestRefused"
	// firstRetry is when a status is written again that could not be; twice as long after each further try, up to retry.MaxDelay.
	firstRetry = time.Second
)

// statusFailures are the policies whose status the API server does not write. Each is tried again at a time of its own, so that a webhook that
// hangs does not delay the other policies whenever they are reported on. The zero value is ready to use.
type statusFailures struct {
	reports conflict.Reports
	retries map[types.NamespacedName]retryState
}

// retryState is when a status is written again, and how long that is after the last try.
type retryState struct {
	next  time.Time
	after time.Duration
}

// keyOf tells a policy from one of the same name that is made later.
func keyOf(p *v1alpha1.ServingCertPolicy) types.NamespacedName {
	return types.NamespacedName{Namespace: string(p.UID), Name: p.Name}
}

// nextRetry returns when the status of a policy is written again; the zero time where that did not fail.
func (f *statusFailures) nextRetry(p *v1alpha1.ServingCertPolicy) time.Time {
	return f.retries[keyOf(p)].next
}

// record notes that a status could not be written, and returns what to record as an Event, nil for nothing.
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

// clear notes that a status was written.
func (f *statusFailures) clear(p *v1alpha1.ServingCertPolicy) { f.forget(keyOf(p)) }

// keepOnly forgets the policies that are gone.
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
