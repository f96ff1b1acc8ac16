package restart

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/utils/ptr"
)

// The kinds of workloads.
const (
	kindDeployment  = "Deployment"
	kindStatefulSet = "StatefulSet"
	kindDaemonSet   = "DaemonSet"
)

const (
	// progressTimeout is how long a rollout may go without progress where the workload does not say: as long as a Deployment's by default.
	progressTimeout = 10 * time.Minute
	// maxProgressTimeout bounds what a workload may ask for: somebody waits in line behind it.
	maxProgressTimeout = time.Hour
)

// rollout is how far a workload is with its own template, as `kubectl rollout status` tells it.
type rollout struct {
	// rolling: not every pod is of the current template yet.
	rolling bool
	// available: every pod that is wanted is, and every one is of the current template, where that is the workload's doing.
	available bool
	// wanted is the number of pods.
	wanted int32
	// deadlineExceeded: the workload's controller says that the rollout missed its deadline.
	deadlineExceeded bool
	// progress is when the workload's controller last saw some; zero where it does not tell.
	progress time.Time
	// paused by its owner.
	paused bool
	// manualUpdate: pods are replaced when somebody removes them; staged: for a partition keeps some of them on the older template.
	manualUpdate, staged bool
	// unavailableBudgetUsed: its controller replaces no pod, for those that are left out are as many as may be unavailable.
	unavailableBudgetUsed bool
	// updating: an update of the owner's waits for somebody to remove pods.
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
			// A pod that is not made yet will be of the new template.
			updating: onDelete && status.UpdatedReplicas < min(status.Replicas, wanted),
		},
	}
}

// orderedRevision returns the revision to which a StatefulSet updates its pods in their order, each when all pods are ready; empty for
// any other workload, and as long as its controller has not seen the template. A pod that is not ready keeps it from updating any pod,
// that one included.
func (w *workload) orderedRevision() string {
	s, ok := w.Object.(*appsv1.StatefulSet)
	if !ok || w.rollout.manualUpdate || s.Spec.PodManagementPolicy == appsv1.ParallelPodManagement || s.Status.ObservedGeneration < s.Generation {
		return ""
	}
	return s.Status.UpdateRevision
}

// ofDaemonSet leaves out as many pods as are on nodes that do not answer; not those that its controller does not count, for they do not tolerate
// what such a node is tainted with.
func ofDaemonSet(d *appsv1.DaemonSet, unreachable int32) *workload {
	status := d.Status
	wanted := max(status.DesiredNumberScheduled-max(unreachable-status.NumberMisscheduled, 0), 0)
	onDelete := d.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType
	observed, updated := status.ObservedGeneration >= d.Generation, status.UpdatedNumberScheduled >= wanted
	rolling := !observed || (!onDelete && !updated)
	return &workload{
		Object: d, kind: kindDaemonSet, template: &d.Spec.Template, selector: d.Spec.Selector,
		progressTimeout: progressTimeoutFor(d.Spec.MinReadySeconds),
		rollout: rollout{
			rolling: rolling, available: !rolling && status.NumberAvailable >= wanted, wanted: wanted,
			manualUpdate: onDelete, updating: onDelete && !updated,
		},
	}
}

func progressTimeoutFor(minReadySeconds int32) time.Duration {
	return min(progressTimeout+time.Duration(minReadySeconds)*time.Second, maxProgressTimeout)
}
