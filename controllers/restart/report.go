package restart

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Report is what the status of a policy reports on restarts.
type Report struct {
	// Counts is nil if the operator may not read workloads.
	Counts *v1alpha1.RestartCounts
	// Halted, Reason and Message make up the condition RestartHalted.
	Halted          bool
	Reason, Message string
	// Late makes up the condition RestartTooLate.
	Late Late
}

// notPermitted returns the report for an operator without permissions on workloads.
func notPermitted(policy *v1alpha1.ServingCertPolicy) Report {
	late := Late{Reason: "NotPermitted", Message: "no workload is restarted"}
	const component = "the operator may not look at workloads: add the kustomize component config/components/restarts to its installation"
	if policy.Spec.Restart.Strategy == v1alpha1.RollingRestart {
		return Report{Halted: true, Reason: "NotPermitted", Message: "spec.restart.strategy RollingRestart is not acted on, for " + component, Late: late}
	}
	return Report{Reason: "StrategyNone", Message: "nothing is restarted; what would have to be is not known, for " + component, Late: late}
}

// maxNames is the maximum number of workloads that a message names.
const maxNames = 5

// insertSorted inserts a name in alphabetical order and keeps one more than maxNames.
func insertSorted(names []string, name string) []string {
	index, _ := slices.BinarySearch(names, name)
	names = slices.Insert(names, index, name)
	return names[:min(len(names), maxNames+1)]
}

func joinNames(names []string) string {
	if len(names) > maxNames {
		return strings.Join(names[:maxNames], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// report returns what the status of the policy reports.
func (p *plan) report() Report {
	size := func(s state) int32 { return int32(len(p.byState[s])) }
	report := Report{Late: p.late, Counts: &v1alpha1.RestartCounts{
		Pending:    size(pending) + size(rolling) + size(blocked),
		InProgress: size(restarting) + size(overdue), Failed: size(failed), OptedOut: size(optedOut),
		Rolling: size(rolling), Blocked: size(blocked), Overdue: size(overdue), Workloads: p.workloads(),
	}}
	switch {
	case p.windowError != nil:
		report.Halted, report.Reason, report.Message = true, "InvalidWindow", p.windowError.Error()
	case p.haltedBy != nil:
		report.Halted, report.Reason = true, "RolloutFailed"
		report.Message = fmt.Sprintf("%s was restarted, and %s: no other workload is restarted until its rollout is complete; repair it, "+
			"undo it with kubectl rollout undo, or set spec.restart.onFailure to Continue", p.haltedBy, p.reasons[p.haltedBy])
	default:
		report.Reason, report.Message = p.summarize()
	}
	return report
}

// summarize returns the reason and the message on the state of all restarts.
func (p *plan) summarize() (reason, message string) {
	var parts []string
	sayOf := func(s state, items []*workloadState, text string) {
		if len(items) > 0 {
			parts = append(parts, fmt.Sprintf("%d %s: %s", len(items), text, joinNames(p.names(s, items))))
		}
	}
	addPart := func(s state, text string) { sayOf(s, p.byState[s], text) }
	reason = "AllCurrent"
	for _, s := range []state{pending, rolling, blocked, optedOut, restarting, overdue, failed} {
		if len(p.byState[s]) > 0 {
			reason = "Restarting"
		}
	}
	pendingMessage := "wait for their turn"
	switch {
	case !p.restarts():
		pendingMessage = "would be restarted by spec.restart.strategy RollingRestart"
	case p.windowClosed && p.windowOpensAt.IsZero():
		pendingMessage += " in a window that never opens"
	case p.windowClosed:
		pendingMessage += ", from " + p.windowOpensAt.UTC().Format(time.RFC3339)
	}
	addPart(restarting, "are being restarted")
	addPart(overdue, "still roll")
	outside, others := p.exempt()
	sayOf(pending, outside, "wait for their turn outside the windows, for what they hold expires before the next one opens")
	sayOf(pending, others, pendingMessage)
	addPart(rolling, "roll for another reason")
	addPart(blocked, "cannot be restarted")
	addPart(failed, "failed")
	addPart(optedOut, "opted out")
	if !p.restarts() {
		reason = "StrategyNone"
	}
	return reason, cmp.Or(strings.Join(parts, "; "), "every workload runs with its current certificates and bundles")
}

// names returns some of the workloads in a state, each with its reason.
func (p *plan) names(s state, items []*workloadState) []string {
	var names []string
	for _, item := range items {
		name := item.String()
		if reason := p.reasons[item]; reason != "" && s != optedOut {
			name += " (" + reason + ")"
		}
		names = insertSorted(names, name)
	}
	return names
}
