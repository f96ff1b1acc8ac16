package liverestart_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// goingOn restarts one workload at a time and does not halt at those that fail.
func goingOn() v1alpha1.Restart {
	restart := rolling(1)
	restart.OnFailure = v1alpha1.RestartContinue
	return restart
}

// A tenant's webhook on Deployments whose server is down delays no other workload of the policy.
// The workload and the policy both report the cause, and the workload is restarted soon after the
// webhook is removed.
func TestBrokenWebhook(t *testing.T) {
	t.Parallel()
	r := newRealm(t, goingOn())
	other := r.neighbor()
	broken, healthy := r.deployment("a-web", byVolume), other.deployment("web", byVolume)
	r.run(broken)
	other.run(healthy)
	webhook := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: r.name}, Webhooks: []admissionv1.ValidatingWebhook{{
		Name: "away.example.org", AdmissionReviewVersions: []string{"v1"}, SideEffects: new(admissionv1.SideEffectClassNone), TimeoutSeconds: new(int32(1)),
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: r.name}},
		ClientConfig:      admissionv1.WebhookClientConfig{URL: new("https://127.0.0.1:1/")},
		Rules: []admissionv1.RuleWithOperations{{
			Operations: []admissionv1.OperationType{admissionv1.Update},
			Rule:       admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
		}},
	}}}
	r.create(webhook)
	eventually(t, func(ctx context.Context) error {
		probe := broken.DeepCopy()
		if err := env.kube.Update(ctx, probe, client.DryRunAll); err == nil || !strings.Contains(err.Error(), "failed calling webhook") {
			return fmt.Errorf("the webhook is not in force: %w", err)
		}
		return nil
	})
	before := other.pods("web")
	r.renew()
	other.restartedSince("web", before)
	r.expectMessage("what is wrong", func(counts v1alpha1.RestartCounts, condition metav1.Condition) bool {
		named := len(counts.Workloads) == 1 && counts.Workloads[0].State == v1alpha1.WorkloadBlocked && counts.Workloads[0].Name == "a-web"
		return counts.Pending == 1 && counts.Blocked == 1 && named && strings.Contains(condition.Message, "cannot be restarted: Deployment "+r.name+"/a-web (its restart was refused: ") &&
			strings.Contains(condition.Message, "failed calling webhook")
	})
	r.warned("a-web", "RestartFailed", "failed calling webhook")
	if r.rollouts(broken) != 0 {
		t.Error("it was restarted in spite of the webhook")
	}
	if err := env.kube.Delete(t.Context(), webhook); err != nil {
		t.Fatal(err)
	}
	r.done()
	if a, b := r.rollouts(broken), other.rollouts(healthy); a != 1 || b != 1 {
		t.Errorf("the templates were changed %d and %d times, want once each", a, b)
	}
}

// neighbor returns a realm with another namespace under the same policy.
func (r *realm) neighbor() *realm {
	r.Helper()
	other := &realm{T: r.T, name: r.name + "-neighbour", policy: r.policy}
	edit(r.T, r.policy, func(p *v1alpha1.ServingCertPolicy) {
		p.Spec.NamespaceSelector = metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{
			Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpIn, Values: []string{r.name, other.name},
		}}}
	})
	r.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: other.name}})
	r.create(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: other.name, Name: "web", Annotations: map[string]string{v1alpha1.AnnotationSecretName: secretName}},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443, TargetPort: intstr.FromInt32(8443)}}},
	})
	return other
}

// warned waits for a warning Event on a workload.
func (r *realm) warned(name, reason, note string) {
	r.Helper()
	eventually(r.T, func(ctx context.Context) error {
		var events eventsv1.EventList
		if err := env.kube.List(ctx, &events, client.InNamespace(r.name)); err != nil {
			return err
		}
		for _, event := range events.Items {
			if event.Regarding.Name == name && event.Reason == reason && event.Type == corev1.EventTypeWarning && strings.Contains(event.Note, note) {
				return nil
			}
		}
		return fmt.Errorf("no Event %s on %s says %q", reason, name, note)
	})
}

// Labels that a tenant writes do not count as restarts: neither one in the future, written under
// the operator's field manager, nor one written under another.
func TestForgedMark(t *testing.T) {
	t.Parallel()
	r := newRealm(t, goingOn())
	web := r.deployment("web", byVolume)
	r.run(web)
	for name, forgery := range map[string]struct{ mark, manager string }{
		"future": {"20990101T000000Z", "servingcert-restart"}, "past": {time.Now().UTC().Format("20060102T150405Z"), "kubectl"},
	} {
		blocker := r.deployment(name, byVolume)
		blocker.Labels = map[string]string{v1alpha1.LabelRestarting: forgery.mark}
		blocker.Spec.ProgressDeadlineSeconds = new(int32(1<<31 - 1))
		blocker.Spec.Template.Spec.NodeSelector = map[string]string{"nowhere": "true"}
		blocker.TypeMeta = metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}
		//nolint:staticcheck // the test applies the manifest itself, not a configuration built from it
		if err := env.kube.Patch(t.Context(), blocker, client.Apply, client.FieldOwner(forgery.manager)); err != nil {
			t.Fatal(err)
		}
	}
	before := r.pods("web")
	r.renew()
	r.done()
	r.isRestarted(web, before, 1)
}

// If the owner removes the stamp at once, the operator stops writing to the template: after two
// restarts that were undone, it evicts the pods.
func TestOwnerUndoes(t *testing.T) {
	t.Parallel()
	r := newRealm(t, goingOn())
	web := r.deployment("web", byVolume)
	web.Spec.Replicas, web.Spec.MinReadySeconds = new(int32(2)), 5
	r.run(web)
	ended, undone := make(chan struct{}), 0
	ctx, cancel := context.WithCancel(t.Context())
	key := client.ObjectKeyFromObject(web)
	go func() {
		defer close(ended)
		wait.UntilWithContext(ctx, func(ctx context.Context) {
			owned := &appsv1.Deployment{}
			if env.kube.Get(ctx, key, owned) != nil || stampOf(owned) == "" {
				return
			}
			patch := client.RawPatch(types.JSONPatchType, []byte(`[{"op":"remove","path":"/spec/template/metadata/annotations"}]`))
			if env.kube.Patch(ctx, owned, patch) == nil {
				undone++
			}
		}, 100*time.Millisecond)
	}()
	before := r.pods("web")
	r.renew()
	r.restartedSince("web", before)
	r.warned("web", "RestartUndone", "its pods are evicted instead, as far as PodDisruptionBudgets allow")
	r.done()
	cancel()
	<-ended
	if undone != 2 {
		t.Errorf("the restart was begun %d times, want twice", undone)
	}
}

// A Deployment that a quota keeps below its replicas is restarted all the same, and the restart
// ends although the Deployment never becomes available.
func TestNeverAvailable(t *testing.T) {
	t.Parallel()
	r := newRealm(t, goingOn())
	r.create(&corev1.ResourceQuota{ObjectMeta: r.meta("pods"), Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("2")}}})
	web := r.deployment("web", byVolume)
	web.Spec.Replicas, web.Spec.ProgressDeadlineSeconds = new(int32(3)), new(int32(5))
	web.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: new(intstr.FromInt32(0)), MaxUnavailable: new(intstr.FromInt32(2))}
	r.create(web)
	eventually(t, func(context.Context) error {
		if running := len(r.pods("web")); running != 2 {
			return fmt.Errorf("there are %d pods", running)
		}
		return nil
	})
	before := r.pods("web")
	r.renew()
	r.restartedSince("web", before)
	r.done()
	if got := r.rollouts(web); got != 1 {
		t.Errorf("the template was changed %d times, want once", got)
	}
}
