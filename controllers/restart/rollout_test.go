package restart

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The state of a rollout is the one that `kubectl rollout status` reports.
func TestRollout(t *testing.T) {
	t.Parallel()
	type d = appsv1.Deployment
	type s = appsv1.StatefulSet
	type n = appsv1.DaemonSet
	progressing := func(reason string) func(*d) {
		return func(d *d) {
			d.Status.Conditions = []appsv1.DeploymentCondition{
				{Type: appsv1.DeploymentAvailable, Reason: "ProgressDeadlineExceeded"},
				{Type: appsv1.DeploymentProgressing, Reason: reason, LastUpdateTime: metav1.NewTime(now)},
			}
		}
	}
	onDelete := func(s *s) { s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType }
	daemonsOnDelete := func(n *n) { n.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType }
	partition := func(at int32) func(*s) {
		return func(s *s) {
			s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &at}
		}
	}
	for name, tc := range map[string]struct {
		workload *workload
		want     rollout
	}{
		"a Deployment at rest":      {deployment("web"), rollout{available: true}},
		"not seen yet":              {deployment("web", func(d *d) { d.Generation++ }), rollout{rolling: true}},
		"pods of the old template":  {deployment("web", func(d *d) { d.Status.UpdatedReplicas = 1 }), rollout{rolling: true}},
		"old pods to go":            {deployment("web", func(d *d) { d.Status.Replicas = 3 }), rollout{rolling: true}},
		"not all available":         {deployment("web", func(d *d) { d.Status.AvailableReplicas = 1 }), rollout{}},
		"as many as by default":     {deployment("web", func(d *d) { d.Spec.Replicas, d.Status.Replicas, d.Status.UpdatedReplicas = nil, 1, 1 }), rollout{available: true}},
		"none":                      {deployment("web", func(d *d) { d.Spec.Replicas, d.Status = new(int32(0)), appsv1.DeploymentStatus{ObservedGeneration: 3} }), rollout{available: true}},
		"it missed its deadline":    {deployment("web", progressing("ProgressDeadlineExceeded")), rollout{available: true, deadlineExceeded: true, progress: now}},
		"it missed the one before":  {deployment("web", progressing("ProgressDeadlineExceeded"), func(d *d) { d.Generation++ }), rollout{rolling: true, progress: now}},
		"it progresses":             {deployment("web", progressing("ReplicaSetUpdated")), rollout{available: true, progress: now}},
		"paused":                    {deployment("web", func(d *d) { d.Spec.Paused = true }), rollout{available: true, paused: true}},
		"a StatefulSet at rest":     {statefulSet(), rollout{available: true}},
		"its revisions differ":      {statefulSet(func(s *s) { s.Status.UpdateRevision = "b" }), rollout{rolling: true}},
		"its pods are old":          {statefulSet(func(s *s) { s.Status.UpdatedReplicas = 1 }), rollout{rolling: true}},
		"it is scaled":              {statefulSet(func(s *s) { s.Status.Replicas = 1 }), rollout{rolling: true}},
		"a pod of it is away":       {statefulSet(func(s *s) { s.Status.AvailableReplicas = 1 }), rollout{}},
		"on delete":                 {statefulSet(onDelete), rollout{available: true, manualUpdate: true}},
		"on delete, with an update": {statefulSet(onDelete, func(s *s) { s.Status.UpdatedReplicas, s.Status.UpdateRevision = 1, "b" }), rollout{available: true, manualUpdate: true, updating: true}},
		"on delete, one is missing": {statefulSet(onDelete, func(s *s) { s.Status.Replicas, s.Status.UpdatedReplicas = 1, 1 }), rollout{rolling: true, manualUpdate: true}},
		"on delete, updated":        {statefulSet(onDelete, func(s *s) { s.Status.UpdateRevision = "b" }), rollout{available: true, manualUpdate: true}},
		"staged":                    {statefulSet(partition(1), func(s *s) { s.Status.UpdatedReplicas, s.Status.UpdateRevision = 1, "b" }), rollout{available: true, manualUpdate: true, staged: true}},
		"staged from the first on":  {statefulSet(partition(0)), rollout{available: true}},
		"a DaemonSet at rest":       {daemonSet(), rollout{available: true}},
		"some nodes have old pods":  {daemonSet(func(n *n) { n.Status.UpdatedNumberScheduled = 1 }), rollout{rolling: true}},
		"one is away":               {daemonSet(func(n *n) { n.Status.NumberAvailable = 1 }), rollout{}},
		"not seen":                  {daemonSet(func(n *n) { n.Generation++ }), rollout{rolling: true}},
		"no nodes":                  {daemonSet(func(n *n) { n.Status = appsv1.DaemonSetStatus{ObservedGeneration: 3} }), rollout{available: true}},
		"daemons on delete":         {daemonSet(daemonsOnDelete), rollout{available: true, manualUpdate: true}},
		"daemons on delete, missing": {daemonSet(daemonsOnDelete, func(n *n) {
			n.Status.CurrentNumberScheduled, n.Status.UpdatedNumberScheduled, n.Status.NumberAvailable = 1, 1, 1
		}), rollout{manualUpdate: true}},
		"daemons on delete, updated": {daemonSet(daemonsOnDelete, func(n *n) { n.Status.UpdatedNumberScheduled = 1 }), rollout{available: true, manualUpdate: true, updating: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.want.wanted = tc.workload.rollout.wanted
			if diff := cmp.Diff(tc.want, tc.workload.rollout, cmp.AllowUnexported(rollout{})); diff != "" {
				t.Errorf("the rollout (-want +got):\n%s", diff)
			}
		})
	}
}

// A workload may specify a long progress deadline, but only up to a bound, because others wait for
// it.
func TestProgressTimeout(t *testing.T) {
	t.Parallel()
	for want, w := range map[time.Duration]*workload{
		10 * time.Minute: deployment("web"),
		30 * time.Second: deployment("web", func(d *appsv1.Deployment) { d.Spec.ProgressDeadlineSeconds = new(int32(30)) }),
		time.Hour:        deployment("web", func(d *appsv1.Deployment) { d.Spec.ProgressDeadlineSeconds = new(int32(1<<31 - 1)) }),
		11 * time.Minute: statefulSet(func(s *appsv1.StatefulSet) { s.Spec.MinReadySeconds = 60 }),
		12 * time.Minute: daemonSet(func(d *appsv1.DaemonSet) { d.Spec.MinReadySeconds = 120 }),
	} {
		if w.progressTimeout != want {
			t.Errorf("the patience with %s is %s, want %s", w, w.progressTimeout, want)
		}
	}
}
