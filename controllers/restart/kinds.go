package restart

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/podrefs"
)

// The kinds besides those of apps/v1 that the operator watches wherever the cluster serves them.
var (
	rollouts          = schema.GroupVersionResource{Group: "argoproj.io", Version: "v1alpha1", Resource: "rollouts"}
	deploymentConfigs = schema.GroupVersionResource{Group: "apps.openshift.io", Version: "v1", Resource: "deploymentconfigs"}
	jobs              = schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}

	builtIn = []schema.GroupVersionResource{rollouts, deploymentConfigs, jobs}
)

// between lists the kinds whose pods are owned by a ReplicaSet or a ReplicationController in
// between: those pods identify their workload by its name, not by its UID.
var between = []schema.GroupVersionResource{rollouts, deploymentConfigs}

const (
	kindRollout          = "Rollout"
	kindDeploymentConfig = "DeploymentConfig"

	// labelRolloutHash is on each pod of a Rollout. The name of its ReplicaSet is the name of the
	// Rollout followed by a hyphen and the value of this label.
	labelRolloutHash = "rollouts-pod-template-hash"
	// labelDeploymentConfig is on each pod of a DeploymentConfig and holds its name.
	labelDeploymentConfig = "deploymentconfig"
)

// jobsEnd is the reason why a Job is never restarted.
const jobsEnd = "a Job is never restarted: its next run reads what is new; delete the Job if this run must not go on with what it holds"

var versions = regexp.MustCompile(`^v[1-9]\d*((alpha|beta)[1-9]\d*)?$`)

// ParseKinds parses the value of --restart-kinds: resource.version.group, separated by commas. It
// returns an error for any other form, and for kinds that the operator already handles.
func ParseKinds(list string) ([]schema.GroupVersionResource, error) {
	var kinds []schema.GroupVersionResource
	for name := range strings.SplitSeq(list, ",") {
		kind, _ := schema.ParseResourceArg(name)
		switch {
		case kind == nil || kind.Resource == "" || !versions.MatchString(kind.Version):
			return nil, fmt.Errorf("%q is not of the form resource.version.group, such as clonesets.v1alpha1.apps.kruise.io", name)
		case kind.Group == appsv1.GroupName || kind.Group == jobs.Group || slices.Contains(builtIn, *kind):
			return nil, fmt.Errorf("%q cannot be added: docs/restarts.md says what is done for this kind", name)
		}
		kinds = append(kinds, *kind)
	}
	return kinds, nil
}

// ofOther returns the workload for an object of a kind outside apps/v1; nil if it has no pod
// template or has finished. referenced is the Deployment from which it takes its template; nil for
// none. The operator only reads such a workload and evicts its pods: that needs no permission to
// change it, and no knowledge of how its controller rolls out changes.
func ofOther(kind schema.GroupVersionResource, o *unstructured.Unstructured, referenced *appsv1.Deployment) *workload {
	template, selector := templateOf(o), selectorOf(o)
	if referenced != nil {
		template = &referenced.Spec.Template
	}
	if template == nil {
		return nil
	}
	wanted := number(o, 1, "spec.replicas", "status.desiredNumberScheduled")
	available := number(o, 0, "status.availableReplicas", "status.numberAvailable", "status.readyReplicas", "status.numberReady")
	observed := number(o, o.GetGeneration(), "status.observedGeneration") >= o.GetGeneration()
	updated := number(o, wanted, "status.updatedReplicas", "status.updatedNumberScheduled")
	w := &workload{
		Object: o, kind: o.GetKind(), template: template, selector: selector, progressTimeout: progressTimeout,
		readOnly: true, named: slices.Contains(between, kind),
		rollout: rollout{
			rolling: !observed || updated < wanted, available: observed && available >= wanted, wanted: int32(wanted), manualUpdate: true,
		},
	}
	if kind == jobs {
		w.never = jobsEnd
	}
	return w
}

// templateOf returns the pod template of a workload outside apps/v1; nil if there is none.
func templateOf(o *unstructured.Unstructured) *corev1.PodTemplateSpec {
	field, _, _ := unstructured.NestedFieldNoCopy(o.Object, "spec", "template")
	fields, _ := field.(map[string]any)
	template := &corev1.PodTemplateSpec{}
	if runtime.DefaultUnstructuredConverter.FromUnstructured(fields, template) != nil || len(template.Spec.Containers) == 0 {
		return nil
	}
	return template
}

// deploymentOf returns the name of the Deployment whose template a Rollout uses by
// spec.workloadRef; empty for none.
func deploymentOf(kind schema.GroupVersionResource, o *unstructured.Unstructured) string {
	of, _, _ := unstructured.NestedString(o.Object, "spec", "workloadRef", "kind")
	if kind != rollouts || of != kindDeployment {
		return ""
	}
	name, _, _ := unstructured.NestedString(o.Object, "spec", "workloadRef", "name")
	return name
}

// selectorOf returns a selector that matches the pods of a workload outside apps/v1, and possibly
// others, which are told apart by their owner references. The field may be a LabelSelector, or
// plain labels like those of a ReplicationController.
// An invalid selector, which the API server accepts for most of these kinds, matches all pods. An
// error would block the namespace's other workloads, and every rotation.
func selectorOf(o *unstructured.Unstructured) *metav1.LabelSelector {
	selector := &metav1.LabelSelector{}
	if plain, found, err := unstructured.NestedStringMap(o.Object, "spec", "selector"); found && err == nil {
		selector.MatchLabels = plain
	} else {
		fields, _, _ := unstructured.NestedMap(o.Object, "spec", "selector")
		if runtime.DefaultUnstructuredConverter.FromUnstructured(fields, selector) != nil {
			return &metav1.LabelSelector{}
		}
	}
	if _, err := metav1.LabelSelectorAsSelector(selector); err != nil {
		return &metav1.LabelSelector{}
	}
	return selector
}

// number returns the value of the first field that has one, or otherwise if none has. Argo Rollouts
// writes status.observedGeneration as a string.
func number(o *unstructured.Unstructured, otherwise int64, paths ...string) int64 {
	for _, path := range paths {
		field, _, _ := unstructured.NestedFieldNoCopy(o.Object, strings.Split(path, ".")...)
		switch value := field.(type) {
		case int64:
			return value
		case string:
			if parsed, err := strconv.ParseInt(value, 10, 64); err == nil {
				return parsed
			}
		}
	}
	return otherwise
}

// maxText is longer than any meaningful text in the fields below.
const maxText = 512

// kept are the fields, besides the template, that are cached of a workload outside apps/v1.
var kept = [][]string{
	{"apiVersion"}, {"kind"},
	{"metadata", "namespace"}, {"metadata", "name"}, {"metadata", "uid"}, {"metadata", "resourceVersion"}, {"metadata", "generation"},
	{"metadata", "creationTimestamp"}, {"metadata", "deletionTimestamp"},
	{"metadata", "annotations", v1alpha1.AnnotationRestart}, {"metadata", "annotations", v1alpha1.AnnotationReload},
	{"spec", "replicas"}, {"spec", "selector"}, {"spec", "workloadRef", "kind"}, {"spec", "workloadRef", "name"},
	{"status", "observedGeneration"}, {"status", "desiredNumberScheduled"},
	{"status", "updatedReplicas"}, {"status", "availableReplicas"}, {"status", "readyReplicas"},
	{"status", "updatedNumberScheduled"}, {"status", "numberAvailable"}, {"status", "numberReady"},
}

// slimOther reduces a workload outside apps/v1, for a cache, to the fields that a restart depends
// on. A Job that has finished runs no pod, so its template is dropped.
func slimOther(object any) (any, error) {
	o, ok := object.(*unstructured.Unstructured)
	if !ok {
		return object, nil
	}
	slim := map[string]any{}
	for _, path := range kept {
		value, found, _ := unstructured.NestedFieldNoCopy(o.Object, path...)
		if text, ok := value.(string); found && (!ok || len(text) <= maxText) {
			if err := unstructured.SetNestedField(slim, value, path...); err != nil {
				return nil, err
			}
		}
	}
	if template := templateOf(o); template != nil && !hasEnded(o) {
		template.Annotations, template.Spec = nil, podrefs.StripForCache(&template.Spec)
		fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(template)
		if err != nil {
			return nil, err
		}
		if err := unstructured.SetNestedMap(slim, fields, "spec", "template"); err != nil {
			return nil, err
		}
	}
	o.Object = slim
	return o, nil
}

// hasEnded reports whether an object is a Job that has finished.
func hasEnded(o *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	return o.GroupVersionKind().Group == jobs.Group && slices.ContainsFunc(conditions, func(condition any) bool {
		c, _ := condition.(map[string]any)
		return (c["type"] == "Complete" || c["type"] == "Failed") && c["status"] == string(corev1.ConditionTrue)
	})
}
