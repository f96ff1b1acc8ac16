package restart

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// One pod is away at a time: the next is evicted when all are well, and one first that is not well and holds something old.
func TestNextPod(t *testing.T) {
	t.Parallel()
	pod := func(ordinal int, started time.Duration, ready corev1.ConditionStatus) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("set-%d", ordinal)},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}},
			Status: corev1.PodStatus{
				Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}},
				ContainerStatuses: []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.Add(-started))}}}},
			},
		}
	}
	const old, fresh, yes, no = 2 * time.Hour, time.Minute, corev1.ConditionTrue, corev1.ConditionFalse
	for name, tc := range map[string]struct {
		available int32
		pods      []*corev1.Pod
		want      string
	}{
		"all are well":             {3, []*corev1.Pod{pod(0, old, yes), pod(1, old, yes), pod(2, old, yes)}, "set-2"},
		"ten come after two":       {3, []*corev1.Pod{pod(2, old, yes), pod(10, old, yes), pod(9, old, yes)}, "set-10"},
		"some are new":             {3, []*corev1.Pod{pod(0, old, yes), pod(1, old, yes), pod(2, fresh, yes)}, "set-1"},
		"all are new":              {3, []*corev1.Pod{pod(0, fresh, yes), pod(1, fresh, yes), pod(2, fresh, yes)}, ""},
		"a new one is not ready":   {2, []*corev1.Pod{pod(0, old, yes), pod(1, old, yes), pod(2, fresh, no)}, ""},
		"a new one is not made":    {2, []*corev1.Pod{pod(0, old, yes), pod(1, old, yes)}, ""},
		"an old one is not ready":  {2, []*corev1.Pod{pod(0, old, no), pod(1, old, yes), pod(2, old, yes)}, "set-0"},
		"an old one, and a new":    {1, []*corev1.Pod{pod(0, old, no), pod(1, old, yes), pod(2, fresh, no)}, ""},
		"not well, as before":      {1, []*corev1.Pod{pod(0, old, no), pod(1, old, yes), pod(2, fresh, no)}, "set-0"},
		"nothing else goes on":     {1, []*corev1.Pod{pod(0, fresh, no), pod(1, old, yes), pod(2, fresh, no)}, "set-1"},
		"something else goes on":   {1, []*corev1.Pod{pod(0, fresh, no), pod(1, old, yes), pod(2, fresh, no)}, ""},
		"one is missing for ever":  {2, []*corev1.Pod{pod(0, old, no), pod(1, old, yes)}, "set-0"},
		"ready, and not available": {2, []*corev1.Pod{pod(0, old, yes), pod(1, old, yes), pod(2, fresh, yes)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one := stale(statefulSet(func(s *appsv1.StatefulSet) {
				s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
				s.Spec.Replicas, s.Status.Replicas, s.Status.UpdatedReplicas, s.Status.AvailableReplicas = new(int32(3)), 3, 3, tc.available
			}), renewed(time.Hour))
			if ago, lame := map[string]time.Duration{
				"not well, as before": time.Minute, "nothing else goes on": patience + time.Minute, "something else goes on": time.Minute, "one is missing for ever": time.Minute,
			}[name]; lame {
				one.turn = &turn{since: now.Add(-ago), unavailable: true}
			}
			got := ""
			if next := nextPod(now, one, tc.pods); next != nil {
				got = next.Name
			}
			if got != tc.want {
				t.Errorf("%q is evicted next, want %q", got, tc.want)
			}
		})
	}
}
