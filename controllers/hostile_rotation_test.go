package controllers_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Nothing that a tenant does in its own namespace delays a rotation, and least of all the removal
// of a compromised CA.
func TestTenantsCannotHoldARotation(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	before := r.signer()
	// A Secret that claims to carry a bundle.
	r.service("web", withSecretName("web-tls"))
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
	// A Service, and with it its Secret, that is never deleted.
	stuck := r.service("stuck", withSecretName("stuck-tls"), func(s *corev1.Service) { s.Finalizers = []string{"example.org/never"} })
	r.secret("stuck-tls", r.issued("stuck."+r.name+".svc"))
	t.Cleanup(func() { unguard(t, stuck) })
	if err := kube.Delete(t.Context(), stuck); err != nil {
		t.Fatal(err)
	}
	// ConfigMaps that accept no bundle, claim to have it, or claim that they cannot have it.
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

// Nor do these delay it: a Service on which nothing can be reported, a Secret that has no space
// left, and a Secret whose owner reverts every write of the operator.
func TestUnreportableTenantsCannotHoldARotation(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		p.Spec.Certificate.CABundle = v1alpha1.CABundleInclude
	})
	var fat *corev1.Service
	for _, name := range []string{"mute", "fought", "fat"} {
		fat = r.service(name, withSecretName(name+"-tls"))
		r.secret(name+"-tls", r.issued(name+"."+r.name+".svc"))
	}
	before := r.signer()
	pad := func(annotations map[string]string, to int) {
		annotations["example.org/pad"] = ""
		size := 0
		for key, value := range annotations {
			size += len(key) + len(value)
		}
		annotations["example.org/pad"] = strings.Repeat("x", to-size)
	}
	update(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "mute"}}, func(s *corev1.Service) {
		s.Annotations[v1alpha1.AnnotationKeystore] = "nope"
		pad(s.Annotations, 256<<10)
	})
	update(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "fat-tls"}}, func(s *corev1.Secret) {
		size := 0
		for _, value := range s.Data {
			size += len(value)
		}
		s.Data["fat"] = bytes.Repeat([]byte("x"), corev1.MaxSecretSize-size)
	})
	fighting, end := context.WithCancel(t.Context())
	fought := make(chan struct{})
	go func() {
		defer close(fought)
		undone := []byte(`{"metadata":{"annotations":{"` + v1alpha1.AnnotationCABundleHash + `":"undone"}}}`)
		for fighting.Err() == nil {
			// The operator may be writing it at that moment.
			_ = kube.Patch(fighting, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "fought-tls"}},
				client.RawPatch(types.MergePatchType, undone))
		}
	}()
	t.Cleanup(func() { end(); <-fought })
	update(t, r.ca, func(ca *v1alpha1.ServiceCA) {
		ca.Spec.Rotation.Trigger, ca.Spec.Rotation.TriggerReason = "stolen", v1alpha1.TriggerCompromise
	})
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if ca.Status.Rotation.Phase != v1alpha1.PhaseStable || activeOf(ca).SerialNumber == before.SerialNumber.Text(16) {
			return "the rotation is not at its end"
		}
		return ""
	})
	// When the old root has gone, the bundle fits again, and no failure is reported any more.
	event(t, fat, corev1.EventTypeWarning, "SecretRefused")
}
