package controllers_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Fault 6: after ten failures OpenShift stops retrying without saying so, and removing the beta
// annotations alone does not resume it.
func TestFault6NoNumberOfFailuresIsFinal(t *testing.T) {
	r := newOpenShift(t)
	foreign := create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "web-tls"}})
	service := r.service("web", map[string]string{beta + "serving-cert-secret-name": "web-tls"})
	r.eventuallyFailed(service, "web-tls", "1")
	for i := range 12 {
		name := fmt.Sprintf("Invalid_%d", i)
		update(t, service, func(s *corev1.Service) { s.Annotations[beta+"serving-cert-secret-name"] = name })
		r.eventuallyFailed(service, name, fmt.Sprint(i+2))
	}
	update(t, service, func(s *corev1.Service) { s.Annotations[beta+"serving-cert-secret-name"] = "web-tls" })
	r.eventuallyFailed(service, "web-tls", "14")
	if err := kube.Delete(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	update(t, service, func(s *corev1.Service) {
		delete(s.Annotations, beta+"serving-cert-generation-error")
		delete(s.Annotations, beta+"serving-cert-generation-error-num")
	})
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.eventuallySigned(service)
}

// If annotations of an unresolved error are removed, in either family, the operator reports the
// error again.
func TestFault6ClearedErrorsAreReportedAgain(t *testing.T) {
	r := newOpenShift(t)
	create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "web-tls"}})
	service := r.service("web", map[string]string{beta + "serving-cert-secret-name": "web-tls"})
	r.eventuallyFailed(service, "web-tls", "1")
	for _, cleared := range errorAnnotations() {
		update(t, service, func(s *corev1.Service) { delete(s.Annotations, cleared) })
		eventually(t, func(ctx context.Context) string {
			if err := kube.Get(ctx, client.ObjectKeyFromObject(service), service); err != nil {
				return err.Error()
			}
			for _, key := range errorAnnotations() {
				if service.Annotations[key] == "" {
					return key + " is missing"
				}
			}
			return ""
		})
	}
}

// Fault 7: a Service that is deleted and created again with another kind of clusterIP can stay
// stuck for ever.
func TestFault7ServiceMadeAgainWithAnotherClusterIP(t *testing.T) {
	for _, orphaned := range []bool{false, true} {
		t.Run(fmt.Sprintf("Secret orphaned %t", orphaned), func(t *testing.T) {
			r := newOpenShift(t)
			kinds := []string{"", corev1.ClusterIPNone, "", corev1.ClusterIPNone}
			for i, clusterIP := range kinds {
				service, secret := r.served("web", func(s *corev1.Service) { s.Spec.ClusterIP = clusterIP })
				wildcard := "*.web." + r.name + ".svc"
				r.secret(secret.Name, func(s *corev1.Secret) string {
					if len(s.OwnerReferences) != 1 || s.OwnerReferences[0].UID != service.UID {
						return fmt.Sprintf("the owners are %v, want %s only", s.OwnerReferences, service.UID)
					}
					if names := leaf(t, s).DNSNames; slices.Contains(names, wildcard) != (clusterIP == corev1.ClusterIPNone) {
						return fmt.Sprintf("the names are %v", names)
					}
					return ""
				})
				r.eventuallySigned(service)
				if i == len(kinds)-1 {
					return
				}
				policy := metav1.DeletePropagationBackground
				if orphaned {
					policy = metav1.DeletePropagationOrphan
				}
				if err := kube.Delete(t.Context(), service, client.PropagationPolicy(policy)); err != nil {
					t.Fatal(err)
				}
				eventually(t, func(ctx context.Context) string {
					if err := kube.Get(ctx, client.ObjectKeyFromObject(service), &corev1.Service{}); !apierrors.IsNotFound(err) {
						return "the Service is still there"
					}
					return ""
				})
			}
		})
	}
}

// Fault 9: reissuing removes labels and annotations that other clients put on the Secret.
func TestFault9ReissuingKeepsWhatOthersPutOnTheSecret(t *testing.T) {
	r := newOpenShift(t)
	_, secret := r.served("web")
	update(t, secret, func(s *corev1.Secret) {
		metav1.SetMetaDataLabel(&s.ObjectMeta, "team", "shop")
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, "reloader/match", "true")
		s.Finalizers = append(s.Finalizers, "example.org/guard")
	})
	t.Cleanup(func() { unguard(t, secret.DeepCopy()) })
	serial := leaf(t, secret).SerialNumber
	update(t, secret, func(s *corev1.Secret) { s.Data["tls.key"] = []byte("corrupt") })
	again := r.secret("web-tls", func(s *corev1.Secret) string {
		if leaf(t, s).SerialNumber.Cmp(serial) == 0 {
			return "the certificate has not been issued again"
		}
		return r.issued("web." + r.name + ".svc")(s)
	})
	has(t, again.Labels, map[string]string{"team": "shop"})
	has(t, again.Annotations, map[string]string{"reloader/match": "true"})
	if !slices.Contains(again.Finalizers, "example.org/guard") {
		t.Errorf("the finalizers are %v", again.Finalizers)
	}
}

// unguard removes the finalizers of an object, and again when the test ends.
func unguard(t *testing.T, object client.Object) {
	t.Helper()
	patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
	if err := client.IgnoreNotFound(kube.Patch(context.Background(), object, patch)); err != nil {
		t.Error(err)
	}
}

// Fault 13: renaming the Secret leaves the old one behind, unmaintained.
func TestFault13RenamedSecretLeavesNoneBehind(t *testing.T) {
	r := newOpenShift(t)
	service, secret := r.served("web")
	for _, name := range []string{"second-tls", "third-tls"} {
		update(t, service, func(s *corev1.Service) { s.Annotations[beta+"serving-cert-secret-name"] = name })
		r.secret(name, r.issued("web."+r.name+".svc"))
		eventually(t, func(ctx context.Context) string {
			if err := kube.Get(ctx, client.ObjectKeyFromObject(secret), &corev1.Secret{}); !apierrors.IsNotFound(err) {
				return fmt.Sprintf("Secret %s is still there (%v)", secret.Name, err)
			}
			return ""
		})
		r.only(name)
		secret.Name = name
	}
}
