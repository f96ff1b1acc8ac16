package controllers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// webhookError is how the API server reports the webhooks of breakWebhook.
const webhookError = `failed calling webhook "away.example.org"`

// breakWebhook makes the API server reject some operations in the realm's namespace: it must first
// call a webhook whose server is unavailable. probe is an object that the API server can then no
// longer create, or delete. back removes the webhook; so does the end of the test.
func (r realm) breakWebhook(resource string, probe client.Object, operations ...any) (back func()) {
	r.Helper()
	rules := []any{map[string]any{
		"operations": operations, "apiGroups": []any{""}, "apiVersions": []any{"v1"}, "resources": []any{resource},
	}}
	webhook := admission("ValidatingWebhookConfiguration", r.name+"-"+resource, nil)
	webhook.Object["webhooks"] = []any{map[string]any{
		"name": "away.example.org", "clientConfig": map[string]any{"url": "https://127.0.0.1:1/none"}, "rules": rules,
		"namespaceSelector": map[string]any{"matchLabels": map[string]any{corev1.LabelMetadataName: r.name}},
		"sideEffects":       "None", "admissionReviewVersions": []any{"v1"},
	}}
	delete(webhook.Object, "spec")
	createBy(r.T, r.admin(), webhook)
	probe.SetNamespace(r.name)
	await := func(away bool) {
		eventually(r.T, func(ctx context.Context) string {
			err := r.admin().Update(ctx, probe, client.DryRunAll)
			if operations[0] == "DELETE" {
				err = r.admin().Delete(ctx, probe, client.DryRunAll)
			}
			if (err != nil) != away {
				return fmt.Sprintf("whether the webhook is called is not known yet: %v", err)
			}
			return ""
		})
	}
	await(true)
	return func() {
		if err := r.admin().Delete(r.Context(), webhook); err != nil {
			r.Fatal(err)
		}
		await(false)
	}
}

// everyWrite are the operations that create or change an object.
var everyWrite = []any{"UPDATE", "CREATE"}

// An unavailable webhook for Secrets is reported on the Service and on its policy, until it is
// back.
func TestWebhookForSecretsUnavailable(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.serviceCA(isReady)
	back := r.breakWebhook("secrets", create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "probe"}}), everyWrite...)
	service := r.service("web", withSecretName("web-tls"))
	r.expectError("web", "RequestFailed: ", webhookError)
	event(t, service, corev1.EventTypeWarning, "RequestFailed", webhookError)
	r.policyReports("RequestFailed", "web")
	back()
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.expectError("web")
	r.serves(1)
}

// Where the Service cannot be written either, its policy reports the failure.
func TestWebhookForServicesUnavailable(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.service("taken", withSecretName("taken-tls"))
	r.secret("taken-tls", r.issued("taken."+r.name+".svc"))
	probe := r.service("probe", nil)
	back := r.breakWebhook("services", probe, "UPDATE")
	backToo := r.breakWebhook("secrets", create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "probe"}}), everyWrite...)
	remove(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "web-tls"}})
	p := r.policyReports("RequestFailed", "web")
	if counts := p.Status.Services; counts.Matched != 2 || counts.Issued != 1 || counts.Failed != 1 {
		t.Errorf("the counts are %+v", *counts)
	}
	if web := r.expectError("web"); web.Annotations[v1alpha1.AnnotationError] != "" {
		t.Errorf("the Service says %v", web.Annotations)
	}
	backToo()
	back()
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.serves(2)
}

// A Secret that is no longer desired and cannot be deleted is reported as well; the desired Secret
// is created meanwhile.
func TestWebhookForDeletionsUnavailable(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	service := r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	back := r.breakWebhook("secrets", create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "probe"}}), "DELETE")
	update(t, service, func(s *corev1.Service) { s.Annotations[v1alpha1.AnnotationSecretName] = "other-tls" })
	r.secret("other-tls", r.issued("web."+r.name+".svc"))
	r.expectError("web", "RequestFailed: ", webhookError)
	back()
	r.expectError("web")
	r.serves(1)
}

// A rotation reports which target cannot be written, and why, and continues once it can.
func TestWebhookForTargetsUnavailable(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	target := r.injected("trust")
	r.serviceCA(isReady)
	back := r.breakWebhook("configmaps", create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "probe"}}), everyWrite...)
	update(t, r.ca, func(ca *v1alpha1.ServiceCA) { ca.Spec.Rotation.Trigger = "now" })
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		for _, reason := range ca.Status.Rotation.BlockedBy {
			if strings.Contains(reason, "ConfigMap "+r.name+"/trust (") && strings.Contains(reason, webhookError) {
				return ""
			}
		}
		return fmt.Sprintf("the rotation waits for %q", ca.Status.Rotation.BlockedBy)
	})
	event(t, target, corev1.EventTypeWarning, "RequestFailed", webhookError)
	back()
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if phase := ca.Status.Rotation.Phase; phase != v1alpha1.PhaseRetiring {
			return fmt.Sprintf("the rotation is %s: %q", phase, ca.Status.Rotation.BlockedBy)
		}
		return isReady(ca)
	})
}

// A signing key that cannot be written is reported on its ServiceCA, also as what its rotation
// waits for, until it can be written.
func TestWebhookForTheSigningKeyUnavailable(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.start(newTransport())
	r := newRealmIn(t, w.kube, "away")
	r.serviceCA(isReady)
	own := r
	own.name = operatorNamespace
	probe := createBy(t, w.kube, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: "probe"}})
	back := own.breakWebhook("secrets", probe, everyWrite...)
	patch := client.MergeFrom(r.ca.DeepCopy())
	r.ca.Spec.Rotation.Trigger = "now"
	if err := w.kube.Patch(t.Context(), r.ca, patch); err != nil {
		t.Fatal(err)
	}
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		ready := meta.FindStatusCondition(ca.Status.Conditions, v1alpha1.ConditionReady)
		if ready == nil || ready.Reason != "RequestFailed" || !strings.Contains(ready.Message, webhookError) {
			return fmt.Sprintf("the condition Ready is %+v", ready)
		}
		if blocked := ca.Status.Rotation.BlockedBy; len(blocked) != 1 || !strings.Contains(blocked[0], webhookError) {
			return fmt.Sprintf("the rotation waits for %q", blocked)
		}
		return ""
	})
	back()
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if len(ca.Status.Previous) != 1 {
			return "it has not rotated"
		}
		return isReady(ca)
	})
}

// A status that cannot be written is reported once, by an Event on its ServiceCA or its policy, and
// so is what the operator does meanwhile; the status is written once it can be.
func TestWebhookForStatusesIsAway(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.serviceCA(isReady)
	r.serves(0)
	webhook := admission("ValidatingWebhookConfiguration", r.name+"-status", nil)
	webhook.Object["webhooks"] = []any{map[string]any{
		"name": "away.example.org", "clientConfig": map[string]any{"url": "https://127.0.0.1:1/none"}, "rules": []any{map[string]any{
			"operations": []any{"UPDATE"}, "apiGroups": []any{v1alpha1.GroupName}, "apiVersions": []any{"*"}, "resources": []any{"*/status"},
		}},
		"matchConditions": []any{map[string]any{"name": "one", "expression": fmt.Sprintf("object.metadata.name == %q", r.name)}},
		"sideEffects":     "None", "admissionReviewVersions": []any{"v1"},
	}}
	delete(webhook.Object, "spec")
	create(t, webhook)
	eventually(t, func(ctx context.Context) string {
		ca := &v1alpha1.ServiceCA{}
		if err := kube.Get(ctx, client.ObjectKeyFromObject(r.ca), ca); err != nil {
			return err.Error()
		}
		if err := kube.Status().Update(ctx, ca, client.DryRunAll); err == nil {
			return "the webhook is not called yet"
		}
		return ""
	})
	r.service("web", withSecretName("web-tls"))
	update(t, r.ca, func(ca *v1alpha1.ServiceCA) { ca.Spec.Rotation.Trigger = "now" })
	event(t, r.policy, corev1.EventTypeWarning, "RequestFailed", webhookError)
	event(t, r.ca, corev1.EventTypeWarning, "RequestFailed", webhookError)
	event(t, r.ca, corev1.EventTypeNormal, "RotationStarted")
	if err := kube.Delete(t.Context(), webhook); err != nil {
		t.Fatal(err)
	}
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if len(ca.Status.Previous) != 1 {
			return "it has not rotated"
		}
		return isReady(ca)
	})
	r.serves(1)
	all, err := eventsOf(t.Context(), r.ca)
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]int{}
	for _, one := range all {
		reasons[one.Reason]++
		if one.Series != nil {
			t.Errorf("Event %s is recorded %d times", one.Reason, one.Series.Count)
		}
	}
	if reasons["RotationStarted"] != 1 || reasons["RequestFailed"] != 1 {
		t.Errorf("the Events are %v", reasons)
	}
}
