package restart

import (
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/servingcert/operator/api/v1alpha1"
)

// drain returns the number of events announced since the last call.
func drain(from chan event.GenericEvent) (count int) {
	for ; len(from) > 0; count++ {
		<-from
	}
	return count
}

// A rotation proceeds if the operator may not restart workloads, or once all workloads have been
// evaluated since the bundle changed. Before that, the restarts are unknown, which is not the same
// as none.
func TestRotationWaitsForTheFirstObservation(t *testing.T) {
	t.Parallel()
	changed := now.Add(-time.Hour)
	seen := map[string]time.Time{"default": changed}
	r := New(Reconciler{})
	r.findings.policyEvents, r.findings.caEvents = make(chan event.GenericEvent, 100), make(chan event.GenericEvent, 100)
	unseen := func(want bool, when string) {
		t.Helper()
		if got := r.RestartsFor("default", changed).Unknown; got != want {
			t.Errorf("%s, workloads are unseen: %t, want %t", when, got, want)
		}
	}
	unseen(true, "before it is known who may look")
	if _, ok := r.Report(rollingPolicy()); ok {
		t.Error("something is reported before it is known who may look")
	}
	r.findings.setPermitted(false)
	unseen(false, "where nobody may look")
	if report, ok := r.Report(rollingPolicy()); !ok || !report.Halted || report.Reason != "NotPermitted" || report.Counts != nil {
		t.Errorf("where nobody may look, it reports %+v", report)
	}
	none := rollingPolicy(func(r *v1alpha1.Restart) { r.Strategy = v1alpha1.RestartNone })
	if report, _ := r.Report(none); report.Halted || report.Reason != "StrategyNone" {
		t.Errorf("where nobody has to look, it reports %+v", report)
	}
	r.findings.setPermitted(true)
	unseen(true, "before somebody has looked")
	look := func(at map[string]time.Time, complete bool, items ...*workloadState) {
		r.findings.publish(t.Context(), []*plan{planFor(now, rollingPolicy(), items)}, at, complete)
	}
	look(map[string]time.Time{"default": {}}, true)
	unseen(true, "when somebody looked before the bundle changed")
	look(seen, false)
	unseen(true, "when not everything could be looked at")
	look(seen, true)
	unseen(false, "when everything was looked at")
	drain(r.findings.policyEvents)
	drain(r.findings.caEvents)
	waiting := stale(deployment("a"), trusts(time.Hour))
	look(seen, true, waiting)
	if got := r.RestartsFor("default", changed); got.Clients != 1 {
		t.Errorf("the rotation waits for %+v", got)
	}
	look(seen, true, waiting, stale(deployment("b"), trusts(time.Hour)))
	look(seen, true, waiting, stale(deployment("b"), trusts(time.Hour)))
	// The report of the policy has changed twice. For the rotation, one waiting client or two make
	// no difference.
	if a, b := drain(r.findings.policyEvents), drain(r.findings.caEvents); a != 2 || b != 1 {
		t.Errorf("%d changes of policies and %d of CAs were announced", a, b)
	}
}
