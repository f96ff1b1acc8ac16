package restart

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

func progressedAt(at time.Time, reason string) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Reason: reason, LastUpdateTime: metav1.NewTime(at)}}
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	type d = appsv1.Deployment
	rolls := func(d *d) { d.Status.UpdatedReplicas = 1 }
	pauses := func(d *d) { d.Spec.Paused = true }
	refuses := func(d *d) { d.Annotations = map[string]string{v1alpha1.AnnotationRestart: "false"} }
	byHand := func() *workload {
		return statefulSet(func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType })
	}
	refused := stale(deployment("web"), renewed(time.Hour))
	refused.refusal = "its restart was refused: no"
	kept := marked(stale(byHand(), renewed(time.Hour)), time.Hour, "")
	kept.refusal = "pod web-0 cannot be evicted: no"
	keptNow := marked(stale(byHand(), renewed(time.Hour)), time.Minute, "")
	keptNow.refusal = kept.refusal
	staged := statefulSet(func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: new(int32(1))}
	})
	rollsInOrder := func() *workload { return statefulSet(func(s *appsv1.StatefulSet) { s.Status.UpdateRevision = "b" }) }
	unready := func(item *workloadState) *workloadState {
		item.unreadyOutdated = true
		return item
	}
	undone := marked(stale(rollsInOrder()), time.Minute, "")
	undone.template.Annotations = nil
	abandoned := marked(stale(byHand(), renewed(time.Hour)), time.Minute, "")
	abandoned.unmanaged = true
	for name, tc := range map[string]struct {
		one    *workloadState
		want   state
		reason string
	}{
		"it holds nothing old":   {stale(deployment("web")), current, ""},
		"it waits":               {stale(deployment("web"), renewed(time.Hour)), pending, ""},
		"it is not available":    {stale(deployment("web", func(d *d) { d.Status.AvailableReplicas = 0 }), renewed(time.Hour)), pending, "it is not available, so it comes last"},
		"it rolls anyway":        {stale(deployment("web", rolls), renewed(time.Hour)), rolling, ""},
		"its own rollout failed": {stale(deployment("web", rolls, progressedAt(now, "ProgressDeadlineExceeded")), renewed(time.Hour)), pending, "its own rollout missed its progress deadline, so it comes last"},
		"it is paused":           {stale(deployment("web", pauses, rolls), renewed(time.Hour)), blocked, "it is paused"},
		"it opts out":            {stale(deployment("web", refuses, pauses), renewed(time.Hour)), optedOut, "its annotation servingcert.dev/restart"},
		"it was refused":         {refused, blocked, "its restart was refused: no"},
		"it updates by hand": {stale(statefulSet(func(s *appsv1.StatefulSet) {
			s.Spec.UpdateStrategy.Type, s.Status.UpdatedReplicas = appsv1.OnDeleteStatefulSetStrategyType, 1
		}), renewed(time.Hour)), blocked, "an update of its own"},
		"its restart begins":             {marked(stale(deployment("web", rolls)), time.Minute, ""), restarting, ""},
		"its restart goes on":            {marked(stale(deployment("web", rolls, progressedAt(now.Add(-time.Minute), "ReplicaSetUpdated"))), time.Hour, ""), restarting, ""},
		"its restart is done":            {marked(stale(deployment("web")), time.Minute, ""), completed, ""},
		"its restart is done at last":    {marked(stale(deployment("web")), 24*time.Hour, ".unavailable"), completed, ""},
		"its restart missed a deadline":  {marked(stale(deployment("web", rolls, progressedAt(now, "ProgressDeadlineExceeded"))), time.Minute, ""), failed, "it missed its progress deadline"},
		"its restart stands still":       {marked(stale(deployment("web", rolls)), time.Hour, ""), failed, "no pod became ready for 10m0s"},
		"its restart was paused":         {marked(stale(deployment("web", rolls, pauses)), time.Hour, ""), blocked, "it is paused in the middle"},
		"its last pod is not ready":      {marked(stale(deployment("web", func(d *d) { d.Status.AvailableReplicas = 1 })), time.Minute, ""), restarting, ""},
		"its mark is in the future":      {marked(stale(deployment("web", rolls)), -time.Hour, ""), current, ""},
		"one pod after the other":        {marked(stale(byHand(), renewed(time.Hour)), time.Minute, ""), restarting, "its pods are evicted, for its update strategy is OnDelete"},
		"some stay on the old template":  {marked(stale(staged, renewed(time.Hour)), time.Minute, ""), restarting, "its pods are evicted, for those below the partition"},
		"an old pod is not ready":        {unready(marked(stale(rollsInOrder()), time.Minute, "")), restarting, "its controller waits for pods that are not ready"},
		"it is undone, and not ready":    {unready(undone), restarting, ""},
		"a budget keeps its pod":         {keptNow, restarting, "pod web-0 cannot be evicted: no"},
		"no pod may be evicted":          {kept, failed, "pod web-0 cannot be evicted: no"},
		"nobody wants it any more":       {abandoned, completed, ""},
		"each pod was replaced by hand":  {marked(stale(byHand()), time.Minute, ""), completed, ""},
		"a StatefulSet's restart begins": {marked(stale(statefulSet(func(s *appsv1.StatefulSet) { s.Status.UpdateRevision = "b" })), time.Minute, ""), restarting, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.one.progress = latest(tc.one.progress, tc.one.rollout.progress)
			got, reason := tc.one.state(now)
			if got != tc.want || !strings.HasPrefix(reason, tc.reason) || (tc.reason == "") != (reason == "") {
				t.Errorf("it is %s (%q), want %s (%q)", got, reason, tc.want, tc.reason)
			}
		})
	}
}
