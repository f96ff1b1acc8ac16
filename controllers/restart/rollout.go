package restart

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/utils/ptr"
)

// The kinds of workloads in apps/v1.
const (
	kindDeployment  = "Deployment"
	kindStatefulSet = "StatefulSet"
	kindDaemonSet   = "DaemonSet"
)

const (
	// progressTimeout is how long a rollout may go without progress if the workload does not
	// specify that: the default of a Deployment's progressDeadlineSeconds.
	progressTimeout = 10 * time.Minute
	// maxProgressTimeout bounds what a workload may specify: other workloads wait for it.
	maxProgressTimeout = time.Hour
)

// rollout is the state of a workload's rollout, as `kubectl rollout status` computes it.
type rollout struct {
	// rolling: not every pod has the current template yet.
	rolling bool
	// available: all desired pods are available, and have the current template if the controller of
	// the workload replaces pods by itself.
	available bool
	// wanted is the desired number of pods.
	wanted int32
	// deadlineExceeded: the controller of the workload reports that the rollout missed its progress
	// deadline.
	deadlineExceeded bool
	// progress is when the controller of the workload last reported progress; zero if it does not
	// report that.
	progress time.Time
	// paused: the owner has paused the workload.
	paused bool
	// manualUpdate: pods are replaced only after they are deleted. staged: the reason is a
	// partition, which keeps some of them on the older template.
	manualUpdate, staged bool
	// unavailableBudgetUsed: the controller of the workload replaces no pod, because the
	// unreachable pods already use up maxUnavailable.
	unavailableBudgetUsed bool
	// updating: an update by the owner waits for pods to be deleted.
	updating bool
}

func ofDeployment(d *appsv1.Deployment) *workload {
	wanted, status := ptr.Deref(d.Spec.Replicas, 1), d.Status
	rolling := status.ObservedGeneration < d.Generation || status.UpdatedReplicas < wanted || status.Replicas > status.UpdatedReplicas
	var progress appsv1.DeploymentCondition
	if index := slices.IndexFunc(status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == appsv1.DeploymentProgressing }); index >= 0 {
		progress = status.Conditions[index]
	}
	return &workload{
		Object: d, kind: kindDeployment, named: true, template: &d.Spec.Template, selector: d.Spec.Selector,
		progressTimeout: min(time.Duration(cmp.Or(ptr.Deref(d.Spec.ProgressDeadlineSeconds, 0), int32(progressTimeout/time.Second)))*time.Second, maxProgressTimeout),
		rollout: rollout{
			rolling: rolling, available: !rolling && status.AvailableReplicas >= wanted, wanted: wanted,
			deadlineExceeded: progress.Reason == "ProgressDeadlineExceeded" && status.ObservedGeneration >= d.Generation,
			progress:         progress.LastUpdateTime.Time, paused: d.Spec.Paused,
		},
	}
}

func ofStatefulSet(s *appsv1.StatefulSet) *workload {
	wanted, status, strategy := ptr.Deref(s.Spec.Replicas, 1), s.Status, s.Spec.UpdateStrategy
	onDelete := strategy.Type == appsv1.OnDeleteStatefulSetStrategyType
	staged := strategy.RollingUpdate != nil && ptr.Deref(strategy.RollingUpdate.Partition, 0) > 0
	observed, updated := status.ObservedGeneration >= s.Generation, status.UpdatedReplicas >= wanted
	rolling := !observed || status.Replicas != wanted
	if !onDelete && !staged {
		rolling = rolling || !updated || status.CurrentRevision != status.UpdateRevision
	}
	return &workload{
		Object: s, kind: kindStatefulSet, template: &s.Spec.Template, selector: s.Spec.Selector,
		progressTimeout: progressTimeoutFor(s.Spec.MinReadySeconds),
		rollout: rollout{
			rolling: rolling, available: !rolling && status.AvailableReplicas >= wanted, wanted: wanted,
			manualUpdate: onDelete || staged, staged: staged && !onDelete,
			// A pod that has not been created yet will have the new template.
			updating: onDelete && status.UpdatedReplicas < min(status.Replicas, wanted),
		},
	}
}

// orderedRevision returns the revision to which a StatefulSet updates its pods in order, each one
// only when all pods are ready; empty for any other workload, and until its controller has observed
// the template. A pod that is not ready keeps the controller from updating any pod, including that
// one.
func (w *workload) orderedRevision() string {
	s, ok := w.Object.(*appsv1.StatefulSet)
	if !ok || w.rollout.manualUpdate || s.Spec.PodManagementPolicy == appsv1.ParallelPodManagement || s.Status.ObservedGeneration < s.Generation {
		return ""
	}
	return s.Status.UpdateRevision
}

// ofDaemonSet returns the workload for a DaemonSet. It subtracts from the desired pods those on
// nodes that do not respond (unreachable), except the ones that its controller does not count
// because they do not tolerate the taints of such a node.
func ofDaemonSet(d *appsv1.DaemonSet, unreachable int32) *workload {
	status := d.Status
	left := max(unreachable-status.NumberMisscheduled, 0)
	wanted := max(status.DesiredNumberScheduled-left, 0)
	onDelete := d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType
	observed, updated := status.ObservedGeneration >= d.Generation, status.UpdatedNumberScheduled >= wanted
	rolling := !observed || (!onDelete && !updated)
	return &workload{
		Object: d, kind: kindDaemonSet, template: &d.Spec.Template, selector: d.Spec.Selector,
		progressTimeout: progressTimeoutFor(d.Spec.MinReadySeconds),
		rollout: rollout{
			rolling: rolling, available: !rolling && status.NumberAvailable >= wanted, wanted: wanted,
			manualUpdate: onDelete,
			// As above: a pod that a node lacks will have the new template.
			updating: onDelete && status.UpdatedNumberScheduled < status.CurrentNumberScheduled-left,
		},
	}
}

func progressTimeoutFor(minReadySeconds int32) time.Duration {
	return min(progressTimeout+time.Duration(minReadySeconds)*time.Second, maxProgressTimeout)
}
