package restart

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

func namesOf(items []*workloadState) string {
	var names []string
	for _, item := range items {
		names = append(names, item.GetName())
	}
	return strings.Join(names, " ")
}

func unready(d *appsv1.Deployment)   { d.Status.AvailableReplicas = 1 }
func replacing(d *appsv1.Deployment) { d.Status.UpdatedReplicas = 1 }

func stuck(d *appsv1.Deployment) {
	replacing(d)
	progressedAt(now, "ProgressDeadlineExceeded")(d)
}

// tried returns the workload with a last write that failed that long ago.
func tried(item *workloadState, ago time.Duration) *workloadState {
	item.lastFailedWrite = now.Add(-ago)
	return item
}

// served returns the workload with a last restart in its namespace that long ago.
func served(item *workloadState, ago time.Duration) *workloadState {
	item.lastTurn = now.Add(-ago)
	return item
}

// The plan begins the right workloads, and is made again after the right time.
func TestSchedule(t *testing.T) {
	t.Parallel()
	atOnce := func(n int32) func(*v1alpha1.Restart) { return func(r *v1alpha1.Restart) { r.MaxConcurrent = n } }
	goesOn := func(r *v1alpha1.Restart) { r.OnFailure = v1alpha1.RestartContinue }
	closed := func(r *v1alpha1.Restart) {
		r.Windows = []v1alpha1.RestartWindow{{Schedule: "0 2 * * *", Duration: "1h", TimeZone: "UTC"}}
	}
	waits := func(name string, ago time.Duration, edits ...func(*appsv1.Deployment)) *workloadState {
		return stale(deployment(name, edits...), renewed(ago))
	}
	for name, tc := range map[string]struct {
		policy *v1alpha1.ServingCertPolicy
		items  []*workloadState
		begin  string
		again  time.Duration
	}{
		"nobody":                         {rollingPolicy(), []*workloadState{stale(deployment("a"))}, "", maxRequeueInterval},
		"one at a time":                  {rollingPolicy(), []*workloadState{waits("b", time.Minute), waits("a", time.Minute)}, "a", maxRequeueInterval},
		"several at a time":              {rollingPolicy(atOnce(3)), []*workloadState{waits("b", time.Minute), waits("a", time.Minute)}, "a b", maxRequeueInterval},
		"the oldest first":               {rollingPolicy(), []*workloadState{waits("a", time.Minute), waits("b", time.Hour)}, "b", maxRequeueInterval},
		"who is well first":              {rollingPolicy(), []*workloadState{waits("a", time.Hour, unready), waits("b", time.Minute)}, "b", maxRequeueInterval},
		"who is unwell, too":             {rollingPolicy(), []*workloadState{waits("a", time.Hour, unready)}, "a", maxRequeueInterval},
		"who was tried in vain last":     {rollingPolicy(), []*workloadState{tried(waits("a", time.Hour), time.Minute), waits("b", time.Minute)}, "b", maxRequeueInterval},
		"who was tried in vain first":    {rollingPolicy(), []*workloadState{tried(waits("a", time.Hour), time.Minute), tried(waits("b", time.Minute), time.Hour)}, "b", maxRequeueInterval},
		"a namespace in its turn":        {rollingPolicy(), []*workloadState{served(waits("a", time.Hour), time.Minute), served(waits("b", time.Minute), time.Hour)}, "b", maxRequeueInterval},
		"reasons gather":                 {rollingPolicy(), []*workloadState{waits("a", gracePeriod-time.Second)}, "", time.Second},
		"the last reason counts":         {rollingPolicy(), []*workloadState{stale(deployment("a"), renewed(time.Hour), trusts(time.Second))}, "", gracePeriod - time.Second},
		"who gathers is not waited for":  {rollingPolicy(), []*workloadState{waits("a", time.Second, unready), waits("b", gracePeriod)}, "b", gracePeriod - time.Second},
		"one is under way":               {rollingPolicy(), []*workloadState{marked(waits("a", time.Minute, replacing), time.Minute, ""), waits("b", time.Minute)}, "", 9 * time.Minute},
		"one of two is under way":        {rollingPolicy(atOnce(2)), []*workloadState{marked(waits("a", time.Minute, replacing), time.Minute, ""), waits("b", time.Minute), waits("c", time.Minute)}, "b", 9 * time.Minute},
		"one has just been done":         {rollingPolicy(), []*workloadState{marked(stale(deployment("a")), time.Minute, ""), waits("b", time.Minute)}, "b", maxRequeueInterval},
		"another rolls anyway":           {rollingPolicy(), []*workloadState{waits("a", time.Minute, replacing), waits("b", time.Minute)}, "b", maxRequeueInterval},
		"one failed":                     {rollingPolicy(atOnce(5)), []*workloadState{marked(waits("a", time.Hour, stuck), time.Minute, ""), waits("b", time.Minute)}, "", maxRequeueInterval},
		"one failed, and never was well": {rollingPolicy(), []*workloadState{marked(waits("a", time.Minute, stuck), time.Minute, unavailable), waits("b", time.Minute)}, "b", maxRequeueInterval},
		"one failed, and it goes on":     {rollingPolicy(goesOn), []*workloadState{marked(waits("a", time.Minute, stuck), time.Minute, ""), waits("b", time.Minute)}, "b", maxRequeueInterval},
		"no window is open":              {rollingPolicy(closed), []*workloadState{waits("a", time.Minute)}, "", maxRequeueInterval},
		"the strategy is None":           {rollingPolicy(func(r *v1alpha1.Restart) { r.Strategy = v1alpha1.RestartNone }), []*workloadState{waits("a", time.Minute)}, "", maxRequeueInterval},
		"a window makes no sense": {rollingPolicy(func(r *v1alpha1.Restart) { r.Windows = []v1alpha1.RestartWindow{{Schedule: "nonsense"}} }),
			[]*workloadState{waits("a", time.Minute)}, "", maxRequeueInterval},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := planFor(now, tc.policy, tc.items)
			if got := namesOf(p.begin); got != tc.begin {
				t.Errorf("it is the turn of %q, want %q", got, tc.begin)
			}
			if got := p.recheckAt.Sub(now).Round(time.Second); got != tc.again {
				t.Errorf("it looks again after %s, want %s", got, tc.again)
			}
		})
	}
}

// Whatever the workloads: at most maxConcurrent are under way, none begins while one halts the
// others, and none waits without a reason.
func TestRestartsAreContinued(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		policy := rollingPolicy(func(r *v1alpha1.Restart) {
			r.MaxConcurrent = rapid.Int32Range(1, 5).Draw(t, "maxConcurrent")
			r.OnFailure = rapid.SampledFrom([]v1alpha1.RestartFailurePolicy{v1alpha1.RestartHalt, v1alpha1.RestartContinue}).Draw(t, "onFailure")
		})
		var items []*workloadState
		for i := range rapid.IntRange(0, 12).Draw(t, "workloads") {
			edits := rapid.SliceOfN(rapid.SampledFrom([]func(*appsv1.Deployment){unready, replacing, stuck}), 0, 2).Draw(t, "edits")
			item := stale(deployment(fmt.Sprint(i), edits...), renewed(time.Hour))
			if rapid.Bool().Draw(t, "marked") {
				marked(item, time.Minute, rapid.SampledFrom([]string{"", unavailable}).Draw(t, "suffix"))
			}
			items = append(items, item)
		}
		p := planFor(now, policy, items)
		// Those that were not available before their restart do not count against available ones.
		under := map[bool]int{true: len(p.begin), false: len(p.begin)}
		for _, item := range p.byState[restarting] {
			under[false]++
			if !item.ongoing.unavailable {
				under[true]++
			}
		}
		for _, item := range p.begin {
			if under[item.rollout.available] > int(policy.Spec.Restart.MaxConcurrent) || p.haltedBy != nil {
				t.Fatalf("%d are under way at once, behind %v", under[item.rollout.available], p.haltedBy)
			}
		}
		for _, item := range p.byState[pending] {
			if room := under[item.rollout.available] < int(policy.Spec.Restart.MaxConcurrent); room && p.haltedBy == nil && !slices.Contains(p.begin, item) {
				t.Fatalf("%s waits, though there is room", item)
			}
		}
		total := 0
		for _, items := range p.byState {
			total += len(items)
		}
		if total != len(items) {
			t.Fatalf("%d of %d workloads are told of", total, len(items))
		}
	})
}

// The report for the status of a policy.
func TestReport(t *testing.T) {
	t.Parallel()
	halting := []*workloadState{marked(stale(deployment("a", stuck)), time.Minute, ""), stale(deployment("b"), renewed(time.Hour))}
	paused := func(d *appsv1.Deployment) { d.Spec.Paused = true }
	for name, tc := range map[string]struct {
		policy  *v1alpha1.ServingCertPolicy
		items   []*workloadState
		counts  v1alpha1.RestartCounts
		halted  bool
		reason  string
		message []string
	}{
		"all is well": {rollingPolicy(), nil, v1alpha1.RestartCounts{}, false, "AllCurrent", []string{"every workload runs with its current certificates and bundles"}},
		"halted": {rollingPolicy(), halting, v1alpha1.RestartCounts{Pending: 1, Failed: 1}, true, "RolloutFailed", []string{
			"Deployment shop/a was restarted, and it missed its progress deadline: no other workload is restarted until its rollout is complete",
			"kubectl rollout undo", "spec.restart.onFailure"}},
		"under way": {rollingPolicy(), []*workloadState{marked(stale(deployment("a", replacing)), time.Minute, ""), stale(deployment("b"), renewed(time.Hour)), stale(deployment("c", paused), renewed(time.Hour))},
			v1alpha1.RestartCounts{Pending: 2, Blocked: 1, InProgress: 1}, false, "Restarting", []string{
				"1 are being restarted: Deployment shop/a; 1 wait for their turn: Deployment shop/b; 1 cannot be restarted: Deployment shop/c (it is paused)"}},
		"no window": {rollingPolicy(func(r *v1alpha1.Restart) {
			r.Windows = []v1alpha1.RestartWindow{{Schedule: "0 2 * * *", Duration: "1h", TimeZone: "UTC"}}
		}), []*workloadState{stale(deployment("b"), renewed(time.Hour))}, v1alpha1.RestartCounts{Pending: 1}, false, "Restarting", []string{"1 wait for their turn, from 2071-03-15T02:00:00Z: Deployment shop/b"}},
		"a window that never opens": {rollingPolicy(func(r *v1alpha1.Restart) {
			r.Windows = []v1alpha1.RestartWindow{{Schedule: "0 2 31 2 *", Duration: "1h", TimeZone: "UTC"}}
		}), []*workloadState{stale(deployment("b"), renewed(time.Hour))}, v1alpha1.RestartCounts{Pending: 1}, false, "Restarting", []string{"in a window that never opens: Deployment shop/b"}},
		"a window that makes no sense": {rollingPolicy(func(r *v1alpha1.Restart) { r.Windows = []v1alpha1.RestartWindow{{Schedule: "nonsense"}} }),
			nil, v1alpha1.RestartCounts{}, true, "InvalidWindow", []string{"spec.restart.windows[0].schedule: "}},
		"none": {rollingPolicy(func(r *v1alpha1.Restart) { r.Strategy = v1alpha1.RestartNone }), []*workloadState{stale(deployment("b"), renewed(time.Hour))},
			v1alpha1.RestartCounts{Pending: 1}, false, "StrategyNone", []string{"1 would be restarted by spec.restart.strategy RollingRestart: Deployment shop/b"}},
		"opted out": {rollingPolicy(), []*workloadState{stale(deployment("b", func(d *appsv1.Deployment) {
			d.Annotations = map[string]string{v1alpha1.AnnotationRestart: "false"}
		}), renewed(time.Hour))}, v1alpha1.RestartCounts{OptedOut: 1}, false, "Restarting", []string{"1 opted out: Deployment shop/b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report := planFor(now, tc.policy, tc.items).report()
			report.Counts.Workloads = nil
			if !reflect.DeepEqual(*report.Counts, tc.counts) || report.Halted != tc.halted || report.Reason != tc.reason {
				t.Errorf("it reports %+v", report)
			}
			for _, message := range tc.message {
				if !strings.Contains(report.Message, message) {
					t.Errorf("it says %q, want %q", report.Message, message)
				}
			}
		})
	}
}

// The same workload is named as the halting one, in whichever order the failed ones come.
func TestHaltIsStable(t *testing.T) {
	t.Parallel()
	failed := func(name string) *workloadState { return marked(stale(deployment(name, stuck)), time.Minute, "") }
	for _, items := range [][]*workloadState{{failed("a"), failed("b")}, {failed("b"), failed("a")}} {
		if got := planFor(now, rollingPolicy(), items).haltedBy; got == nil || got.GetName() != "a" {
			t.Errorf("%v halts, want a", got)
		}
	}
}

// Many workloads make no long message, and the same message in whichever order they come.
func TestReportIsShort(t *testing.T) {
	t.Parallel()
	var items []*workloadState
	for i := range 50 {
		items = append(items, stale(deployment(fmt.Sprintf("web-%02d", i)), renewed(time.Hour)))
	}
	message := planFor(now, rollingPolicy(), items).report().Message
	slices.Reverse(items)
	if again := planFor(now, rollingPolicy(), items).report().Message; again != message || !strings.HasSuffix(message, "Deployment shop/web-03, Deployment shop/web-04, …") {
		t.Errorf("it says %q, and then %q", message, again)
	}
}

// A rotation waits for the workloads that the policy restarts, and for no others.
func TestWaitMessage(t *testing.T) {
	t.Parallel()
	both := func(name string, edits ...func(*appsv1.Deployment)) *workloadState {
		return stale(deployment(name, edits...), renewed(time.Hour), trusts(time.Hour), trusts(time.Minute))
	}
	one := func(held int32) rotation.Restarts {
		return rotation.Restarts{
			Clients: 1, ClientNames: []string{"Deployment shop/a"}, Servers: 1, ServerNames: []string{"Deployment shop/a"}, HeldServers: held,
		}
	}
	never := func(r *v1alpha1.Restart) { r.Strategy = v1alpha1.RestartNone }
	closed := func(r *v1alpha1.Restart) {
		r.Windows = []v1alpha1.RestartWindow{{Schedule: "0 2 * * *", Duration: "1h", TimeZone: "UTC"}}
	}
	for name, tc := range map[string]struct {
		policy *v1alpha1.ServingCertPolicy
		item   *workloadState
		want   rotation.Restarts
	}{
		"it waits":                    {rollingPolicy(), both("a"), one(0)},
		"it waits for a window":       {rollingPolicy(closed), both("a"), one(1)},
		"it is under way":             {rollingPolicy(), marked(both("a", replacing), time.Minute, ""), one(0)},
		"it rolls anyway":             {rollingPolicy(), both("a", replacing), one(0)},
		"it failed, and halts":        {rollingPolicy(), marked(both("a", stuck), time.Minute, ""), one(1)},
		"it failed, and nobody cares": {rollingPolicy(func(r *v1alpha1.Restart) { r.OnFailure = v1alpha1.RestartContinue }), marked(both("a", stuck), time.Minute, ""), rotation.Restarts{}},
		"its own rollout failed":      {rollingPolicy(), both("a", stuck), rotation.Restarts{}},
		"it is paused":                {rollingPolicy(), both("a", func(d *appsv1.Deployment) { d.Spec.Paused = true }), rotation.Restarts{}},
		"it opts out": {rollingPolicy(), both("a", func(d *appsv1.Deployment) {
			d.Annotations = map[string]string{v1alpha1.AnnotationRestart: "false"}
		}), rotation.Restarts{}},
		"nothing is restarted": {rollingPolicy(never), both("a"), rotation.Restarts{}},
		"it is current":        {rollingPolicy(), stale(deployment("a")), rotation.Restarts{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			restarts := map[string]rotation.Restarts{}
			planFor(now, tc.policy, []*workloadState{tc.item}).addRotationRestarts(restarts)
			if got := restarts["default"]; fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("it waits for %+v, want %+v", got, tc.want)
			}
		})
	}
}
