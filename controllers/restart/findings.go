package restart

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// Report is what the status of a policy says of restarts.
type Report struct {
	Counts v1alpha1.RestartCounts
	// Halted, Reason and Message make the condition RestartHalted.
	Halted          bool
	Reason, Message string
}

// findings are what the last look found.
type findings struct {
	mutex     sync.Mutex
	looked    bool
	permitted bool
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

// permit remembers that workloads may be restarted.
func (f *findings) permit() {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.permitted = true
}

// complete remembers when a restart was completed.
func (f *findings) complete(policy string, at time.Time) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.completed[policy] = at
}

// tell keeps what was found, and announces what is new.
func (f *findings) tell(ctx context.Context, plans []*plan, changedAt map[string]time.Time) {
	reports, waits := map[string]Report{}, map[string]rotation.Restarts{}
	for _, p := range plans {
		reports[p.policy.Name] = p.report()
		p.hold(waits)
	}
	f.mutex.Lock()
	for name, report := range reports {
		if at, ok := f.completed[name]; ok {
			report.Counts.LastCompletedAt = &metav1.Time{Time: at.Truncate(time.Second)}
			reports[name] = report
		}
	}
	news := !f.looked || !reflect.DeepEqual(f.reports, reports)
	moves := !f.looked || !reflect.DeepEqual(f.waits, waits) || !reflect.DeepEqual(f.changedAt, changedAt)
	f.looked, f.reports, f.waits, f.changedAt = true, reports, waits, changedAt
	f.mutex.Unlock()
	if news {
		announce(ctx, f.policies, &v1alpha1.ServingCertPolicy{})
	}
	for name := range changedAt {
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
	if !f.permitted {
		return notPermitted(policy), true
	}
	report, ok := f.reports[policy.Name]
	return report, ok
}

// notPermitted is the report where the operator has no rights on workloads.
func notPermitted(policy *v1alpha1.ServingCertPolicy) Report {
	const component = "the operator may not look at workloads: add the kustomize component config/components/restarts to its installation"
	if policy.Spec.Restart.Strategy == v1alpha1.RollingRestart {
		return Report{Halted: true, Reason: "NotPermitted", Message: "spec.restart.strategy RollingRestart is not acted on, for " + component}
	}
	return Report{Reason: "StrategyNone", Message: "nothing is restarted; what would have to be is not known, for " + component}
}

// RestartsFor is what the rotation of a ServiceCA waits for, whose bundle last changed at a time.
func (r *Reconciler) RestartsFor(ca string, changedAt time.Time) rotation.Restarts {
	f := r.findings
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if !f.permitted {
		return rotation.Restarts{}
	}
	waits := f.waits[ca]
	waits.Unseen = !f.looked || !f.changedAt[ca].Equal(changedAt)
	return waits
}

// move notes that a workload has gone from one state to another.
func (p *plan) move(one *item, from, to state) {
	p.byState[from] = slices.DeleteFunc(slices.Clone(p.byState[from]), func(other *item) bool { return other == one })
	p.byState[to] = append(p.byState[to], one)
}

// hold adds the workloads that a rotation waits for: those that the policy restarts, or that roll for another reason.
func (p *plan) hold(waits map[string]rotation.Restarts) {
	if !p.restarts() || p.invalid != nil {
		return
	}
	for _, waiting := range []state{pending, rolling, restarting, failed} {
		for _, one := range p.byState[waiting] {
			later := p.halts != nil || (waiting == pending && p.closed)
			if waiting == failed && p.halts == nil {
				continue
			}
			for ca, reasons := range reasonsByCA(one) {
				counted := waits[ca]
				count(&counted, one.String(), reasons, later)
				waits[ca] = counted
			}
		}
	}
}

func reasonsByCA(one *item) map[string][]v1alpha1.RestartReason {
	found := map[string][]v1alpha1.RestartReason{}
	concerned := one.unknown
	if _, _, marked := one.marked(); marked {
		concerned = one.changes
	}
	for _, c := range concerned {
		if !slices.Contains(found[c.of], c.reason) {
			found[c.of] = append(found[c.of], c.reason)
		}
	}
	return found
}

func count(counted *rotation.Restarts, name string, reasons []v1alpha1.RestartReason, later bool) {
	for _, reason := range reasons {
		if reason == v1alpha1.RestartOnTrustChanged {
			counted.Clients++
			counted.ClientNames = some(counted.ClientNames, name)
		} else {
			counted.Servers++
			counted.ServerNames = some(counted.ServerNames, name)
			if later {
				counted.HeldServers++
			}
		}
	}
}

// few is how many workloads a sentence names.
const few = 5

// some are the first few, by the alphabet.
func some(names []string, more string) []string {
	at, _ := slices.BinarySearch(names, more)
	names = slices.Insert(names, at, more)
	return names[:min(len(names), few+1)]
}

func named(names []string) string {
	if len(names) > few {
		return strings.Join(names[:few], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// report is what the policy's status says.
func (p *plan) report() Report {
	size := func(s state) int32 { return int32(len(p.byState[s])) }
	report := Report{Counts: v1alpha1.RestartCounts{
		Pending:    size(pending) + size(rolling) + size(held),
		InProgress: size(restarting), Failed: size(failed), OptedOut: size(optedOut),
	}}
	switch {
	case p.invalid != nil:
		report.Halted, report.Reason, report.Message = true, "InvalidWindow", p.invalid.Error()
	case p.halts != nil:
		report.Halted, report.Reason = true, "RolloutFailed"
		report.Message = fmt.Sprintf("%s was restarted, and %s: no other workload is restarted until its rollout is complete; repair it, "+
			"undo it with kubectl rollout undo, or set spec.restart.onFailure to Continue", p.halts, p.why[p.halts])
	default:
		report.Reason, report.Message = p.sum()
	}
	return report
}

// sum says in a sentence how the restarts stand.
func (p *plan) sum() (reason, message string) {
	var parts []string
	say := func(s state, text string) {
		if len(p.byState[s]) > 0 {
			parts = append(parts, fmt.Sprintf("%d %s: %s", len(p.byState[s]), text, named(p.names(s))))
		}
	}
	reason = "AllCurrent"
	for _, s := range []state{pending, rolling, held, optedOut, restarting, failed} {
		if len(p.byState[s]) > 0 {
			reason = "Restarting"
		}
	}
	waits := "wait for their turn"
	switch {
	case !p.restarts():
		waits = "would be restarted by spec.restart.strategy RollingRestart"
	case p.closed && p.opens.IsZero():
		waits += " in a window that never opens"
	case p.closed:
		waits += ", from " + p.opens.UTC().Format(time.RFC3339)
	}
	say(restarting, "are being restarted")
	say(pending, waits)
	say(rolling, "roll for another reason")
	say(held, "cannot be restarted")
	say(failed, "failed")
	say(optedOut, "opted out")
	if !p.restarts() {
		reason = "StrategyNone"
	}
	return reason, cmp.Or(strings.Join(parts, "; "), "every workload runs with its current certificates and bundles")
}

// names are some workloads in a state, with the reason.
func (p *plan) names(s state) []string {
	var names []string
	for _, one := range p.byState[s] {
		name := one.String()
		if why := p.why[one]; why != "" && s != optedOut {
			name += " (" + why + ")"
		}
		names = some(names, name)
	}
	return names
}
