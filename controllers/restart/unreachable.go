package restart

import (
	"cmp"
	"math"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// kubeletTimeout is how long a kubelet may take to start with a pod, and to end one after its grace period.
const kubeletTimeout = time.Minute

// kubeletDeadline is when the kubelet has to have started with a pod, or ended it, at the latest; zero for a pod that waits for nothing of that.
func kubeletDeadline(pod *corev1.Pod) time.Time {
	switch {
	case pod.DeletionTimestamp != nil:
		return pod.DeletionTimestamp.Add(kubeletTimeout)
	case pod.Spec.NodeName != "" && pod.Status.StartTime == nil:
		return pod.CreationTimestamp.Add(kubeletTimeout)
	}
	return time.Time{}
}

// isUnreachable reports whether the node of a pod does not answer. The node lifecycle controller then says that the pod is not ready, and leaves
// what the kubelet said last: its containers are. A kubelet that says the one without the other gives a reason. Where the pod was not ready
// before, or was made later, it is known by what its kubelet does not do.
func isUnreachable(pod *corev1.Pod, now time.Time) bool {
	if deadline := kubeletDeadline(pod); !deadline.IsZero() && now.After(deadline) {
		return true
	}
	ready, containers := condition(pod, corev1.PodReady), condition(pod, corev1.ContainersReady)
	return ready.Status == corev1.ConditionFalse && ready.Reason == "" && containers.Status == corev1.ConditionTrue
}

func condition(pod *corev1.Pod, kind corev1.PodConditionType) corev1.PodCondition {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.PodCondition{}
}

// withoutUnreachable leaves out the pods of a DaemonSet on nodes that do not answer: nobody can replace them. Other workloads replace them elsewhere.
func (w *workload) withoutUnreachable(unreachable []string) *workload {
	d, ok := w.Object.(*appsv1.DaemonSet)
	if !ok || len(unreachable) == 0 {
		return w
	}
	remaining := ofDaemonSet(d, int32(len(unreachable)))
	remaining.rollout.unavailableBudgetUsed = len(unreachable) >= maxUnavailable(d)
	return remaining
}

// maxUnavailable is how many pods of a DaemonSet may be while it rolls; all, where it makes the new ones first.
func maxUnavailable(d *appsv1.DaemonSet) int {
	rolling, all := ptr.Deref(d.Spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{}), int(d.Status.DesiredNumberScheduled)
	if surge, err := intstr.GetScaledValueFromIntOrPercent(cmp.Or(rolling.MaxSurge, new(intstr.FromInt32(0))), all, true); err != nil || surge > 0 {
		return math.MaxInt
	}
	most, err := intstr.GetScaledValueFromIntOrPercent(cmp.Or(rolling.MaxUnavailable, new(intstr.FromInt32(1))), all, true)
	if err != nil {
		return math.MaxInt
	}
	return most
}
