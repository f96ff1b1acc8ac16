package restart

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/servingcert/operator/api/v1alpha1"
)

var cloneSets = schema.GroupVersionResource{Group: "apps.kruise.io", Version: "v1alpha1", Resource: "clonesets"}

// object parses a manifest in the way an informer does.
func object(t *testing.T, manifest string) *unstructured.Unstructured {
	t.Helper()
	fields, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(fields); err != nil {
		t.Fatal(err)
	}
	return o
}

// Kinds come from the administrator's command line; the error for an invalid one names the remedy.
func TestParseKinds(t *testing.T) {
	t.Parallel()
	statefulSets := schema.GroupVersionResource{Group: "apps.kruise.io", Version: "v1beta1", Resource: "statefulsets"}
	for list, want := range map[string][]schema.GroupVersionResource{
		"clonesets.v1alpha1.apps.kruise.io":                                     {cloneSets},
		"clonesets.v1alpha1.apps.kruise.io,statefulsets.v1beta1.apps.kruise.io": {cloneSets, statefulSets},
		"replicationcontrollers.v1.":                                            {{Version: "v1", Resource: "replicationcontrollers"}},
		"":                                                                      nil,
		"clonesets":                                                             nil,
		"clonesets.apps.kruise.io":                                              nil,
		"clonesets.v1alpha1.apps.io,":                                           nil,
		".v1.example.org":                                                       nil,
		"*.v1.example.org,*":                                                    nil,
		"deployments.v1.apps":                                                   nil,
		"replicasets.v1.apps":                                                   nil,
		"cronjobs.v1.batch":                                                     nil,
		"rollouts.v1alpha1.argoproj.io":                                         nil,
		"deploymentconfigs.v1.apps.openshift.io":                                nil,
	} {
		got, err := ParseKinds(list)
		if diff := cmp.Diff(want, got); diff != "" || (err != nil) != (want == nil) {
			t.Errorf("%q: %v (-want +got)\n%s", list, err, diff)
		}
		if err != nil && !strings.Contains(err.Error(), "resource.version.group") && !strings.Contains(err.Error(), "docs/restarts.md") {
			t.Errorf("%q: the error names no remedy: %v", list, err)
		}
	}
}

// The state of a cached workload of another kind follows from well-known fields.
func TestOther(t *testing.T) {
	t.Parallel()
	const template = "template: {spec: {containers: [{name: main}]}}"
	for name, tc := range map[string]struct {
		kind     schema.GroupVersionResource
		spec     string
		status   string
		want     rollout
		selector *metav1.LabelSelector
	}{
		"a Rollout, whose observedGeneration is a string": {
			rollouts, "{replicas: 3, selector: {matchLabels: {app: web}}, " + template + "}",
			`{observedGeneration: "3", updatedReplicas: 3, availableReplicas: 3}`,
			rollout{wanted: 3, available: true, manualUpdate: true}, &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		},
		"a canary": {
			rollouts, "{replicas: 3, " + template + "}", `{observedGeneration: "3", updatedReplicas: 1, availableReplicas: 3}`,
			rollout{wanted: 3, available: true, rolling: true, manualUpdate: true}, &metav1.LabelSelector{},
		},
		"not seen yet": {
			rollouts, "{replicas: 1, " + template + "}", `{observedGeneration: "2", updatedReplicas: 1, availableReplicas: 1}`,
			rollout{wanted: 1, rolling: true, manualUpdate: true}, &metav1.LabelSelector{},
		},
		"a DeploymentConfig, whose selector is labels": {
			deploymentConfigs, "{replicas: 2, paused: true, triggers: [], selector: {app: web}, " + template + "}",
			"{observedGeneration: 3, updatedReplicas: 2, availableReplicas: 1}",
			rollout{wanted: 2, manualUpdate: true}, &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		},
		"one pod for each node": {
			cloneSets, "{" + template + "}", "{observedGeneration: 3, desiredNumberScheduled: 4, updatedNumberScheduled: 4, numberAvailable: 4}",
			rollout{wanted: 4, available: true, manualUpdate: true}, &metav1.LabelSelector{},
		},
		"a status that says little":             {cloneSets, "{" + template + "}", "{readyReplicas: 1}", rollout{wanted: 1, available: true, manualUpdate: true}, &metav1.LabelSelector{}},
		"no status":                             {cloneSets, "{" + template + "}", "{}", rollout{wanted: 1, manualUpdate: true}, &metav1.LabelSelector{}},
		"scaled to zero":                        {cloneSets, "{replicas: 0, " + template + "}", "{observedGeneration: 3}", rollout{available: true, manualUpdate: true}, &metav1.LabelSelector{}},
		"a selector that is not one":            {cloneSets, "{replicas: 0, selector: {matchLabels: 7}, " + template + "}", "{}", rollout{available: true, manualUpdate: true}, &metav1.LabelSelector{}},
		"labels that no object can have":        {cloneSets, "{replicas: 0, selector: {matchLabels: {app: not a label}}, " + template + "}", "{}", rollout{available: true, manualUpdate: true}, &metav1.LabelSelector{}},
		"an operator that there is not":         {cloneSets, "{replicas: 0, selector: {matchExpressions: [{key: app, operator: Like}]}, " + template + "}", "{}", rollout{available: true, manualUpdate: true}, &metav1.LabelSelector{}},
		"numbers that are none, said at length": {cloneSets, "{replicas: many, selector: 7, " + template + "}", "{observedGeneration: [], availableReplicas: one}", rollout{wanted: 1, manualUpdate: true}, &metav1.LabelSelector{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cached, err := slimOther(object(t, "{apiVersion: example.org/v1, kind: Thing, metadata: {namespace: shop, name: web, generation: 3}, spec: "+tc.spec+", status: "+tc.status+"}"))
			if err != nil {
				t.Fatal(err)
			}
			w := ofOther(tc.kind, cached.(*unstructured.Unstructured), nil) //nolint:forcetypeassert // slimOther returns its argument
			if diff := cmp.Diff(tc.want, w.rollout, cmp.AllowUnexported(rollout{})); diff != "" {
				t.Errorf("the rollout (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.selector, w.selector); diff != "" || !w.readOnly || w.String() != "Thing shop/web" {
				t.Errorf("%s, read only %t, selects (-want +got):\n%s", w, w.readOnly, diff)
			}
		})
	}
}

// The cache keeps the fields that a restart depends on, however large the object is. Reducing an
// object twice gives the same result.
func TestSlimOther(t *testing.T) {
	t.Parallel()
	o := object(t, `
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata:
  namespace: shop
  name: web
  uid: u
  resourceVersion: "7"
  generation: 3
  labels: {servingcert.dev/restarting-since: 20710314T150926Z}
  annotations: {servingcert.dev/restart: "false", servingcert.dev/reload: `+strings.Repeat("long", 1000)+`, theirs: x}
  managedFields: [{manager: servingcert-restart}]
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  strategy: {canary: {steps: [{pause: {}}]}}
  workloadRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  template:
    metadata: {labels: {app: web}, annotations: {servingcert.dev/restarted-at: "2071-03-14T15:09:26Z", theirs: x}}
    spec:
      volumes: [{name: tls, secret: {secretName: web-tls}}, {name: scratch, emptyDir: {}}]
      containers: [{name: main, image: web, command: [web], env: [{name: SECRET, value: x}], volumeMounts: [{name: tls, mountPath: /tls}]}]
status:
  observedGeneration: "3"
  availableReplicas: 2
  conditions: [{type: Completed, status: "True"}]
  canary: {weights: {}}
`)
	want := object(t, `
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {namespace: shop, name: web, uid: u, resourceVersion: "7", generation: 3, annotations: {servingcert.dev/restart: "false"}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  workloadRef: {kind: Deployment, name: web}
  template:
    metadata: {labels: {app: web}}
    spec:
      volumes: [{name: tls, secret: {secretName: web-tls}}]
      containers: [{name: main, resources: {}, volumeMounts: [{name: tls, mountPath: ""}]}]
status: {observedGeneration: "3", availableReplicas: 2}
`)
	for range 2 {
		if _, err := slimOther(o); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.Object, o.Object); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
}

// A workload that references a Deployment has the template of that Deployment. One without a
// template is not a workload.
func TestTemplateOfOther(t *testing.T) {
	t.Parallel()
	referring := object(t, `{kind: Rollout, metadata: {namespace: shop, name: web}, spec: {workloadRef: {kind: Deployment, name: old}}}`)
	if name := deploymentOf(rollouts, referring); name != "old" {
		t.Errorf("it refers to %q", name)
	}
	if name := deploymentOf(cloneSets, referring); name != "" {
		t.Errorf("the field of another kind refers to %q", name)
	}
	if w := ofOther(rollouts, referring, nil); w != nil {
		t.Errorf("it has no template, and is %s", w)
	}
	d := deployment("old").Object.(*appsv1.Deployment) //nolint:forcetypeassert // the fixture is a Deployment
	if w := ofOther(rollouts, referring, d); w == nil || w.template != &d.Spec.Template || w.String() != "Rollout shop/web" {
		t.Errorf("with the Deployment, it is %v", w)
	}
}

// A Job is reported while it runs, and never restarted.
func TestJob(t *testing.T) {
	t.Parallel()
	const spec = "spec: {template: {spec: {containers: [{name: main}]}}}"
	cached := func(status string) *workload {
		o, err := slimOther(object(t, "{apiVersion: batch/v1, kind: Job, metadata: {namespace: shop, name: backup, creationTimestamp: '2071-03-14T15:00:00Z'}, "+spec+", status: "+status+"}"))
		if err != nil {
			t.Fatal(err)
		}
		return ofOther(jobs, o.(*unstructured.Unstructured), nil) //nolint:forcetypeassert // slimOther returns its argument
	}
	for _, ended := range []string{"Complete", "Failed"} {
		if w := cached("{conditions: [{type: Suspended, status: 'False'}, {type: " + ended + ", status: 'True'}]}"); w != nil {
			t.Errorf("a Job that is %s is looked at", ended)
		}
	}
	job := cached("{active: 1, conditions: [{type: Complete, status: 'False'}]}")
	r := New(Reconciler{})
	item := r.newWorkloadState(now, job, rollingPolicy(), []change{renewed(time.Minute)})
	item.pendingChanges = item.changes
	p := planFor(now, rollingPolicy(), []*workloadState{item})
	named := p.workloads()
	if len(p.begin) > 0 || len(named) != 1 || named[0].State != v1alpha1.WorkloadBlocked || named[0].Message != jobsEnd {
		t.Errorf("it begins %v, and names %+v", p.begin, named)
	}
	for ago, want := range map[time.Duration]bool{time.Minute: true, time.Hour: false} {
		if found := r.newWorkloadState(now, job, rollingPolicy(), []change{renewed(ago)}); (found != nil) != want {
			t.Errorf("a Job that began nine minutes ago is looked at for a change %s ago: %t, want %t", ago, found != nil, want)
		}
	}
}

// The workload of a pod follows from the owner and the labels that the controllers of its kind
// write.
func TestOwnerOf(t *testing.T) {
	t.Parallel()
	uid := ofOther(cloneSets, object(t, `{kind: CloneSet, metadata: {name: web, uid: u}, spec: {template: {spec: {containers: [{name: a}]}}}}`), nil)
	named := func(kind schema.GroupVersionResource, name string) string {
		return ofOther(kind, object(t, "{kind: "+name+", metadata: {name: web, uid: u}, spec: {template: {spec: {containers: [{name: a}]}}}}"), nil).owner()
	}
	for name, tc := range map[string]struct {
		owner  metav1.OwnerReference
		labels map[string]string
		want   string
	}{
		"a Deployment":                      {metav1.OwnerReference{Kind: "ReplicaSet", Name: "web-abc"}, map[string]string{"pod-template-hash": "abc"}, deployment("web").owner()},
		"a Rollout":                         {metav1.OwnerReference{Kind: "ReplicaSet", Name: "web-abc"}, map[string]string{"rollouts-pod-template-hash": "abc"}, named(rollouts, "Rollout")},
		"a DeploymentConfig":                {metav1.OwnerReference{Kind: "ReplicationController", Name: "web-3"}, map[string]string{"deploymentconfig": "web"}, named(deploymentConfigs, "DeploymentConfig")},
		"a ReplicaSet by itself":            {metav1.OwnerReference{Kind: "ReplicaSet", Name: "web", UID: "u"}, nil, uid.owner()},
		"a ReplicationController by itself": {metav1.OwnerReference{Kind: "ReplicationController", Name: "web", UID: "u"}, nil, uid.owner()},
		"any other":                         {metav1.OwnerReference{Kind: "CloneSet", Name: "web", UID: "u"}, map[string]string{"deploymentconfig": "other"}, uid.owner()},
	} {
		tc.owner.Controller = new(true)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: tc.labels, OwnerReferences: []metav1.OwnerReference{tc.owner}}}
		if got := ownerOf(pod); got != tc.want {
			t.Errorf("%s: the pod is that of %s, want %s", name, got, tc.want)
		}
	}
}

// The restart of a workload that is only read begins and ends without a write; its pods are listed
// repeatedly meanwhile.
func TestReadOnlyTurn(t *testing.T) {
	t.Parallel()
	w := ofOther(cloneSets, object(t, `{kind: CloneSet, metadata: {namespace: shop, name: web, uid: u}, spec: {template: {spec: {containers: [{name: main}]}}}}`), nil)
	item := stale(w, renewed(time.Hour))
	r := New(Reconciler{Recorder: &discardRecorder{}})
	p := planFor(now, rollingPolicy(), []*workloadState{item})
	runConcurrently(t.Context(), []apiCall{r.writeRestart(now, p, item, ongoingRestart{since: now}, func(done bool) {
		if !done {
			t.Error("it did not begin")
		}
	})})
	p = planFor(now.Add(time.Second), rollingPolicy(), []*workloadState{item})
	if len(p.byState[restarting]) != 1 || len(p.evict) != 1 || p.recheckAt.After(now.Add(time.Second+retryEviction)) {
		t.Errorf("it is %v, evicts %v, and is looked at again at %s", p.byState, p.evict, p.recheckAt)
	}
	item.pendingChanges = nil
	item.rollout.available = true
	p = planFor(now.Add(time.Minute), rollingPolicy(), []*workloadState{item})
	if len(p.finish) != 1 {
		t.Fatalf("it is %v, want that it is completed", p.byState)
	}
	runConcurrently(t.Context(), []apiCall{r.finish(now, p, item)})
	if item.ongoing != nil {
		t.Error("its turn is not over")
	}
}
