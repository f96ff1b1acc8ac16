package restart

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
)

func TestMarks(t *testing.T) {
	t.Parallel()
	for _, want := range []ongoingRestart{
		{}, {unavailable: true}, {retried: true}, {evicted: true}, {unavailable: true, evicted: true}, {retried: true, evicted: true},
	} {
		want.since = now.Truncate(time.Second)
		if got, ok := parseMark(want.mark(), now); !ok || got != want {
			t.Errorf("%s says %+v, want %+v", want.mark(), got, want)
		}
	}
	for _, mark := range []string{"", "nonsense", "20990101T000000Z", ongoingRestart{since: now.Add(skew + time.Second)}.mark()} {
		if got, ok := parseMark(mark, now); ok {
			t.Errorf("%q is believed: %+v", mark, got)
		}
	}
}

func labelled(mark string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) { d.Labels = map[string]string{v1alpha1.LabelRestarting: mark} }
}

// A label counts as a restart if the previous manager left it or this one wrote it, but not if a
// tenant wrote it.
func TestMarkIsTrustedOnlyIfOurs(t *testing.T) {
	t.Parallel()
	mark := ongoingRestart{since: now.Add(-time.Minute)}.mark()
	forged := deployment("web", labelled(mark))
	if (restartRecords{}).get(now, forged, false).ongoing != nil {
		t.Error("a label that appeared later is believed")
	}
	if (restartRecords{}).get(now, forged, true).ongoing == nil {
		t.Error("what the manager before left is not believed")
	}
	if (restartRecords{}).get(now, deployment("web", labelled("20990101T000000Z")), true).ongoing != nil {
		t.Error("a turn in the future is believed")
	}
	l := restartRecords{forged.GetUID(): {pendingMark: mark}}
	if l.get(now, forged, false).ongoing == nil {
		t.Error("a write without an answer is not believed")
	}
	renewed := deployment("web", labelled(ongoingRestart{since: now}.mark()))
	if got := l.get(now, renewed, true).ongoing.since; !got.Equal(now.Add(-time.Minute).Truncate(time.Second)) {
		t.Errorf("a tenant makes its turn begin at %s", got)
	}
	if l.get(now, deployment("web"), false).ongoing == nil {
		t.Error("a tenant ends its turn by removing the label")
	}
}

// The cache keeps the label of a restart only if the operator wrote it under its field manager.
func TestStripForCacheKeepsOwnMarks(t *testing.T) {
	t.Parallel()
	owns := func(manager, field string) []metav1.ManagedFieldsEntry {
		return []metav1.ManagedFieldsEntry{{Manager: manager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(
			`{"f:metadata":{"f:labels":{"f:` + field + `":{}}}}`,
		)}}
	}
	for name, tc := range map[string]struct {
		fields []metav1.ManagedFieldsEntry
		stays  bool
	}{
		"ours":          {owns(string(apply.Restart), v1alpha1.LabelRestarting), true},
		"another label": {owns(string(apply.Restart), "app"), false},
		"kubectl's":     {owns("kubectl", v1alpha1.LabelRestarting), false},
	} {
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1alpha1.LabelRestarting: "x", "app": "web"}, ManagedFields: tc.fields}}
		StripForCache(d)
		StripForCache(d) // a cache may strip an object again
		if _, stays := d.Labels[v1alpha1.LabelRestarting]; stays != tc.stays || len(d.ManagedFields) > 0 {
			t.Errorf("%s: it stays %t, want %t", name, stays, tc.stays)
		}
	}
}

// The removal of a stamp is counted once for each time it was written.
func TestUndone(t *testing.T) {
	t.Parallel()
	record := &restartRecord{}
	l := restartRecords{"uid-of-deployment": record}
	stamped := func(at time.Time) *workload {
		return deployment("web", func(d *appsv1.Deployment) { d.Spec.Template = template(at) })
	}
	start := now.Truncate(time.Second)
	record.begin(ongoingRestart{since: start}, start, now)
	for range 2 {
		l.get(now, stamped(start), false)
	}
	if record.undone != 0 {
		t.Fatal("it counts what was not undone")
	}
	for range 2 {
		l.get(now.Add(time.Second), stamped(time.Time{}), false)
	}
	if record.undone != 1 || !record.undonePromptly {
		t.Fatalf("it was undone %d times, promptly %t", record.undone, record.undonePromptly)
	}
	record.begin(ongoingRestart{since: start}, start, now)
	l.get(now.Add(time.Hour), stamped(start.Add(-time.Hour)), false)
	if record.undone != maxUndone || record.undonePromptly {
		t.Fatalf("it was undone %d times, promptly %t", record.undone, record.undonePromptly)
	}
	record.begin(ongoingRestart{since: start, evicted: true}, start, now)
	l.get(now.Add(time.Hour), stamped(time.Time{}), false)
	record.end()
	if record.undone != maxUndone {
		t.Errorf("after evictions it was undone %d times", record.undone)
	}
	record.begin(ongoingRestart{since: start}, start, now)
	l.get(now, stamped(start), false)
	record.end()
	if record.undone != 0 {
		t.Errorf("its owner let a restart be, and it was undone %d times", record.undone)
	}
}

// A webhook that does not respond delays the other calls by a few seconds at most, and no call
// waits for another one.
func TestRunConcurrently(t *testing.T) {
	t.Parallel()
	var noted []string
	waits := make(chan struct{})
	runConcurrently(t.Context(), []apiCall{
		func(ctx context.Context) func() {
			<-waits // closed by the second call
			_, bounded := ctx.Deadline()
			return func() { noted = append(noted, map[bool]string{true: "first", false: "first, for ever"}[bounded]) }
		},
		func(context.Context) func() { close(waits); return func() { noted = append(noted, "second") } },
	})
	if got := strings.Join(noted, " "); got != "first second" {
		t.Errorf("it made %q", got)
	}
}

// A pod whose node does not respond is left out: the node lifecycle controller has set it to not
// ready while its containers are ready, or its deletion does not complete.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	pod := func(ready, containers corev1.ConditionStatus, reason string) *corev1.Pod {
		p := podOf("agent", 1, time.Hour)
		p.Spec.NodeName = "n1"
		p.Status.StartTime = new(metav1.NewTime(now))
		p.Status.Conditions = []corev1.PodCondition{
			{Type: corev1.PodReady, Status: ready, Reason: reason}, {Type: corev1.ContainersReady, Status: containers},
		}
		return p
	}
	bound := func(ago time.Duration) *corev1.Pod {
		p := pod("", "", "")
		p.CreationTimestamp, p.Status = metav1.NewTime(now.Add(-ago)), corev1.PodStatus{}
		return p
	}
	deleted := func(ago time.Duration) *corev1.Pod {
		p := pod("False", "False", "ContainersNotReady")
		p.DeletionTimestamp = new(metav1.NewTime(now.Add(-ago)))
		return p
	}
	for name, tc := range map[string]struct {
		pod               *corev1.Pod
		unreachable, runs bool
		deadline          time.Time
	}{
		"it is well":                     {pod: pod("True", "True", ""), runs: true},
		"it is not ready":                {pod: pod("False", "False", "ContainersNotReady"), runs: true},
		"a readiness gate is closed":     {pod: pod("False", "True", "ReadinessGatesNotReady"), runs: true},
		"its node does not answer":       {pod: pod("False", "True", ""), unreachable: true},
		"it is bound":                    {pod: bound(time.Minute - time.Second), deadline: now.Add(time.Second)},
		"it has been bound for longer":   {pod: bound(time.Minute + time.Second), unreachable: true},
		"it is being deleted":            {pod: deleted(time.Minute - time.Second), deadline: now.Add(time.Second)},
		"it has been deleted for longer": {pod: deleted(time.Minute + time.Second), unreachable: true},
	} {
		s := newPodStarts()
		s.add(now, tc.pod)
		if _, runs := s.oldest["main"]; runs != tc.runs || (len(s.unreachable) > 0) != tc.unreachable || !s.kubeletDeadline.Equal(tc.deadline) {
			t.Errorf("%s: it runs %t, is away %v, until %s", name, runs, s.unreachable, s.kubeletDeadline)
		}
	}
	w := daemonSet(func(d *appsv1.DaemonSet) { d.Status.NumberAvailable, d.Status.UpdatedNumberScheduled = 1, 1 })
	left := w.withoutUnreachable([]string{"pod agent-1"})
	if w.rollout.available || !left.rollout.available {
		t.Error("a pod on a node that does not answer is counted")
	}
	if !left.rollout.unavailableBudgetUsed || w.rollout.unavailableBudgetUsed {
		t.Error("its controller replaces no pod while one is unavailable")
	}
	uncounted := daemonSet(func(d *appsv1.DaemonSet) { d.Status.NumberMisscheduled, d.Status.NumberAvailable = 1, 1 })
	if uncounted.withoutUnreachable([]string{"pod agent-1"}).rollout.available {
		t.Error("a pod that its controller does not count is left out once more")
	}
	for _, rolling := range []appsv1.RollingUpdateDaemonSet{{MaxUnavailable: new(intstr.FromInt32(2))}, {MaxSurge: new(intstr.FromInt32(1))}} {
		roomy := daemonSet(func(d *appsv1.DaemonSet) { d.Spec.UpdateStrategy.RollingUpdate = &rolling })
		if roomy.withoutUnreachable([]string{"pod agent-1"}).rollout.unavailableBudgetUsed {
			t.Errorf("its controller may replace pods by %+v", rolling)
		}
	}
}

// An error of a write pauses the writes of its namespace for a while, a rejection those of the
// workload, and a conflict none.
func TestRecordWrite(t *testing.T) {
	t.Parallel()
	gone := apierrors.NewNotFound(appsv1.Resource("deployments"), "web")
	for name, tc := range map[string]struct {
		err           error
		done, refused bool
		others        bool
	}{
		"done":       {done: true},
		"gone":       {err: gone},
		"a conflict": {err: apierrors.NewConflict(appsv1.Resource("deployments"), "web", errors.New("it changed"))},
		"forbidden":  {err: apierrors.NewForbidden(appsv1.Resource("deployments"), "web", errors.New("no")), refused: true},
		"a webhook":  {err: apierrors.NewInternalError(errors.New("failed calling webhook")), refused: true, others: true},
		"no answer":  {err: context.DeadlineExceeded, refused: true, others: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := New(Reconciler{Recorder: &discardRecorder{}})
			item, other := stale(deployment("web"), renewed(time.Hour)), deployment("other", func(d *appsv1.Deployment) { d.UID = types.UID("other") })
			if done := r.recordWrite(now, item, "its restart was refused", tc.err); done != tc.done {
				t.Errorf("it is done: %t", done)
			}
			tenant := r.namespaces["shop"]
			refused, others := item.restartRecord.refusal.of(item.workload, now) != "", tenant.refusal.of(other, now) != ""
			if refused != tc.refused || others != tc.others || !tenant.lastTurn.Equal(now) {
				t.Errorf("it is refused %t, and others %t (%+v)", refused, others, tenant)
			}
			if later := now.Add(retryRefused + time.Second); item.restartRecord.refusal.of(item.workload, later)+tenant.refusal.of(other, later) != "" {
				t.Error("it is not tried again")
			}
		})
	}
}
