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

// kubeletTimeout is how long a kubelet may take to start a pod, and to stop one after its grace
// period.
const kubeletTimeout = time.Minute

// kubeletDeadline returns the time by which the kubelet must have started or stopped a pod; zero
// for a pod that waits for neither.
func kubeletDeadline(pod *corev1.Pod) time.Time {
	switch {
	case pod.DeletionTimestamp != nil:
		return pod.DeletionTimestamp.Add(kubeletTimeout)
	case pod.Spec.NodeName != "" && pod.Status.StartTime == nil:
		return pod.CreationTimestamp.Add(kubeletTimeout)
	}
	return time.Time{}
}

// isUnreachable reports whether the node of a pod does not respond. In that case the node lifecycle
// controller sets Ready to false and leaves ContainersReady true, as the kubelet last reported it.
// A kubelet that reports the one without the other sets a reason. A pod that was not ready before,
// or was created later, is recognized by what its kubelet fails to do in time.
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

// withoutUnreachable returns the workload without the pods of a DaemonSet on nodes that do not
// respond, because no controller can replace them. Other workloads replace such pods on other
// nodes.
func (w *workload) withoutUnreachable(unreachable []string) *workload {
	d, ok := w.Object.(*appsv1.DaemonSet)
	if !ok || len(unreachable) == 0 {
		return w
	}
	remaining := ofDaemonSet(d, int32(len(unreachable)))
	remaining.rollout.unavailableBudgetUsed = len(unreachable) >= maxUnavailable(d)
	return remaining
}

// maxUnavailable returns how many pods of a DaemonSet may be unavailable during a rollout; MaxInt
// if it creates the new pods first (maxSurge).
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
