package restart

import (
	"context"
	"reflect"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// findings are what the last look found.
type findings struct {
	mutex sync.Mutex
	// asked: whether workloads may be looked at is known; permitted: they may.
	asked, permitted bool
	// complete: every workload was looked at.
	complete  bool
	reports   map[string]Report
	completed map[string]time.Time
	waits     map[string]rotation.Restarts
	changedAt map[string]time.Time
	// policies and cas announce that something else was found.
	policies, cas chan event.GenericEvent
}

func newFindings() *findings {
	return &findings{completed: map[string]time.Time{}, policies: make(chan event.GenericEvent), cas: make(chan event.GenericEvent)}
}

// permit remembers whether workloads may be restarted.
func (f *findings) permit(permitted bool) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.asked, f.permitted = true, permitted
}

// completedAt remembers when a restart of a policy was completed, or was at the earliest; zero for never.
func (f *findings) completedAt(policy string, at time.Time) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.completed[policy] = later(f.completed[policy], at)
}

// tell keeps what was found, and announces what is new.
func (f *findings) tell(ctx context.Context, plans []*plan, changedAt map[string]time.Time, complete bool) {
	reports, waits := map[string]Report{}, map[string]rotation.Restarts{}
	for _, p := range plans {
		reports[p.policy.Name] = p.report()
		p.hold(waits)
	}
	f.mutex.Lock()
	for name, report := range reports {
		if at := f.completed[name]; !at.IsZero() {
			report.Counts.LastCompletedAt = &metav1.Time{Time: at.Truncate(time.Second)}
		}
	}
	news := !reflect.DeepEqual(f.reports, reports)
	moved := map[string]bool{}
	for ca, at := range changedAt {
		moved[ca] = f.complete != complete || !f.changedAt[ca].Equal(at) || waits[ca].Moves(f.waits[ca])
	}
	f.complete, f.reports, f.waits, f.changedAt = complete, reports, waits, changedAt
	f.mutex.Unlock()
	if news {
		announce(ctx, f.policies, &v1alpha1.ServingCertPolicy{})
	}
	for name, moves := range moved {
		if moves {
			announce(ctx, f.cas, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: name}})
		}
	}
}

func announce(ctx context.Context, to chan event.GenericEvent, object client.Object) {
	select {
	case to <- event.GenericEvent{Object: object}:
	case <-ctx.Done():
	}
}

// Changes announces that the report on some policy is another.
func (r *Reconciler) Changes() <-chan event.GenericEvent { return r.findings.policies }

// Waits announces the ServiceCAs whose rotation may go on.
func (r *Reconciler) Waits() <-chan event.GenericEvent { return r.findings.cas }

// Report is what the status of a policy should say; false as long as nobody has looked.
func (r *Reconciler) Report(policy *v1alpha1.ServingCertPolicy) (Report, bool) {
	f := r.findings
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if !f.asked {
		return Report{}, false
	}
	if !f.permitted {
		return notPermitted(policy), true
	}
	report, ok := f.reports[policy.Name]
	return report, ok
}

// RestartsFor is what the rotation of a ServiceCA waits for, whose bundle last changed at a time.
func (r *Reconciler) RestartsFor(ca string, changedAt time.Time) rotation.Restarts {
	f := r.findings
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if f.asked && !f.permitted {
		return rotation.Restarts{}
	}
	waits := f.waits[ca]
	waits.Unseen = !f.complete || !f.changedAt[ca].Equal(changedAt)
	return waits
}
