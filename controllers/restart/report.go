package restart

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Report is what the status of a policy says of restarts.
type Report struct {
	// Counts are nil where nobody may look.
	Counts *v1alpha1.RestartCounts
	// Halted, Reason and Message make the condition RestartHalted.
	Halted          bool
	Reason, Message string
	// Late makes the condition RestartTooLate.
	Late Late
}

// notPermitted is the report where the operator has no rights on workloads.
func notPermitted(policy *v1alpha1.ServingCertPolicy) Report {
	late := Late{Reason: "NotPermitted", Message: "no workload is restarted"}
	const component = "the operator may not look at workloads: add the kustomize component config/components/restarts to its installation"
	if policy.Spec.Restart.Strategy == v1alpha1.RollingRestart {
		return Report{Halted: true, Reason: "NotPermitted", Message: "spec.restart.strategy RollingRestart is not acted on, for " + component, Late: late}
	}
	return Report{Reason: "StrategyNone", Message: "nothing is restarted; what would have to be is not known, for " + component, Late: late}
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
	report := Report{Late: p.late, Counts: &v1alpha1.RestartCounts{
		Pending:    size(pending) + size(rolling) + size(held),
		InProgress: size(restarting) + size(overdue), Failed: size(failed), OptedOut: size(optedOut),
		Rolling: size(rolling), Blocked: size(held), Overdue: size(overdue), Workloads: p.workloads(),
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
	sayOf := func(s state, items []*item, text string) {
		if len(items) > 0 {
			parts = append(parts, fmt.Sprintf("%d %s: %s", len(items), text, named(p.names(s, items))))
		}
	}
	say := func(s state, text string) { sayOf(s, p.byState[s], text) }
	reason = "AllCurrent"
	for _, s := range []state{pending, rolling, held, optedOut, restarting, overdue, failed} {
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
	say(overdue, "still roll")
	outside, others := p.exempt()
	sayOf(pending, outside, "wait for their turn outside the windows, for what they hold expires before the next one opens")
	sayOf(pending, others, waits)
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
func (p *plan) names(s state, items []*item) []string {
	var names []string
	for _, one := range items {
		name := one.String()
		if why := p.why[one]; why != "" && s != optedOut {
			name += " (" + why + ")"
		}
		names = some(names, name)
	}
	return names
}
