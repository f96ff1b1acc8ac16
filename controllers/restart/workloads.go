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
	// maxWorkloads is the maximum number of workloads that the status of a policy names.
	maxWorkloads = 10
	// maxMessageBytes bounds the message on one workload in the status: a response of the API
	// server may be long.
	maxMessageBytes = 512
)

// reportedStates are the states in which workloads are named, in the order of the list.
var reportedStates = []struct {
	state
	as v1alpha1.WorkloadRestartState
}{
	{failed, v1alpha1.WorkloadFailed}, {blocked, v1alpha1.WorkloadBlocked}, {overdue, v1alpha1.WorkloadOverdue},
	{restarting, v1alpha1.WorkloadInProgress}, {rolling, v1alpha1.WorkloadRolling}, {pending, v1alpha1.WorkloadPending},
}

// workloads returns the first maxWorkloads workloads that are not done.
func (p *plan) workloads() (workloads []v1alpha1.WorkloadRestart) {
	for _, entry := range reportedStates {
		sorted := slices.SortedFunc(slices.Values(p.byState[entry.state]), func(a, b *workloadState) int { return cmp.Compare(a.String(), b.String()) })
		for _, item := range sorted[:min(len(sorted), maxWorkloads-len(workloads))] {
			since, until := item.stateSpan(entry.state)
			workloads = append(workloads, v1alpha1.WorkloadRestart{
				Kind: item.kind, Namespace: item.GetNamespace(), Name: item.GetName(), State: entry.as,
				Since: timeOrNil(since), Until: timeOrNil(until), Message: truncate(p.message(item, entry.state)),
			})
		}
	}
	return workloads
}

// stateSpan returns since when a workload is in a state, and until when at the latest; zero where
// that does not depend on the clock.
func (i *workloadState) stateSpan(s state) (since, until time.Time) {
	switch {
	case s == rolling:
		return i.rollingSince, i.rollingSince.Add(maxRestartDuration)
	case s == restarting:
		return i.ongoing.since, i.ongoing.since.Add(maxRestartDuration)
	case i.ongoing != nil:
		return i.ongoing.since, until
	}
	for _, change := range i.pendingChanges {
		if since.IsZero() || change.at.Before(since) {
			since = change.at
		}
	}
	return since, until
}

// message returns why a workload is in a state, and the remedy.
func (p *plan) message(item *workloadState, s state) string {
	reason := p.reasons[item]
	switch {
	case s == failed && item.refusal != "":
		return reason + ": it goes on when that is put right"
	case s == failed && item.updatesManually():
		return reason + ": repair it; its pods are evicted further when it is available"
	case s == failed:
		return reason + ": repair it, or undo it with kubectl rollout undo; a newer certificate or bundle gives it another turn"
	case s == blocked && item.rollout.paused:
		return reason + ": resume it with kubectl rollout resume"
	case s == rolling:
		return "it rolls for another reason, and is waited for"
	case s != pending:
		return reason
	}
	return p.waitMessage(item, reason)
}

// waitMessage returns what a workload waits for, and what delays it further.
func (p *plan) waitMessage(item *workloadState, reason string) string {
	switch {
	case !p.restarts():
		return "spec.restart.strategy RollingRestart would restart it"
	case p.windowError != nil:
		return "it waits: " + p.windowError.Error()
	case p.haltedBy != nil:
		return "it waits for " + p.haltedBy.String() + ", whose restart failed"
	case p.awaitsWindow(item) && p.windowOpensAt.IsZero():
		return "it waits for a window that never opens: change spec.restart.windows" + p.expiry(item)
	case p.awaitsWindow(item):
		return "it waits for a window, which opens " + p.windowOpensAt.UTC().Format(time.RFC3339) + p.expiry(item)
	case p.windowClosed:
		return "it waits for its turn outside the windows, which would open after " + item.holds()
	case reason != "":
		return "it waits for its turn: " + reason
	}
	return "it waits for its turn"
}

func truncate(message string) string {
	if len(message) <= maxMessageBytes {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessageBytes], "") + " …"
}

func timeOrNil(at time.Time) *metav1.Time {
	if at.IsZero() {
		return nil
	}
	return &metav1.Time{Time: at.UTC().Truncate(time.Second)}
}
