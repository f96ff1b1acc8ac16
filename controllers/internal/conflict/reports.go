package conflict

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// Reports decides which errors about the objects of one kind are recorded as Events, for kinds on
// whose objects the error itself cannot be written. The zero value is ready to use.
type Reports struct {
	failures Tracker
	// recorded holds the reason of the last Event for each object.
	recorded sync.Map
}

// RecordFailure records an error about an object and returns the problem to report: a rejected
// write at once, with refused as the reason, and a failing request once that has lasted for
// reportAfter. It returns nil for any other error. record is true once for each reason while the
// errors last, even if their messages vary.
func (r *Reports) RecordFailure(key types.NamespacedName, now time.Time, refused string, err error) (failure *issuance.Problem, record bool) {
	failure = r.failures.RecordFailure(key, now, err)
	if apply.IsRejected(err) {
		failure = issuance.NewProblem(refused, "%v", err)
	}
	if failure == nil {
		return nil, false
	}
	if before, _ := r.recorded.Load(key); before == failure.Reason || !r.failures.AllowEvent(failure, now) {
		return failure, false
	}
	r.recorded.Store(key, failure.Reason)
	return failure, true
}

// ClearFailure records that an object has no error any more, or is gone.
func (r *Reports) ClearFailure(key types.NamespacedName) {
	r.failures.ClearFailure(key)
	r.recorded.Delete(key)
}
