package liverestart_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
)

// other returns a workload of a kind that is not built into Kubernetes, with three pods.
func (r *realm) other(kind schema.GroupVersionKind, name string, spec map[string]any) *unstructured.Unstructured {
	spec["replicas"] = int64(3)
	o := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	o.SetGroupVersionKind(kind)
	o.SetNamespace(r.name)
	o.SetName(name)
	return o
}

// templated returns a spec with a pod template and the selector in the form of its kind.
func (r *realm) templated(name string, selector map[string]any, how ...reads) map[string]any {
	r.Helper()
	made := template(name, how...)
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&made)
	if err != nil {
		r.Fatal(err)
	}
	return map[string]any{"template": fields, "selector": selector}
}

// Workloads of other kinds, whose API and permissions are installed while the operator runs, are
// restarted by evictions: one pod at a time, each pod once, and without a write to the workload.
// Workloads that read no object of the operator, or that opt out, are left alone.
func TestOtherKinds(t *testing.T) {
	t.Parallel()
	r := newRealm(t, rolling(10))
	crds, err := testoperator.Path("controllers", "liverestart", "testdata")
	if err != nil {
		t.Fatal(err)
	}
	definitions, err := testoperator.Manifests(crds)
	if err != nil {
		t.Fatal(err)
	}
	for _, definition := range definitions {
		r.create(definition)
	}
	if err := testoperator.Allow(t.Context(), env.kube, operatorNamespace, "restart-clonesets"); err != nil {
		t.Fatal(err)
	}
	onlyReads(t)
	labels := func(name string) map[string]any { return map[string]any{"app": name} }
	matches := func(name string) map[string]any { return map[string]any{"matchLabels": labels(name)} }
	referenced := r.deployment("referring", byVolume)
	referenced.Name, referenced.Spec.Replicas = "referenced", new(int32(0))
	r.create(referenced)
	optsOut := r.other(rollouts, "opted-out", r.templated("opted-out", matches("opted-out"), byVolume))
	optsOut.SetAnnotations(map[string]string{v1alpha1.AnnotationRestart: "false"})
	restarted := []*unstructured.Unstructured{
		r.other(rollouts, "rollout", r.templated("rollout", matches("rollout"), byVolume)),
		r.other(rollouts, "referring", map[string]any{"workloadRef": map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": "referenced"}}),
		r.other(deploymentConfigs, "config", r.templated("config", labels("config"), byVariable)),
		r.other(cloneSets, "clones", r.templated("clones", matches("clones"), byVolume)),
	}
	left := []*unstructured.Unstructured{optsOut, r.other(rollouts, "stranger", r.templated("stranger", matches("stranger")))}
	before := map[string]map[string]bool{}
	for _, o := range append(left, restarted...) {
		eventually(t, func(ctx context.Context) error { return env.kube.Create(ctx, o.DeepCopy()) })
	}
	p := r.peer()
	for _, o := range append(left, restarted...) {
		eventually(t, func(context.Context) error {
			if low := p.low(o.GetName()); low != 3 {
				return fmt.Errorf("%s has %d available pods", o.GetName(), low)
			}
			return nil
		})
		before[o.GetName()] = r.pods(o.GetName())
	}
	r.renew()
	for _, o := range restarted {
		r.restartedSince(o.GetName(), before[o.GetName()])
	}
	r.expectMessage("that all is current", func(counts v1alpha1.RestartCounts, _ metav1.Condition) bool {
		return counts.Pending+counts.InProgress+counts.Failed == 0 && counts.OptedOut == 1 && counts.LastCompletedAt != nil
	})
	for _, o := range restarted {
		if low := p.low(o.GetName()); low < 2 {
			t.Errorf("at one time only %d pods of %s were available, want 2 of 3", low, o.GetName())
		}
		r.expectEvent(o.GetName(), "policy "+r.name+" restarts it: the certificate in Secret web-tls was renewed ")
	}
	for _, o := range left {
		for uid := range r.pods(o.GetName()) {
			if !before[o.GetName()][uid] {
				t.Errorf("%s was restarted", o.GetName())
			}
		}
	}
	for _, o := range append(left, restarted...) {
		if r.rollouts(o) != 0 {
			t.Errorf("the spec of %s was changed", o.GetName())
		}
	}
	evictions := 0
	for _, write := range env.manager.written("/eviction") {
		if strings.Contains(write, "/namespaces/"+r.name+"/") {
			evictions++
		}
	}
	if want := 3 * len(restarted); evictions != want {
		t.Errorf("%d pods were evicted, want %d", evictions, want)
	}
}

// A Job is not restarted while it runs, and the policy reports that. Its CronJob needs no restart,
// because its next Job reads the new certificate.
func TestJobs(t *testing.T) {
	t.Parallel()
	r := newRealm(t, rolling(10))
	cron := &batchv1.CronJob{ObjectMeta: r.meta("backup"), Spec: batchv1.CronJobSpec{Schedule: "* * * * *", ConcurrencyPolicy: batchv1.ForbidConcurrent}}
	cron.Spec.JobTemplate.Spec.Template = template("backup", byVariable)
	pod := &cron.Spec.JobTemplate.Spec.Template.Spec
	pod.RestartPolicy = corev1.RestartPolicyNever
	// On these nodes, containers of a Job exit at once: this one waits for a ConfigMap before it
	// starts.
	pod.InitContainers = append(pod.InitContainers, pod.Containers[0])
	pod.InitContainers[0].Name = "reads"
	pod.Containers[0].Env = []corev1.EnvVar{{Name: "GO", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: "go"}, Key: "go",
	}}}}
	r.create(cron)
	var running map[string]bool
	eventually(t, func(ctx context.Context) error {
		var pods corev1.PodList
		if err := env.kube.List(ctx, &pods, client.InNamespace(r.name)); err != nil {
			return err
		}
		for i := range pods.Items {
			if statuses := pods.Items[i].Status.InitContainerStatuses; len(statuses) == 1 && statuses[0].State.Terminated != nil {
				running = r.pods("backup")
				return nil
			}
		}
		return errors.New("no Job has begun")
	})
	r.renew()
	var job string
	r.expectMessage("that a Job is not restarted", func(counts v1alpha1.RestartCounts, _ metav1.Condition) bool {
		for _, one := range counts.Workloads {
			if one.Kind == "Job" && one.State == v1alpha1.WorkloadBlocked && strings.HasPrefix(one.Message, "a Job is never restarted: ") {
				job = one.Name
			}
		}
		return job != "" && counts.Blocked == 1 && counts.Pending == 1 && len(counts.Workloads) == 1
	})
	if !strings.HasPrefix(job, "backup-") {
		t.Errorf("it names %s", job)
	}
	if now := r.pods("backup"); !maps.Equal(now, running) {
		t.Errorf("the pod of the Job was replaced: %v, before %v", now, running)
	}
	r.create(&corev1.ConfigMap{ObjectMeta: r.meta("go"), Data: map[string]string{"go": "on"}})
	r.expectMessage("that nothing is old once the Job has ended", func(counts v1alpha1.RestartCounts, condition metav1.Condition) bool {
		return counts.Pending == 0 && counts.LastCompletedAt == nil && condition.Reason == "AllCurrent"
	})
	if r.rollouts(cron) != 0 {
		t.Error("the CronJob was changed")
	}
}

// onlyReads checks that the operator has only read permissions on the kinds that it restarts by
// evictions, and on Jobs.
func onlyReads(t *testing.T) {
	t.Helper()
	may := func(verb, group, resource, subresource string) bool {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               "system:serviceaccount:" + operatorNamespace + ":manager",
			Groups:             []string{"system:serviceaccounts", "system:serviceaccounts:" + operatorNamespace, "system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Group: group, Resource: resource, Subresource: subresource},
		}}
		if err := env.kube.Create(t.Context(), review); err != nil {
			t.Fatal(err)
		}
		return review.Status.Allowed
	}
	for resource, group := range map[string]string{"rollouts": "argoproj.io", "deploymentconfigs": "apps.openshift.io", "jobs": "batch", "clonesets": "apps.kruise.io"} {
		for verb, want := range map[string]bool{
			"list": true, "watch": true, "get": false, "create": false, "patch": false, "update": false, "delete": false, "deletecollection": false,
		} {
			if may(verb, group, resource, "") != want {
				t.Errorf("may %s %s: %t", verb, resource, !want)
			}
		}
		for _, subresource := range []string{"status", "scale", "instantiate", "rollback"} {
			if may("create", group, resource, subresource) || may("patch", group, resource, subresource) {
				t.Errorf("may write %s/%s", resource, subresource)
			}
		}
	}
	if may("list", "batch", "cronjobs", "") || may("list", "apps", "replicasets", "") || may("list", "", "replicationcontrollers", "") || may("delete", "", "pods", "") {
		t.Error("it may do what it does not need")
	}
}
