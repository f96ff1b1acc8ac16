package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// A rotation waits for a target that RBAC no longer allows the operator to write, reports that, and
// continues once RBAC allows it again.
func TestRotationWaitsForRights(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	if err := rbacv1.AddToScheme(w.kube.Scheme()); err != nil {
		t.Fatal(err)
	}
	w.start(newTransport())
	r := newRealmIn(t, w.kube, "rights")
	webhooks := admission("ValidatingWebhookConfiguration", "webhooks", nil)
	delete(webhooks.Object, "spec")
	webhooks.SetAnnotations(r.injects())
	createBy(t, w.kube, webhooks)
	r.serviceCA(counts(2, 2))
	role := &rbacv1.ClusterRole{}
	if err := w.kube.Get(t.Context(), client.ObjectKey{Name: "manager"}, role); err != nil {
		t.Fatal(err)
	}
	full := role.DeepCopy().Rules
	w.edit(role, func() {
		for i := range role.Rules {
			if slices.Contains(role.Rules[i].Resources, "validatingwebhookconfigurations") {
				role.Rules[i].Verbs = []string{"get", "list", "watch"}
			}
		}
	})
	w.edit(r.ca, func() { r.ca.Spec.Rotation.Trigger = "now" })
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		blocked := strings.Join(ca.Status.Rotation.BlockedBy, "; ")
		if phase := ca.Status.Rotation.Phase; phase != v1alpha1.PhasePublishing || !strings.Contains(blocked, "ValidatingWebhookConfiguration webhooks (") ||
			!strings.Contains(blocked, "cannot update resource") {
			return fmt.Sprintf("the rotation is %s, and waits for %q", phase, blocked)
		}
		return ""
	})
	w.edit(role, func() { role.Rules = full })
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if phase := ca.Status.Rotation.Phase; phase != v1alpha1.PhaseRetiring {
			return fmt.Sprintf("the rotation is %s: %q", phase, ca.Status.Rotation.BlockedBy)
		}
		return counts(2, 2)(ca)
	})
}
