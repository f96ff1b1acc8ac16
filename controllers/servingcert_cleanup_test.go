package controllers_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// pod creates a pod that no node will ever run; use defines how it refers to a Secret.
func (r realm) pod(name string, use func(*corev1.PodSpec)) *corev1.Pod {
	r.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: new(false), TerminationGracePeriodSeconds: ptr.To[int64](0),
			Containers: []corev1.Container{{Name: "app", Image: "app"}},
		},
	}
	use(&pod.Spec)
	eventually(r.T, func(ctx context.Context) string { // until the namespace has its ServiceAccount
		if err := kube.Create(ctx, pod); err != nil {
			return err.Error()
		}
		return ""
	})
	return pod
}

func mounting(secret string) func(*corev1.PodSpec) {
	return func(spec *corev1.PodSpec) {
		spec.Volumes = []corev1.Volume{{Name: "tls", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}}}
	}
}

func projecting(secret string) func(*corev1.PodSpec) {
	return func(spec *corev1.PodSpec) {
		source := corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: secret}}
		spec.Volumes = []corev1.Volume{{Name: "tls", VolumeSource: corev1.VolumeSource{
			Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{Secret: &source}}}}}}
	}
}

func reading(secret string) func(*corev1.PodSpec) {
	return func(spec *corev1.PodSpec) {
		spec.InitContainers = []corev1.Container{{Name: "init", Image: "init", EnvFrom: []corev1.EnvFromSource{
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: secret}}}}}}
	}
}

// touch makes the operator reconcile a Service again.
func touch(t *testing.T, service *corev1.Service) {
	t.Helper()
	update(t, service, func(s *corev1.Service) { s.Labels = map[string]string{"touched": s.ResourceVersion} })
}

// passes waits until the operator has done everything that it would do about earlier changes.
func (r realm) passes() {
	r.Helper()
	service := r.service("barrier", withSecretName("barrier-tls"))
	r.secret("barrier-tls", r.issued("barrier."+r.name+".svc"))
	remove(r.T, service)
	r.without("barrier-tls")
}

// A Secret under a former name is deleted as soon as no pod refers to it in any way, and not
// before.
func TestSecretRenamed(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(string) func(*corev1.PodSpec){"mounted": mounting, "projected": projecting, "read": reading} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRealm(t)
			service := r.service("web", withSecretName("former"))
			former := r.secret("former", r.issued("web."+r.name+".svc"))
			pod := r.pod("web-0", use("former"))
			update(t, service, func(s *corev1.Service) { s.Annotations = withSecretName("latter") })
			latter := r.secret("latter", r.issued("web."+r.name+".svc"))
			if leaf(t, latter).Equal(leaf(t, former)) {
				t.Error("two Secrets hold one certificate")
			}
			touch(t, service)
			r.passes()
			unchanged(t, former)
			remove(t, pod)
			touch(t, service)
			r.without("former")
			event(t, service, corev1.EventTypeNormal, "CleanedUp", "Secret former")
			unchanged(t, latter)
		})
	}
}

// A finished pod no longer needs its Secret.
func TestSecretRenamedBesideFinishedPod(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	service := r.service("web", withSecretName("former"))
	r.secret("former", r.issued("web."+r.name+".svc"))
	pod := r.pod("job", mounting("former"))
	pod.Status.Phase = corev1.PodSucceeded
	if err := kube.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	update(t, service, func(s *corev1.Service) { s.Annotations = withSecretName("latter") })
	r.without("former")
}

// A Secret is kept while its Service no longer asks for it but a pod still needs it; when the
// Service asks again, the Secret is the same.
func TestAnnotationTakenAway(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	service := r.service("web", withSecretName("web-tls"))
	served := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	pod := r.pod("web-0", mounting("web-tls"))
	update(t, service, func(s *corev1.Service) { s.Annotations = nil })
	r.serves(0)
	r.passes()
	unchanged(t, served)
	update(t, service, func(s *corev1.Service) { s.Annotations = withSecretName("web-tls") })
	r.serves(1)
	unchanged(t, served)
	update(t, service, func(s *corev1.Service) { s.Annotations = nil })
	remove(t, pod)
	touch(t, service)
	r.without("web-tls")
	r.expectError("web")
}

// The operator does not delete a copy of its Secret that another client made, labels and owner
// included.
func TestCopyOfASecretStays(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	service := r.service("web", withSecretName("web-tls"))
	served := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	copied := create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: r.name, Name: "web-tls-backup", Labels: served.Labels, Annotations: served.Annotations, OwnerReferences: served.OwnerReferences,
		},
		Type: served.Type, Data: served.Data,
	})
	touch(t, service)
	r.passes()
	unchanged(t, copied, served)
	update(t, service, func(s *corev1.Service) { s.Annotations = nil })
	r.without("web-tls")
	unchanged(t, copied)
}

// A Secret is garbage-collected with its Service.
func TestServiceDeleted(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	service := r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.pod("web-0", mounting("web-tls"))
	remove(t, service)
	r.without("web-tls")
	r.serves(0)
}

// A Service that is deleted and created again at once is served, whatever the garbage collector
// does meanwhile.
func TestServiceMadeAgain(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	for range 5 {
		service := r.service("web", withSecretName("web-tls"))
		r.secret("web-tls", func(secret *corev1.Secret) string {
			if len(secret.OwnerReferences) != 1 || secret.OwnerReferences[0].UID != service.UID {
				return "the Secret belongs to the former Service"
			}
			return r.issued("web." + r.name + ".svc")(secret)
		})
		remove(t, service)
	}
	service := r.service("web", withSecretName("web-tls"))
	r.serves(1)
	r.passes()
	if secret := r.secret("web-tls", r.issued("web."+r.name+".svc")); secret.OwnerReferences[0].UID != service.UID {
		t.Error("the Secret belongs to a former Service")
	}
}

// A Service that was deleted alone, as by `kubectl delete --cascade=orphan`, and created again
// adopts its Secret.
func TestServiceOrphansItsSecret(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	service := r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	if err := kube.Delete(t.Context(), service, client.PropagationPolicy(metav1.DeletePropagationOrphan)); err != nil {
		t.Fatal(err)
	}
	gone(t, service)
	service = r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", func(secret *corev1.Secret) string {
		if len(secret.OwnerReferences) != 1 || secret.OwnerReferences[0].UID != service.UID {
			return "the Secret is not taken up"
		}
		return r.issued("web." + r.name + ".svc")(secret)
	})
	r.expectError("web")
}

// When a policy is deleted, a Service with an annotation keeps its Secret and reports the error; a
// Secret for a Service without one is deleted.
func TestPolicyDeleted(t *testing.T) {
	t.Parallel()
	r := newRealm(t, issueAll)
	r.service("asking", withSecretName("asking-tls"))
	r.service("silent", nil)
	asked := r.secret("asking-tls", r.issued("asking."+r.name+".svc"))
	r.secret("silent-tls", r.issued("silent."+r.name+".svc"))
	remove(t, r.policy)
	r.expectError("asking", "NoPolicy: ", "create one", "a certificate that is there is kept and not renewed")
	r.without("silent-tls")
	unchanged(t, asked)
	create(t, &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: r.policy.Name}, Spec: r.policy.Spec})
	r.secret("silent-tls", r.issued("silent."+r.name+".svc"))
	r.expectError("asking")
	r.serves(2)
	unchanged(t, asked)
}

// The operator does nothing in a namespace that is being deleted.
func TestNamespaceDeleted(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.name + "-going"}}
	going := r
	going.name = namespace.Name
	create(t, namespace)
	update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) {
		p.Spec.NamespaceSelector = metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpIn, Values: []string{r.name, namespace.Name}}}}
	})
	service := going.service("web", withSecretName("web-tls"), func(s *corev1.Service) { s.Finalizers = []string{"servingcert.test/hold"} })
	going.secret("web-tls", going.issued("web."+namespace.Name+".svc"))
	remove(t, namespace)
	// The Secret is deleted first, while another controller's finalizer keeps the Service.
	going.without("web-tls")
	for range 3 {
		update(t, service, func(s *corev1.Service) { s.Annotations[v1alpha1.AnnotationSecretName] += "x" })
	}
	r.passes()
	going.absent("web-tlsxxx")
	if _, told := reload(t, service).Annotations[v1alpha1.AnnotationError]; told {
		t.Errorf("the Service of a namespace that is going is told %q", service.Annotations[v1alpha1.AnnotationError])
	}
	update(t, service, func(s *corev1.Service) { s.Finalizers = nil })
	gone(t, namespace)
	r.serves(0)
}
