package conflict

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// Reports decides which errors about the objects of one kind are recorded as Events, where the objects themselves cannot say it. The zero
// value is ready to use.
type Reports struct {
	failures Tracker
	// recorded are the reasons of the Events, by object.
	recorded sync.Map
}

// RecordFailure notes an error about an object, and returns what to report of it: at once that the API server refuses a write, by the reason
// refused, and what it cannot carry out once that has lasted; nil for anything else. record is set once for each reason, for as long as
// the errors last: the words may vary.
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

// ClearFailure notes that there is no error about an object any more, or that it is gone.
func (r *Reports) ClearFailure(key types.NamespacedName) {
	r.failures.ClearFailure(key)
	r.recorded.Delete(key)
}
