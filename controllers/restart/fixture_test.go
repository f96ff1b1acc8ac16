package restart

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/servingcert/operator/api/v1alpha1"
)

// now is in the far future and not a whole second.
var now = time.Date(2071, time.March, 14, 15, 9, 26, 535897932, time.UTC)

func template(stamp time.Time) corev1.PodTemplateSpec {
	made := corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}}}
	if !stamp.IsZero() {
		made.Annotations = map[string]string{v1alpha1.AnnotationRestartedAt: stamp.UTC().Format(time.RFC3339)}
	}
	return made
}

// deployment returns a Deployment with two pods, all available, changed by the edits.
func deployment(name string, edits ...func(*appsv1.Deployment)) *workload {
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Generation: 3, UID: "uid-of-" + "deployment"},
		Spec:       appsv1.DeploymentSpec{Replicas: new(int32(2)), Template: template(time.Time{})},
		Status:     appsv1.DeploymentStatus{ObservedGeneration: 3, Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2},
	}
	for _, edit := range edits {
		edit(d)
	}
	return ofDeployment(d)
}

func statefulSet(edits ...func(*appsv1.StatefulSet)) *workload {
	s := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "set", Generation: 3},
		Spec:       appsv1.StatefulSetSpec{Replicas: new(int32(2)), Template: template(time.Time{})},
		Status: appsv1.StatefulSetStatus{
			ObservedGeneration: 3, Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2, CurrentRevision: "a", UpdateRevision: "a",
		},
	}
	for _, edit := range edits {
		edit(s)
	}
	return ofStatefulSet(s)
}

func daemonSet(edits ...func(*appsv1.DaemonSet)) *workload {
	d := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "daemons", Generation: 3},
		Spec:       appsv1.DaemonSetSpec{Template: template(time.Time{})},
		Status:     appsv1.DaemonSetStatus{ObservedGeneration: 3, DesiredNumberScheduled: 2, CurrentNumberScheduled: 2, UpdatedNumberScheduled: 2, NumberAvailable: 2},
	}
	for _, edit := range edits {
		edit(d)
	}
	return ofDaemonSet(d, 0)
}

// renewed returns the renewal of a certificate that long ago.
func renewed(ago time.Duration) change {
	return change{
		reason: v1alpha1.RestartOnCertificateRenewed, at: now.Add(-ago), startedBefore: now.Add(clockSlack - ago), container: "main", serviceCA: "default", message: "the certificate",
	}
}

// trusts returns the change of a bundle that long ago.
func trusts(ago time.Duration) change {
	changed := renewed(ago)
	changed.reason, changed.message = v1alpha1.RestartOnTrustChanged, "the bundle"
	return changed
}

// stale returns a workload whose pods do not know of the given changes.
func stale(w *workload, unknown ...change) *workloadState {
	return &workloadState{workload: w, restartRecord: &restartRecord{rollingSince: now}, changes: unknown, pendingChanges: unknown}
}

// marked returns the workload with a restart that began that long ago.
func marked(item *workloadState, ago time.Duration, suffix string) *workloadState {
	item.SetLabels(map[string]string{v1alpha1.LabelRestarting: now.Add(-ago).UTC().Format(markLayout) + suffix})
	item.template.Annotations = map[string]string{v1alpha1.AnnotationRestartedAt: now.Add(-ago).UTC().Format(time.RFC3339)}
	item.restartRecord = restartRecords{}.get(now, item.workload, true)
	return item
}

func rollingPolicy(edits ...func(*v1alpha1.Restart)) *v1alpha1.ServingCertPolicy {
	p := &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	p.Spec.Restart = v1alpha1.Restart{
		Strategy: v1alpha1.RollingRestart, MaxConcurrent: 1, OnFailure: v1alpha1.RestartHalt,
		Triggers: []v1alpha1.RestartReason{v1alpha1.RestartOnCertificateRenewed, v1alpha1.RestartOnTrustChanged},
	}
	for _, edit := range edits {
		edit(&p.Spec.Restart)
	}
	return p
}

// discardRecorder discards all Events.
type discardRecorder struct{}

func (*discardRecorder) Eventf(_, _ runtime.Object, _, _, _, _ string, _ ...any) {}
