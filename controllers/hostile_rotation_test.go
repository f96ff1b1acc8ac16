package controllers_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Nothing that a tenant does in a namespace of its own holds up a rotation, and least of all the end of a CA that was compromised.
func TestTenantsCannotHoldARotation(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	before := r.signer()
	// A Secret that says it carries a bundle.
	r.service("web", asks("web-tls"))
	forged := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	mark := func(value string) {
		update(t, forged, func(s *corev1.Secret) {
			metav1.SetMetaDataAnnotation(&s.ObjectMeta, v1alpha1.AnnotationCABundleHash, value)
		})
	}
	mark("x")
	r.secret("web-tls", func(secret *corev1.Secret) string {
		if _, marked := secret.Annotations[v1alpha1.AnnotationCABundleHash]; marked {
			return "the forged mark is still there"
		}
		return ""
	})
	// A Service, and with it its Secret, that never goes.
	stuck := r.service("stuck", asks("stuck-tls"), func(s *corev1.Service) { s.Finalizers = []string{"example.org/never"} })
	r.secret("stuck-tls", r.issued("stuck."+r.name+".svc"))
	t.Cleanup(func() { unguard(t, stuck) })
	if err := kube.Delete(t.Context(), stuck); err != nil {
		t.Fatal(err)
	}
	// ConfigMaps that take no bundle, or say that they have it, or that they cannot have it.
	immutable := true
	r.configMap("immutable", r.injects(), nil, func(c *corev1.ConfigMap) { c.Immutable = &immutable })
	r.configMap("forged", r.injects(v1alpha1.AnnotationCABundleHash, "x", v1alpha1.AnnotationError, "KeyNotOurs: no"), nil)

	mark("y")
	update(t, r.ca, func(ca *v1alpha1.ServiceCA) {
		ca.Spec.Rotation.Trigger, ca.Spec.Rotation.TriggerReason = "stolen", v1alpha1.TriggerCompromise
	})
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if ca.Status.Rotation.Phase != v1alpha1.PhaseStable || len(ca.Status.Previous) > 0 || activeOf(ca).SerialNumber == before.SerialNumber.Text(16) {
			return "the rotation is not at its end"
		}
		return ""
	})
	eventually(t, func(ctx context.Context) string {
		var left corev1.Service
		return errorText(kube.Get(ctx, client.ObjectKeyFromObject(stuck), &left))
	})
}
