package restart

import (
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	appsac "k8s.io/client-go/applyconfigurations/apps/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/podrefs"
)

// workload is a Deployment, a StatefulSet, a DaemonSet or an object of another kind, with the
// fields that a restart depends on.
type workload struct {
	client.Object
	kind     string
	template *corev1.PodTemplateSpec
	selector *metav1.LabelSelector
	rollout  rollout
	// progressTimeout is how long its rollout may go without progress.
	progressTimeout time.Duration
	// named: its pods identify it by its name, because another object owns them in between.
	named bool
	// readOnly: the operator does not write to it, but evicts its pods.
	readOnly bool
	// never is why it is never restarted; empty if it may be.
	never string
}

func (w *workload) String() string { return w.kind + " " + w.GetNamespace() + "/" + w.GetName() }

// stamp returns when the operator last restarted the pods of the template; zero if it never did.
func (w *workload) stamp() time.Time {
	at, _ := time.Parse(time.RFC3339, w.template.Annotations[v1alpha1.AnnotationRestartedAt])
	return at
}

// stripForCache reduces a workload to the fields that a restart depends on.
func stripForCache(object client.Object, template *corev1.PodTemplateSpec) {
	mark, marked := object.GetLabels()[v1alpha1.LabelRestarting]
	object.SetLabels(nil)
	if marked && marksAreOurs(object) {
		object.SetLabels(map[string]string{v1alpha1.LabelRestarting: mark})
	}
	object.SetManagedFields(nil)
	template.Spec = podrefs.StripForCache(&template.Spec)
	stamp, stamped := template.Annotations[v1alpha1.AnnotationRestartedAt]
	if template.Annotations = nil; stamped {
		template.Annotations = map[string]string{v1alpha1.AnnotationRestartedAt: stamp}
	}
}

// marksAreOurs reports whether the label on a workload was written under the operator's field
// manager: it may also come from a manifest, or from a copy of another workload. A workload without
// managed fields has been stripped before, and kept only a label of ours.
func marksAreOurs(object client.Object) bool {
	return len(object.GetManagedFields()) == 0 || slices.ContainsFunc(object.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == string(apply.Restart) && entry.FieldsV1 != nil &&
			strings.Contains(entry.FieldsV1.GetRawString(), strconv.Quote("f:"+v1alpha1.LabelRestarting))
	})
}

// StripForCache reduces a workload, for a cache, to the fields that a restart depends on. The
// caller decides about its annotations.
func StripForCache(object client.Object) {
	switch o := object.(type) {
	case *appsv1.Deployment:
		stripForCache(o, &o.Spec.Template)
	case *appsv1.StatefulSet:
		stripForCache(o, &o.Spec.Template)
		o.Spec.VolumeClaimTemplates = nil
	case *appsv1.DaemonSet:
		stripForCache(o, &o.Spec.Template)
	}
}

// configuration returns all fields that the operator owns of a workload: the stamp of its template,
// and the mark of a restart that is under way. Empty ones are given up. The configuration applies
// to this version of the workload only.
func (w *workload) configuration(stamp, mark string) runtime.ApplyConfiguration {
	template := coreac.PodTemplateSpec()
	if stamp != "" {
		template.WithAnnotations(map[string]string{v1alpha1.AnnotationRestartedAt: stamp})
	}
	marks := map[string]string{}
	if mark != "" {
		marks[v1alpha1.LabelRestarting] = mark
	}
	switch w.kind {
	case kindDeployment:
		return appsac.Deployment(w.GetName(), w.GetNamespace()).WithUID(w.GetUID()).WithResourceVersion(w.GetResourceVersion()).
			WithLabels(marks).WithSpec(appsac.DeploymentSpec().WithTemplate(template))
	case kindStatefulSet:
		return appsac.StatefulSet(w.GetName(), w.GetNamespace()).WithUID(w.GetUID()).WithResourceVersion(w.GetResourceVersion()).
			WithLabels(marks).WithSpec(appsac.StatefulSetSpec().WithTemplate(template))
	default:
		return appsac.DaemonSet(w.GetName(), w.GetNamespace()).WithUID(w.GetUID()).WithResourceVersion(w.GetResourceVersion()).
			WithLabels(marks).WithSpec(appsac.DaemonSetSpec().WithTemplate(template))
	}
}
