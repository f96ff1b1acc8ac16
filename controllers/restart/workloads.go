package restart

import (
	"cmp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

const (
	// mostWorkloads is how many workloads the status of a policy names.
	mostWorkloads = 10
	// mostMessage is how long the status speaks of one of them: an API server's answer may be long.
	mostMessage = 512
)

// reported are the states of the workloads that are named, in their order.
var reported = []struct {
	state
	as v1alpha1.WorkloadRestartState
}{
	{failed, v1alpha1.WorkloadFailed}, {held, v1alpha1.WorkloadBlocked}, {overdue, v1alpha1.WorkloadOverdue},
	{restarting, v1alpha1.WorkloadInProgress}, {rolling, v1alpha1.WorkloadRolling}, {pending, v1alpha1.WorkloadPending},
}

// workloads are the first few that are not done.
func (p *plan) workloads() (named []v1alpha1.WorkloadRestart) {
	for _, of := range reported {
		sorted := slices.SortedFunc(slices.Values(p.byState[of.state]), func(a, b *item) int { return cmp.Compare(a.String(), b.String()) })
		for _, one := range sorted[:min(len(sorted), mostWorkloads-len(named))] {
			since, until := one.span(of.state)
			named = append(named, v1alpha1.WorkloadRestart{
				Kind: one.kind, Namespace: one.GetNamespace(), Name: one.GetName(), State: of.as,
				Since: timeOrNil(since), Until: timeOrNil(until), Message: cut(p.message(one, of.state)),
			})
		}
	}
	return named
}

// span is since when a workload is in a state, and until when at the latest; zero where that does not hang on the clock.
func (i *item) span(s state) (since, until time.Time) {
	switch {
	case s == rolling:
		return i.rolls, i.rolls.Add(turnEnd)
	case s == restarting:
		return i.turn.since, i.turn.since.Add(turnEnd)
	case i.turn != nil:
		return i.turn.since, until
	}
	for _, one := range i.unknown {
		if since.IsZero() || one.at.Before(since) {
			since = one.at
		}
	}
	return since, until
}

// message says why a workload is in a state, and what to do.
func (p *plan) message(one *item, s state) string {
	why := p.why[one]
	switch {
	case s == failed && one.refusal != "":
		return why + ": it goes on when that is put right"
	case s == failed:
		return why + ": " + one.remedy() + "; a newer certificate or bundle gives it another turn"
	case s == held && one.rollout.paused:
		return why + ": resume it with kubectl rollout resume"
	case s == rolling:
		return "it rolls for another reason, and is waited for"
	case s != pending:
		return why
	}
	return p.waits(one, why)
}

// remedy says what to do about a restart that failed.
func (i *item) remedy() string {
	if i.readOnly {
		return "repair it"
	}
	return "repair it, or undo it with kubectl rollout undo"
}

// waits says what a workload waits for, and what else comes into it.
func (p *plan) waits(one *item, why string) string {
	switch {
	case !p.restarts():
		return "spec.restart.strategy RollingRestart would restart it"
	case p.invalid != nil:
		return "it waits: " + p.invalid.Error()
	case p.halts != nil:
		return "it waits for " + p.halts.String() + ", whose restart failed"
	case p.awaitsWindow(one) && p.opens.IsZero():
		return "it waits for a window that never opens: change spec.restart.windows" + p.expiry(one)
	case p.awaitsWindow(one):
		return "it waits for a window, which opens " + p.opens.UTC().Format(time.RFC3339) + p.expiry(one)
	case p.closed:
		return "it waits for its turn outside the windows, which would open after " + one.holds()
	case why != "":
		return "it waits for its turn: " + why
	}
	return "it waits for its turn"
}

func cut(message string) string {
	if len(message) <= mostMessage {
		return message
	}
	return strings.ToValidUTF8(message[:mostMessage], "") + " …"
}

func timeOrNil(at time.Time) *metav1.Time {
	if at.IsZero() {
		return nil
	}
	return &metav1.Time{Time: at.UTC().Truncate(time.Second)}
}
