package restart

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// overdueDeletion is how long after its grace period a pod is still taken for one that is being deleted.
const overdueDeletion = time.Minute

// goneAt is when a pod that is being deleted has to be gone at the latest; zero for one that is not.
func goneAt(pod *corev1.Pod) time.Time {
	if pod.DeletionTimestamp == nil {
		return time.Time{}
	}
	return pod.DeletionTimestamp.Add(overdueDeletion)
}

// isAway reports whether the node of a pod does not answer. The node lifecycle controller then says that the pod is not ready, and leaves
// what the kubelet said last: its containers are. A kubelet that says the one without the other gives a reason. Where the pod was not ready
// before, it is known by a deletion that does not end.
func isAway(pod *corev1.Pod, now time.Time) bool {
	if gone := goneAt(pod); !gone.IsZero() && now.After(gone) {
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

// without leaves out the pods of a DaemonSet on nodes that do not answer: nobody can replace them. Other workloads replace them elsewhere.
func (w *workload) without(away []string) *workload {
	if d, ok := w.Object.(*appsv1.DaemonSet); ok && len(away) > 0 {
		return ofDaemonSet(d, int32(len(away)))
	}
	return w
}
