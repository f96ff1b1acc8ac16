package restart

import (
	"cmp"
	"slices"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/window"
)

// gathering is how long reasons gather before they make one restart.
const gathering = 10 * time.Second

// maxInterval is when a policy is looked at again, at the latest.
const maxInterval = 10 * time.Minute

// plan is what is to be done for the workloads of one policy.
type plan struct {
	policy *v1alpha1.ServingCertPolicy
	// begin are the workloads whose turn it is; restamp those whose restart was undone, evict those of which the next pod is to be replaced,
	// finish those that are done.
	begin, restamp, evict, finish []*item
	// byState are all workloads.
	byState map[state][]*item
	// why a workload is held, has failed or is left alone.
	why map[*item]string
	// halts is the failed workload behind which the others wait; nil when none does.
	halts *item
	// windows are those of the policy. closed: none is open; opens is when one does, zero for never.
	windows window.Windows
	closed  bool
	opens   time.Time
	late    Late
	// invalid is what is wrong with the windows.
	invalid error
	// again is when the clock alone may change something.
	again time.Time
}

// planFor decides whose turn it is.
func planFor(now time.Time, policy *v1alpha1.ServingCertPolicy, items []*item) *plan {
	p := &plan{policy: policy, byState: map[state][]*item{}, why: map[*item]string{}, again: now.Add(maxInterval)}
	for _, one := range items {
		state, why := one.state(now)
		p.byState[state] = append(p.byState[state], one)
		p.why[one] = why
	}
	p.goOn(now)
	p.halts = p.halting()
	p.takeTurns(now)
	p.late = p.isLate(now)
	return p
}

// goOn goes on with what is under way.
func (p *plan) goOn(now time.Time) {
	p.finish = slices.DeleteFunc(slices.Clone(p.byState[completed]), func(one *item) bool { return one.refusal != "" })
	for _, one := range slices.Concat(p.byState[restarting], p.byState[overdue], p.byState[failed]) {
		if one.polled() {
			p.lookAt(now.Add(retryEviction))
		}
		switch {
		case one.byEviction() && one.refusal == "":
			p.evict = append(p.evict, one)
		case one.restamps():
			p.restamp = append(p.restamp, one)
		}
	}
	for state, some := range p.byState {
		if state == current || state == optedOut {
			continue
		}
		for _, one := range some {
			for _, at := range one.changesAt(state) {
				if !at.Before(now) {
					p.lookAt(at.Add(time.Second))
				}
			}
		}
	}
}

func (p *plan) restarts() bool { return p.policy.Spec.Restart.Strategy == v1alpha1.RollingRestart }

// halting is a workload whose failed restart holds up the others, the first by name. One that was not available before does not.
func (p *plan) halting() *item {
	if p.policy.Spec.Restart.OnFailure == v1alpha1.RestartContinue {
		return nil
	}
	var first *item
	for _, state := range []state{failed, overdue, restarting} {
		for _, one := range p.byState[state] {
			halts := one.turn.retried || (state == failed && !one.turn.unavailable)
			if halts && (first == nil || one.String() < first.String()) {
				first = one
			}
		}
	}
	return first
}

func (p *plan) takeTurns(now time.Time) {
	waiting := slices.Concat(p.byState[pending], slices.DeleteFunc(slices.Concat(p.byState[failed], p.byState[overdue]), (*item).isOver))
	p.windows, p.invalid = window.Parse(p.policy.Spec.Restart.Windows)
	if p.invalid != nil || !p.restarts() || len(waiting) == 0 {
		return
	}
	if p.closed = !p.windows.Open(now); p.closed {
		p.opens = p.windows.Next(now)
		p.lookAt(p.opens)
	}
	for _, one := range slices.SortedFunc(slices.Values(waiting), earlierTurn) {
		ready := last(one.unknown).Add(gathering)
		switch {
		case p.awaitsWindow(one):
		case now.Before(ready):
			p.lookAt(ready)
		case (p.halts == nil || one.turn != nil) && p.hasPlace(one):
			p.begin = append(p.begin, one)
			// Its last old pod may be evicted just when it is restarted for it.
			p.evict = slices.DeleteFunc(p.evict, func(other *item) bool { return other == one })
		}
	}
}

// hasPlace reports whether a workload may begin beside those that are under way. One that is not available waits for all of them, and no
// other waits for it: it may never become available.
func (p *plan) hasPlace(one *item) bool {
	taken := len(p.begin)
	for _, other := range p.byState[restarting] {
		if !one.rollout.available || (!other.turn.unavailable && !other.turn.retried) {
			taken++
		}
	}
	return taken < int(max(p.policy.Spec.Restart.MaxConcurrent, 1))
}

// earlierTurn puts what is available first, then those of the namespace that had no turn for the longest time, of these the one that was not
// tried in vain lately, then what holds the oldest.
func earlierTurn(a, b *item) int {
	return cmp.Or(
		-compare(a.rollout.available, b.rollout.available),
		a.served.Compare(b.served),
		a.tried.Compare(b.tried),
		last(a.unknown).Compare(last(b.unknown)),
		cmp.Compare(a.String(), b.String()),
	)
}

// compare puts false before true.
func compare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (p *plan) lookAt(at time.Time) {
	if !at.IsZero() && at.Before(p.again) {
		p.again = at
	}
}

// refused notes that a workload could not be restarted.
func (p *plan) refused(one *item, from state) {
	if one.refusal != "" {
		p.move(one, from, held)
		p.why[one] = one.refusal
	}
}

// move notes that a workload has gone from one state to another.
func (p *plan) move(one *item, from, to state) {
	p.byState[from] = slices.DeleteFunc(slices.Clone(p.byState[from]), func(other *item) bool { return other == one })
	p.byState[to] = append(p.byState[to], one)
}
