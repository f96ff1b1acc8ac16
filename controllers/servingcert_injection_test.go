package controllers_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// annotate writes annotations, given as alternating keys and values, on a Secret; an empty value
// removes one.
func annotate(t *testing.T, secret *corev1.Secret, changes ...string) {
	t.Helper()
	update(t, secret, func(s *corev1.Secret) {
		for i := 0; i < len(changes); i += 2 {
			if changes[i+1] == "" {
				delete(s.Annotations, changes[i])
				continue
			}
			metav1.SetMetaDataAnnotation(&s.ObjectMeta, changes[i], changes[i+1])
		}
	})
}

// holdsBundle accepts a certificate's Secret that has the bundle of the realm's CA under these
// keys, that error annotation, and no other key.
func (r realm) holdsBundle(problem string, keys ...string) func(*corev1.Secret) string {
	return func(secret *corev1.Secret) string {
		bundle, err := r.bundle(context.Background())
		if err != nil {
			return err.Error()
		}
		want := append([]string{"tls.crt", "tls.key"}, keys...)
		slices.Sort(want)
		says := secret.Annotations[v1alpha1.AnnotationError]
		if got := slices.Sorted(maps.Keys(secret.Data)); !slices.Equal(got, want) || !strings.HasPrefix(says, problem) || (problem == "") != (says == "") {
			return fmt.Sprintf("the keys are %v, want %v; it is told %q", got, want, says)
		}
		for _, key := range keys {
			if string(secret.Data[key]) != bundle && string(secret.Data[key]) != "theirs" {
				return key + " is not the bundle"
			}
		}
		return r.issued("web." + r.name + ".svc")(secret)
	}
}

// The Secret of a Service that itself asks for the bundle has it beside the certificate, like any
// other Secret; if it cannot have it, the reason is reported on it.
func TestBundleInjectedIntoServingSecret(t *testing.T) {
	t.Parallel()
	const asksBundle, named = v1alpha1.AnnotationInjectCABundle, v1alpha1.AnnotationCABundleKey
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	secret := r.secret("web-tls", r.holdsBundle(""))
	serial := leaf(t, secret).SerialNumber
	annotate(t, secret, asksBundle, r.ca.Name)
	r.secret("web-tls", r.holdsBundle("", "service-ca.crt"))
	r.serviceCA(counts(2, 2))
	annotate(t, secret, named, "roots.pem")
	r.secret("web-tls", r.holdsBundle("", "roots.pem"))

	// The same beside the policy's own ca.crt, and with a bundle that grows.
	update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) { p.Spec.Certificate.CABundle = v1alpha1.CABundleInclude })
	r.secret("web-tls", r.holdsBundle("", "ca.crt", "roots.pem"))
	other := generateCA(t, "Besides", nil)
	update(t, r.signingKey(), func(s *corev1.Secret) { s.Data["ca-bundle.crt"] = append(s.Data["ca-bundle.crt"], other.pem()...) })
	r.trusts(r.signer(), other.certificate)
	r.secret("web-tls", r.holdsBundle("", "ca.crt", "roots.pem"))
	update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) { p.Spec.Certificate.CABundle = v1alpha1.CABundleOmit })
	r.secret("web-tls", r.holdsBundle("", "roots.pem"))

	// An injection that is impossible is reported, and keys of other clients are not overwritten.
	update(t, secret, func(s *corev1.Secret) { s.Data["mine"] = []byte("theirs") })
	annotate(t, secret, named, "mine")
	secret = r.secret("web-tls", r.holdsBundle("KeyNotOurs: ", "mine"))
	event(t, secret, corev1.EventTypeWarning, "KeyNotOurs", "mine")
	annotate(t, secret, named, "tls.key")
	r.secret("web-tls", r.holdsBundle("InvalidCABundleKey: ", "mine"))
	annotate(t, secret, asksBundle, "another", named, "")
	r.secret("web-tls", r.holdsBundle("InjectionRefused: ", "mine"))
	annotate(t, secret, asksBundle, r.ca.Name)
	r.secret("web-tls", r.holdsBundle("", "mine", "service-ca.crt"))
	annotate(t, secret, asksBundle, "")
	secret = r.secret("web-tls", r.holdsBundle("", "mine"))
	hasNot(t, secret.Annotations, v1alpha1.AnnotationCABundleHash)
	if leaf(t, secret).SerialNumber.Cmp(serial) != 0 {
		t.Error("the certificate was made anew")
	}
}

// OpenShift's annotation promises exactly two keys: a bundle requested on such a Secret is refused,
// and the refusal is reported.
func TestBundleInjectedIntoOpenShiftSecret(t *testing.T) {
	r := newOpenShift(t)
	_, secret := r.served("web")
	annotate(t, secret, v1alpha1.AnnotationInjectCABundle, r.ca.Name)
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(secret), secret); err != nil {
			return err.Error()
		}
		return r.holdsBundle("InjectionRefused: ")(secret)
	})
	event(t, secret, corev1.EventTypeWarning, "InjectionRefused", "OpenShift's annotation")
}
