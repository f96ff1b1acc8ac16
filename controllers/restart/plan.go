package restart

import (
	"cmp"
	"slices"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/window"
)

// gracePeriod is for how long changes are collected before they lead to one restart.
const gracePeriod = 10 * time.Second

// maxRequeueInterval is the longest time between two evaluations of a policy.
const maxRequeueInterval = 10 * time.Minute

// plan is what the operator does for the workloads of one policy.
type plan struct {
	policy *v1alpha1.ServingCertPolicy
	// begin lists the workloads to restart now; restamp those whose restart was undone; evict those
	// whose next pod is to be evicted; finish those whose restart is complete.
	begin, restamp, evict, finish []*workloadState
	// byState holds all workloads.
	byState map[state][]*workloadState
	// reasons holds why a workload is blocked, has failed or is left alone.
	reasons map[*workloadState]string
	// haltedBy is the failed workload that holds up the others; nil if none does.
	haltedBy *workloadState
	// windows are the windows of the policy. windowClosed is whether none is open; windowOpensAt is
	// when the next one opens, zero for never.
	windows       window.Windows
	windowClosed  bool
	windowOpensAt time.Time
	late          Late
	// windowError is the error in the windows of the policy.
	windowError error
	// recheckAt is when the clock alone may change something.
	recheckAt time.Time
}

// planFor returns the plan for the workloads of one policy.
func planFor(now time.Time, policy *v1alpha1.ServingCertPolicy, items []*workloadState) *plan {
	p := &plan{policy: policy, byState: map[state][]*workloadState{}, reasons: map[*workloadState]string{}, recheckAt: now.Add(maxRequeueInterval)}
	for _, item := range items {
		state, reason := item.state(now)
		p.byState[state] = append(p.byState[state], item)
		p.reasons[item] = reason
	}
	p.continueRestarts(now)
	p.haltedBy = p.haltingWorkload()
	p.schedule(now)
	p.late = p.isLate(now)
	return p
}

// continueRestarts plans the next step of the restarts that are under way.
func (p *plan) continueRestarts(now time.Time) {
	p.finish = slices.DeleteFunc(slices.Clone(p.byState[completed]), func(item *workloadState) bool { return item.refusal != "" })
	for _, item := range slices.Concat(p.byState[restarting], p.byState[overdue], p.byState[failed]) {
		if item.polled() {
			p.recheckBy(now.Add(retryEviction))
		}
		switch {
		case item.needsEviction() && item.refusal == "":
			p.evict = append(p.evict, item)
		case item.mustRestamp():
			p.restamp = append(p.restamp, item)
		}
	}
	for state, items := range p.byState {
		if state == current || state == optedOut {
			continue
		}
		for _, item := range items {
			for _, at := range item.transitionTimes(state) {
				if !at.Before(now) {
					p.recheckBy(at.Add(time.Second))
				}
			}
		}
	}
}

func (p *plan) restarts() bool { return p.policy.Spec.Restart.Strategy == v1alpha1.RollingRestart }

// haltingWorkload returns the workload whose failed restart holds up the others, the first by name;
// nil for none. A workload that was not available before its restart holds up no other.
func (p *plan) haltingWorkload() *workloadState {
	if p.policy.Spec.Restart.OnFailure == v1alpha1.RestartContinue {
		return nil
	}
	var first *workloadState
	for _, state := range []state{failed, overdue, restarting} {
		for _, item := range p.byState[state] {
			halts := item.ongoing.retried || (state == failed && !item.ongoing.unavailable)
			if halts && (first == nil || item.String() < first.String()) {
				first = item
			}
		}
	}
	return first
}

func (p *plan) schedule(now time.Time) {
	waiting := slices.Concat(p.byState[pending], slices.DeleteFunc(slices.Concat(p.byState[failed], p.byState[overdue]), (*workloadState).isExhausted))
	p.windows, p.windowError = window.Parse(p.policy.Spec.Restart.Windows)
	if p.windowError != nil || !p.restarts() || len(waiting) == 0 {
		return
	}
	if p.windowClosed = !p.windows.Open(now); p.windowClosed {
		p.windowOpensAt = p.windows.Next(now)
		p.recheckBy(p.windowOpensAt)
	}
	for _, item := range slices.SortedFunc(slices.Values(waiting), compareSchedule) {
		ready := latestChange(item.pendingChanges).Add(gracePeriod)
		switch {
		case p.awaitsWindow(item):
		case now.Before(ready):
			p.recheckBy(ready)
		case (p.haltedBy == nil || item.ongoing != nil) && p.hasCapacity(item):
			p.begin = append(p.begin, item)
			// Its last outdated pod may be due for eviction at the very moment of the new restart.
			p.evict = slices.DeleteFunc(p.evict, func(other *workloadState) bool { return other == item })
		}
	}
}

// hasCapacity reports whether a workload may begin beside those that are being restarted. A
// workload that is not available waits for all of them, and no other waits for it, because it may
// never become available.
func (p *plan) hasCapacity(item *workloadState) bool {
	taken := len(p.begin)
	for _, other := range p.byState[restarting] {
		if !item.rollout.available || (!other.ongoing.unavailable && !other.ongoing.retried) {
			taken++
		}
	}
	return taken < int(max(p.policy.Spec.Restart.MaxConcurrent, 1))
}

// compareSchedule orders available workloads first, then those of the namespace whose last restart
// is longest ago, then those whose last write did not fail recently, then those with the oldest
// change.
func compareSchedule(a, b *workloadState) int {
	return cmp.Or(
		-compareBool(a.rollout.available, b.rollout.available),
		a.lastTurn.Compare(b.lastTurn),
		a.lastFailedWrite.Compare(b.lastFailedWrite),
		latestChange(a.pendingChanges).Compare(latestChange(b.pendingChanges)),
		cmp.Compare(a.String(), b.String()),
	)
}

// compareBool orders false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (p *plan) recheckBy(at time.Time) {
	if !at.IsZero() && at.Before(p.recheckAt) {
		p.recheckAt = at
	}
}

// refused moves a workload that could not be restarted to blocked.
func (p *plan) refused(item *workloadState, from state) {
	if item.refusal != "" {
		p.move(item, from, blocked)
		p.reasons[item] = item.refusal
	}
}

// move moves a workload from one state to another.
func (p *plan) move(item *workloadState, from, to state) {
	p.byState[from] = slices.DeleteFunc(slices.Clone(p.byState[from]), func(other *workloadState) bool { return other == item })
	p.byState[to] = append(p.byState[to], item)
}
