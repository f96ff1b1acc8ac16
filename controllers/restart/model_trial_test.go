package restart

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/window"
)

// tick is the time between two steps of the model.
const tick = 20 * time.Second

// policyModel is a policy of the model with its workloads.
type policyModel struct {
	policy    *v1alpha1.ServingCertPolicy
	workloads []*modeledWorkload
	// bound is how long the restarts of its available workloads take at most, one after the other,
	// whatever the workloads of other policies do.
	bound time.Duration
	last  *plan
	// outsideWindows: a workload is restarted outside the windows if what it holds expires before
	// the next window opens.
	outsideWindows bool
}

// mutant is a fault of the operator that the model must detect.
type mutant struct {
	// believes: a label counts, whichever client wrote it. progresses: progress extends the time
	// limit of a restart. backsOff: an error of one write delays all. forgets: a restart that
	// failed is never repeated. strict: workloads wait for a window even if what they hold expires.
	// loose: everything counts as expiring. goesOn: no failure halts the others. waits: pods that
	// are not ready are waited for, whatever their controller does. unstages: a partition is
	// ignored. givesUp: a refused eviction is not retried.
	believes, progresses, backsOff, forgets, strict, loose, goesOn, waits, unstages, givesUp bool
}

// trial is one run of the model.
type trial struct {
	*model
	r         *Reconciler
	policies  []*policyModel
	broken    mutant
	changedAt []time.Time
	// expires is how long after a change its previous version expires.
	expires time.Duration
	// succeeds is when another manager takes over; zero for never.
	succeeds time.Time
	backoff  time.Duration
}

// behaviors draws a behavior. It also returns how long a restart with it takes at most, not
// counting the startup of the pods.
func behaviors(t *rapid.T) (h behavior, slowest time.Duration) {
	until := now.Add(time.Duration(rapid.IntRange(1, 200).Draw(t, "minutes of trouble")) * time.Minute)
	if rapid.Bool().Draw(t, "for ever") {
		until = now.Add(1e5 * time.Hour)
	}
	all := []struct {
		behavior
		worst time.Duration
	}{
		{behavior{}, 0}, {behavior{}, 0}, {behavior{neverReady: true}, 0}, {behavior{breaks: true}, progressTimeout + 3*time.Minute}, {behavior{clings: true}, maxRestartDuration},
		{behavior{endless: true}, 0}, {behavior{quota: true}, 0}, {behavior{deadNode: true}, 3 * time.Minute}, {behavior{undoes: true}, 3 * time.Minute},
		{behavior{forges: true, neverReady: true}, 0}, {behavior{paused: true}, 0}, {behavior{webhook: until}, time.Minute}, {behavior{budget: until}, progressTimeout + 3*time.Minute},
		{behavior{expires: true}, 0}, {behavior{expires: true}, 0}, {behavior{staged: true}, 0}, {behavior{staged: true, expires: true}, 0},
		{behavior{budgets: until}, progressTimeout + 3*time.Minute}, {behavior{expires: true, budget: until}, 0}, {behavior{expires: true, budgets: until}, 0},
	}
	chosen := rapid.SampledFrom(all).Draw(t, "habit")
	return chosen.behavior, chosen.worst
}

func newTrial(t *rapid.T, broken mutant) *trial {
	m := &model{now: now}
	x := &trial{model: m, broken: broken, expires: time.Duration(rapid.IntRange(-1, 30).Draw(t, "hours until it expires")) * time.Hour}
	x.succeed()
	for p := range 2 {
		of := &policyModel{policy: rollingPolicy(func(r *v1alpha1.Restart) {
			r.OnFailure = rapid.SampledFrom([]v1alpha1.RestartFailurePolicy{v1alpha1.RestartContinue, v1alpha1.RestartHalt}).Draw(t, "onFailure")
			r.MaxConcurrent = rapid.Int32Range(1, 2).Draw(t, "maxConcurrent")
			if p == 1 && rapid.Bool().Draw(t, "windows") {
				r.Windows = []v1alpha1.RestartWindow{{Schedule: "0 17 * * *", Duration: "6h", TimeZone: "UTC"}}
			}
		}), outsideWindows: rapid.Bool().Draw(t, "outside the windows")}
		if !of.outsideWindows || broken.strict {
			of.policy.Spec.Restart.OutsideWindows = v1alpha1.RestartOutsideNever
		}
		for i := range rapid.IntRange(1, 4).Draw(t, "workloads") {
			w := newModeledWorkload(t, m, fmt.Sprintf("p%d-w%d", p, i))
			of.workloads = append(of.workloads, w.modeledWorkload)
			of.bound += w.worst + 2*(w.startup+3*tick) + 2*tick
		}
		of.bound = of.bound*3/2 + gracePeriod + 2*tick
		x.policies = append(x.policies, of)
		m.workloads = append(m.workloads, of.workloads...)
	}
	x.changedAt = []time.Time{now.Add(time.Duration(rapid.IntRange(10, 30).Draw(t, "minutes")) * time.Minute)}
	if rapid.Bool().Draw(t, "successor") {
		x.succeeds = x.changedAt[0].Add(time.Duration(rapid.IntRange(0, 120).Draw(t, "minutes until the successor")) * time.Minute)
		for _, of := range x.policies {
			for _, w := range of.workloads {
				if w.forges {
					of.bound += maxRestartDuration + tick // a new manager may take the label for one of its predecessor
				}
			}
		}
	}
	if rapid.Bool().Draw(t, "again") {
		x.changedAt = append(x.changedAt, x.changedAt[0].Add(20*time.Hour))
	}
	return x
}

// succeed starts another manager, with empty memory.
func (x *trial) succeed() {
	x.r = New(Reconciler{Client: x.model, Live: x.model, Recorder: &discardRecorder{}})
	x.r.startedAt, x.succeeds = x.now, time.Time{}
}

type drawn struct {
	*modeledWorkload
	worst time.Duration
}

func newModeledWorkload(t *rapid.T, m *model, name string) drawn {
	h, slowest := behaviors(t)
	w := &modeledWorkload{behavior: h, model: m, name: name, kind: rapid.SampledFrom([]string{kindDeployment, kindStatefulSet, kindDaemonSet}).Draw(t, "kind")}
	w.tenant = rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "tenant")
	if !w.webhook.IsZero() {
		w.tenant = "behind-a-webhook"
	}
	w.startup = time.Duration(rapid.IntRange(0, 180).Draw(t, "startup")) * time.Second
	switch {
	case w.deadNode:
		w.kind = kindDaemonSet
	case w.quota || w.undoes || w.paused || w.endless:
		w.kind = kindDeployment
	case w.staged:
		w.kind = kindStatefulSet
	case !w.budget.IsZero() || !w.budgets.IsZero():
		// A StatefulSet whose pods are not ready needs evictions, whatever its strategy.
		w.kind, w.onDelete = kindStatefulSet, !w.expires || rapid.Bool().Draw(t, "OnDelete")
	case w.kind == kindStatefulSet:
		w.onDelete = rapid.Bool().Draw(t, "OnDelete")
	}
	for range modelReplicas {
		w.addPod()
	}
	if w.deadNode {
		w.pods[0].Spec.NodeName = "dead"
		w.pods[0].Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}, {Type: corev1.ContainersReady, Status: corev1.ConditionTrue}}
	}
	return drawn{w, slowest}
}

// ends returns the final states that the workload may have; none if all its pods must be replaced.
func (w *modeledWorkload) ends() []state {
	forever := func(until time.Time) bool { return until.After(now.Add(1e4 * time.Hour)) }
	switch {
	case w.breaks, w.forges: // a forged label that a new manager trusts harms only the workload itself
		return []state{failed, overdue}
	case w.clings, w.endless:
		return []state{overdue, failed}
	case w.paused:
		return []state{blocked}
	case forever(w.webhook):
		return []state{blocked}
	case forever(w.budget), forever(w.budgets):
		return []state{failed}
	}
	return nil
}

// ended reports whether the workload is in its final state, and the status reports it.
func (of *policyModel) ended(w *modeledWorkload) bool {
	switch halts := of.last.haltedBy; {
	case halts != nil && halts.GetName() != w.name && slices.ContainsFunc(of.last.byState[pending], w.is):
		return of.says(w) && of.ended(w.model.find(halts.GetNamespace(), halts.GetName()))
	case w.forges && w.old() == 0:
		return true
	case len(w.ends()) == 0:
		return w.old() == 0 && w.mark == ""
	case w.breaks && !w.onDelete && w.restarts < w.renewals:
		return false
	}
	for _, at := range w.ends() {
		if slices.ContainsFunc(of.last.byState[at], w.is) {
			return of.says(w)
		}
	}
	return false
}

func (w *modeledWorkload) is(item *workloadState) bool { return item.GetName() == w.name }

// says reports whether the status names the workload and the reason for its state.
func (of *policyModel) says(w *modeledWorkload) bool {
	words := ""
	if w.model.now.Before(w.budgets) && slices.ContainsFunc(of.last.byState[failed], w.is) {
		words = "delete one of the PodDisruptionBudgets budget-0, budget-1"
	}
	return slices.ContainsFunc(of.last.workloads(), func(said v1alpha1.WorkloadRestart) bool {
		return said.Name == w.name && said.Message != "" && strings.Contains(said.Message, words)
	})
}

// renew renews the certificate that all workloads read.
func (x *trial) renew(at time.Time) {
	for _, w := range x.workloads {
		w.changes = []change{{reason: v1alpha1.RestartOnCertificateRenewed, at: at, startedBefore: at.Add(clockSlack), container: "main", serviceCA: "default", message: "renewed",
			heldObjects: []heldObject{{expires: at.Add(x.expires)}}}}
		w.renewals++
		w.version++
	}
}

// look lets the operator evaluate all workloads once.
func (x *trial) look(t *testing.T) (requeueAfter time.Duration) {
	t.Helper()
	if x.broken.believes {
		x.r.startedAt = x.now
	}
	var groups []group
	for _, of := range x.policies {
		g := group{policy: of.policy}
		if x.broken.goesOn {
			g.policy = of.policy.DeepCopy()
			g.policy.Spec.Restart.OnFailure = v1alpha1.RestartContinue
		}
		for _, w := range of.workloads {
			if item := x.r.newWorkloadState(x.now, w.object(), g.policy, slices.Clone(w.changes)); item != nil {
				g.items = append(g.items, item)
			}
		}
		if failed := x.r.refresh(t.Context(), x.now, g.items); len(failed) > 0 {
			x.fail("pods are not listed: %v", failed)
		}
		x.spoil(g.items)
		x.checkHalt(of, planFor(x.now, g.policy, g.items))
		groups = append(groups, g)
	}
	plans, requeueAfter := x.r.act(t.Context(), x.now, groups)
	for i, p := range plans {
		x.policies[i].last = p
		x.checkPlaces(x.policies[i], p)
		x.checkTurns(p)
	}
	return requeueAfter
}

func (x *trial) spoil(items []*workloadState) {
	for _, item := range items {
		if x.broken.progresses && item.ongoing != nil {
			item.ongoing.since = latest(item.ongoing.since, item.progress)
		}
		if x.broken.forgets {
			item.restartedFor = now.Add(1e6 * time.Hour)
		}
		if x.broken.loose && len(item.pendingChanges) > 0 {
			item.expires = now
		}
		if x.broken.waits {
			item.unreadyOutdated = false
		}
		if x.broken.unstages && item.rollout.staged {
			item.rollout.manualUpdate = false
		}
		if x.broken.givesUp && strings.Contains(item.restartRecord.refusal.message, "cannot be evicted") {
			item.restartRecord.refusal.until = now.Add(1e6 * time.Hour)
		}
	}
}

// begins returns when restarts may begin at the earliest, at from or later.
func (of *policyModel) begins(from, expires time.Time) (time.Time, error) {
	windows, err := window.Parse(of.policy.Spec.Restart.Windows)
	if next := windows.Next(from); !windows.Open(from) && (!of.outsideWindows || !expires.Before(next)) {
		return next, err
	}
	return from, err
}

// checkPlaces checks that, when restarts begin, at most maxConcurrent are under way, and that they
// begin within a window or because what the workload holds expires.
func (x *trial) checkPlaces(of *policyModel, p *plan) {
	if len(p.begin) == 0 {
		return
	}
	for _, item := range p.begin {
		begins, err := of.begins(x.now, latestChange(item.changes).Add(x.expires))
		if err != nil || begins.After(x.now) {
			x.fail("a restart begins while no window is open (%v)", err)
		}
	}
	taken := 0
	for _, item := range p.byState[restarting] {
		if !item.ongoing.unavailable {
			taken++
		}
	}
	if taken > int(p.policy.Spec.Restart.MaxConcurrent) {
		x.fail("%d are under way at once", taken)
	}
}

// checkHalt checks that, after a failed restart, only workloads that were restarted before begin,
// and that no healthy workload halts the others.
func (x *trial) checkHalt(of *policyModel, p *plan) {
	if of.policy.Spec.Restart.OnFailure == v1alpha1.RestartContinue {
		return
	}
	for _, item := range p.byState[failed] {
		if !item.ongoing.unavailable && slices.ContainsFunc(p.begin, func(next *workloadState) bool { return next.ongoing == nil }) {
			x.fail("%s begins though %s has failed", namesOf(p.begin), item)
		}
	}
	if p.haltedBy != nil && x.find(p.haltedBy.GetNamespace(), p.haltedBy.GetName()).well() {
		x.fail("%s halts the others, and nothing is wrong with it", p.haltedBy)
	}
}

// checkTurns checks that the next manager reads from a mark the restart that this one knows, and
// that each eviction has a reason in the status.
func (x *trial) checkTurns(p *plan) {
	for _, item := range slices.Concat(p.byState[restarting], p.byState[overdue], p.byState[failed]) {
		if read, ok := parseMark(item.ongoing.mark(), x.now); !x.broken.progresses && (!ok || read != *item.ongoing) {
			x.fail("%s is in the turn %v, and the next manager reads %v", item, *item.ongoing, read)
		}
		if _, reason := item.state(x.now); item.needsEviction() && reason == "" {
			x.fail("the pods of %s are evicted, and nothing says why", item)
		}
	}
}

// run advances the time until every workload is in its final state. It returns what went wrong,
// including workloads that are not there in time.
func (x *trial) run(t *testing.T) []string {
	t.Helper()
	next, versions := x.now, 0
	for start := x.now; len(x.wrong) == 0; x.now = x.now.Add(tick) {
		sum := 0
		for _, w := range x.workloads {
			w.tick()
			sum += w.version
		}
		if len(x.changedAt) > 0 && !x.now.Before(x.changedAt[0]) {
			x.renew(x.changedAt[0])
			x.changedAt, start = x.changedAt[1:], x.now
		}
		if !x.succeeds.IsZero() && !x.now.Before(x.succeeds) {
			x.succeed()
			next = x.now
		}
		if (sum != versions && x.backoff == 0) || !x.now.Before(next) {
			requeueAfter := x.look(t)
			for tries := 0; requeueAfter <= time.Second && tries < 10 && !x.broken.backsOff; tries++ {
				requeueAfter = x.look(t)
			}
			next = x.now.Add(x.delayed(requeueAfter))
		}
		versions = sum
		switch done := x.check(start); {
		case done && len(x.changedAt) == 0:
			return nil
		case x.now.Sub(start) > 100*time.Hour:
			for _, of := range x.policies {
				for _, w := range of.workloads {
					if !of.ended(w) {
						x.fail("%s %s of %s never ends: %d pods are old, marked %q, %+v", w.kind, w.name, w.tenant, w.old(), w.mark, w.behavior)
					}
				}
			}
		}
	}
	return x.wrong
}

// delayed returns the requeue delay; a mutant backs off exponentially for all workloads at once.
func (x *trial) delayed(requeueAfter time.Duration) time.Duration {
	fails := slices.ContainsFunc(x.workloads, func(w *modeledWorkload) bool { return x.now.Before(w.webhook) && w.old() > 0 })
	if !x.broken.backsOff || !fails {
		x.backoff = 0
		return requeueAfter
	}
	x.backoff = min(2*max(x.backoff, time.Second), 1000*time.Second)
	return x.backoff
}

// check reports whether every workload is in its final state, and records those that are late.
func (x *trial) check(start time.Time) bool {
	if len(x.workloads[0].changes) == 0 {
		return false
	}
	done := true
	for _, of := range x.policies {
		from, err := of.begins(start, latestChange(x.workloads[0].changes).Add(x.expires))
		if err != nil {
			x.fail("the windows are invalid: %v", err)
		}
		for _, w := range of.workloads {
			if of.ended(w) {
				continue
			}
			done = false
			if w.well() && of.goesOn() && x.now.Sub(from) > of.bound && of.bound < 6*time.Hour {
				x.fail("%s of %s was not restarted within %s", w.name, w.tenant, of.bound)
			}
		}
	}
	return done
}

// goesOn reports whether no failure of one workload halts the others.
func (of *policyModel) goesOn() bool {
	return of.policy.Spec.Restart.OnFailure == v1alpha1.RestartContinue ||
		!slices.ContainsFunc(of.workloads, func(w *modeledWorkload) bool { return !w.well() })
}

// well reports whether neither the workload nor its owner has any fault that affects its restart.
func (w *modeledWorkload) well() bool {
	return w.behavior == behavior{} || w.behavior == behavior{deadNode: true}
}
