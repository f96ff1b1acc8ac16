package pace

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
	failures Pace
	// recorded are the reasons of the Events, by object.
	recorded sync.Map
}

// Failed notes an error about an object, and returns what to report of it: at once that the API server refuses a write, by the reason
// refused, and what it cannot carry out once that has lasted; nil for anything else. record is set once for each reason, for as long as
// the errors last: the words may vary.
func (r *Reports) Failed(key types.NamespacedName, now time.Time, refused string, err error) (failure *issuance.Obstacle, record bool) {
	failure = r.failures.Failed(key, now, err)
	if apply.Refused(err) {
		failure = issuance.NewObstacle(refused, "%v", err)
	}
	if failure == nil {
		return nil, false
	}
	if before, _ := r.recorded.Load(key); before == failure.Reason || !r.failures.AllowsEvent(failure, now) {
		return failure, false
	}
	r.recorded.Store(key, failure.Reason)
	return failure, true
}

// Recovered notes that there is no error about an object any more, or that it is gone.
func (r *Reports) Recovered(key types.NamespacedName) {
	r.failures.Recovered(key)
	r.recorded.Delete(key)
}
