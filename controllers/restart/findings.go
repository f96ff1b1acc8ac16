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

// findings is the result of the last evaluation of all workloads.
type findings struct {
	mutex sync.Mutex
	// permissionKnown is whether the operator knows if it may restart workloads; permitted is
	// whether it may.
	permissionKnown, permitted bool
	// complete is whether every workload was evaluated.
	complete         bool
	reports          map[string]Report
	completed        map[string]time.Time
	rotationRestarts map[string]rotation.Restarts
	changedAt        map[string]time.Time
	// policyEvents and caEvents announce that the result for a policy or a ServiceCA has changed.
	policyEvents, caEvents chan event.GenericEvent
}

func newFindings() *findings {
	return &findings{completed: map[string]time.Time{}, policyEvents: make(chan event.GenericEvent), caEvents: make(chan event.GenericEvent)}
}

// setPermitted records whether the operator may restart workloads.
func (f *findings) setPermitted(permitted bool) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.permissionKnown, f.permitted = true, permitted
}

// completedAt records when a restart of a policy was completed, or a lower bound of that time; zero
// for never.
func (f *findings) completedAt(policy string, at time.Time) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.completed[policy] = latest(f.completed[policy], at)
}

// publish stores the result of an evaluation, and announces what differs from the one before.
func (f *findings) publish(ctx context.Context, plans []*plan, changedAt map[string]time.Time, complete bool) {
	reports, restarts := map[string]Report{}, map[string]rotation.Restarts{}
	for _, p := range plans {
		reports[p.policy.Name] = p.report()
		p.addRotationRestarts(restarts)
	}
	f.mutex.Lock()
	for name, report := range reports {
		if at := f.completed[name]; !at.IsZero() {
			report.Counts.LastCompletedAt = &metav1.Time{Time: at.Truncate(time.Second)}
		}
	}
	changed := !reflect.DeepEqual(f.reports, reports)
	changedCAs := map[string]bool{}
	for ca, at := range changedAt {
		changedCAs[ca] = f.complete != complete || !f.changedAt[ca].Equal(at) || restarts[ca].ChangesDecision(f.rotationRestarts[ca])
	}
	f.complete, f.reports, f.rotationRestarts, f.changedAt = complete, reports, restarts, changedAt
	f.mutex.Unlock()
	if changed {
		notify(ctx, f.policyEvents, &v1alpha1.ServingCertPolicy{})
	}
	for name, ok := range changedCAs {
		if ok {
			notify(ctx, f.caEvents, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: name}})
		}
	}
}

func notify(ctx context.Context, to chan event.GenericEvent, object client.Object) {
	select {
	case to <- event.GenericEvent{Object: object}:
	case <-ctx.Done():
	}
}

// PolicyChanges announces that the report on some policy has changed.
func (r *Reconciler) PolicyChanges() <-chan event.GenericEvent { return r.findings.policyEvents }

// RotationChanges announces the ServiceCAs whose rotation may proceed.
func (r *Reconciler) RotationChanges() <-chan event.GenericEvent { return r.findings.caEvents }

// Report returns what the status of a policy should report on restarts; false before the first
// evaluation.
func (r *Reconciler) Report(policy *v1alpha1.ServingCertPolicy) (Report, bool) {
	f := r.findings
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if !f.permissionKnown {
		return Report{}, false
	}
	if !f.permitted {
		return notPermitted(policy), true
	}
	report, ok := f.reports[policy.Name]
	return report, ok
}

// RestartsFor returns the restarts that the rotation of a ServiceCA waits for, whose bundle last
// changed at changedAt. They are unknown if the last evaluation did not cover that change, and none
// if the operator may not restart workloads.
func (r *Reconciler) RestartsFor(ca string, changedAt time.Time) rotation.Restarts {
	f := r.findings
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if f.permissionKnown && !f.permitted {
		return rotation.Restarts{}
	}
	restarts := f.rotationRestarts[ca]
	restarts.Unknown = !f.complete || !f.changedAt[ca].Equal(changedAt)
	return restarts
}
