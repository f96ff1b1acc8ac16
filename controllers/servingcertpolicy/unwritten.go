package servingcertpolicy

import (
	"maps"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pace"
	"github.com/servingcert/operator/controllers/internal/retry"
)

const (
	// reasonRequestRefused is of a policy whose status the API server does not take.
	reasonRequestRefused = "RequestRefused"
	// firstRetry is when a status is written again that could not be; twice as long after each further try, up to retry.MaxDelay.
	firstRetry = time.Second
)

// unwritten are the policies whose status the API server does not write. Each is tried again at a time of its own, so that a webhook that
// hangs does not delay the other policies whenever they are reported on. The zero value is ready to use.
type unwritten struct {
	reports pace.Reports
	tries   map[types.NamespacedName]try
}

// try is when a status is written again, and how long that is after the last try.
type try struct {
	next  time.Time
	after time.Duration
}

// keyOf tells a policy from one of the same name that is made later.
func keyOf(p *v1alpha1.ServingCertPolicy) types.NamespacedName {
	return types.NamespacedName{Namespace: string(p.UID), Name: p.Name}
}

// next returns when the status of a policy is written again; the zero time where that did not fail.
func (u *unwritten) next(p *v1alpha1.ServingCertPolicy) time.Time { return u.tries[keyOf(p)].next }

// failed notes that a status could not be written, and returns what to record as an Event, nil for nothing.
func (u *unwritten) failed(now time.Time, p *v1alpha1.ServingCertPolicy, err error) *issuance.Obstacle {
	key := keyOf(p)
	after := min(max(firstRetry, 2*u.tries[key].after), retry.MaxDelay)
	if u.tries == nil {
		u.tries = map[types.NamespacedName]try{}
	}
	u.tries[key] = try{next: now.Add(after), after: after}
	if failure, record := u.reports.Failed(key, now, reasonRequestRefused, err); record {
		return failure
	}
	return nil
}

// written notes that a status was written.
func (u *unwritten) written(p *v1alpha1.ServingCertPolicy) { u.forget(keyOf(p)) }

// keepOnly forgets the policies that are gone.
func (u *unwritten) keepOnly(policies []v1alpha1.ServingCertPolicy) {
	gone := maps.Clone(u.tries)
	for i := range policies {
		delete(gone, keyOf(&policies[i]))
	}
	for key := range gone {
		u.forget(key)
	}
}

func (u *unwritten) forget(key types.NamespacedName) {
	delete(u.tries, key)
	u.reports.Recovered(key)
}
