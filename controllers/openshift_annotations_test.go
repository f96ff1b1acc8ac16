package controllers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// The cases of OpenShift's annotations on Services and on their Secrets: which family of
// annotations asks, and in which one the operator answers.
func TestOpenShiftServingCertSecretName(t *testing.T) {
	for _, tc := range []struct {
		name, beta, alpha string
		wantSecret        string
		wantFamily, other string
	}{
		{name: "beta", beta: "by-beta", wantSecret: "by-beta", wantFamily: beta, other: alpha},
		{name: "alpha", alpha: "by-alpha", wantSecret: "by-alpha", wantFamily: alpha, other: beta},
		{name: "beta wins", beta: "by-beta", alpha: "by-alpha", wantSecret: "by-beta", wantFamily: beta, other: alpha},
		{name: "empty beta does not win", beta: "", alpha: "by-alpha", wantSecret: "by-alpha", wantFamily: alpha, other: beta},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newOpenShift(t)
			service := r.service("web", map[string]string{
				beta + "serving-cert-secret-name": tc.beta, alpha + "serving-cert-secret-name": tc.alpha,
			})
			secret := r.secret(tc.wantSecret, r.issued("web."+r.name+".svc"))
			expiry := leaf(t, secret).NotAfter.UTC().Format(time.RFC3339)
			has(t, secret.Annotations, map[string]string{
				tc.wantFamily + "originating-service-uid":  string(service.UID),
				tc.wantFamily + "originating-service-name": "web",
				beta + "expiry":                 expiry,
				alpha + "expiry":                expiry,
				"openshift.io/owning-component": "service-ca",
			})
			if description := secret.Annotations["openshift.io/description"]; !strings.Contains(description, "web."+r.name+".svc") {
				t.Errorf("openshift.io/description is %q", description)
			}
			hasNot(t, secret.Annotations, tc.other+"originating-service-uid", tc.other+"originating-service-name")
			r.eventuallySigned(service)
			r.only(tc.wantSecret)
		})
	}
}

// eventuallySigned waits until a Service names its signer in both families, and has no error.
func (r realm) eventuallySigned(service *corev1.Service) {
	r.Helper()
	signer := r.signer().Subject.CommonName
	eventually(r.T, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(service), service); err != nil {
			return err.Error()
		}
		for _, family := range []string{beta, alpha} {
			if got := service.Annotations[family+"serving-cert-signed-by"]; got != signer {
				return fmt.Sprintf("%sserving-cert-signed-by is %q, want %q", family, got, signer)
			}
		}
		return ""
	})
	hasNot(r.T, service.Annotations, errorAnnotations()...)
}

func errorAnnotations() []string {
	return []string{
		v1alpha1.AnnotationError,
		beta + "serving-cert-generation-error", alpha + "serving-cert-generation-error",
		beta + "serving-cert-generation-error-num", alpha + "serving-cert-generation-error-num",
	}
}

// only checks that the namespace has this Secret of the operator's and no other.
func (r realm) only(name string) {
	r.Helper()
	var secrets corev1.SecretList
	if err := kube.List(r.Context(), &secrets, client.InNamespace(r.name), client.HasLabels{v1alpha1.LabelService}); err != nil {
		r.Fatal(err)
	}
	if len(secrets.Items) != 1 || secrets.Items[0].Name != name {
		r.Errorf("there are %d Secrets, want only %s", len(secrets.Items), name)
	}
}

func has(t *testing.T, got, want map[string]string) {
	t.Helper()
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s is %q, want %q", key, got[key], value)
		}
	}
}

func hasNot(t *testing.T, got map[string]string, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if value, ok := got[key]; ok {
			t.Errorf("%s is there: %q", key, value)
		}
	}
}

// The operator writes no annotation of OpenShift's families on a Service that does not ask by them.
func TestOpenShiftFamiliesNotWrittenWithoutAnnotation(t *testing.T) {
	r := newOpenShift(t)
	service := r.service("web", withSecretName("web-tls"))
	secret := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	for key := range secret.Annotations {
		if strings.Contains(key, "openshift.io") {
			t.Errorf("the Secret has annotation %s", key)
		}
	}
	r.barrier()
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(service), service); err != nil {
		t.Fatal(err)
	}
	for key := range service.Annotations {
		if strings.Contains(key, "openshift.io") {
			t.Errorf("the Service has annotation %s", key)
		}
	}
}

// barrier returns when the operator has processed every earlier change: it has served a Service
// that was created later.
func (r realm) barrier() {
	r.Helper()
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace: r.name, GenerateName: "barrier-", Annotations: map[string]string{v1alpha1.AnnotationSecretName: "barrier"},
	}}
	service.Spec.Ports = []corev1.ServicePort{{Port: 443}}
	if err := kube.Create(r.Context(), service); err != nil {
		r.Fatal(err)
	}
	key := client.ObjectKey{Namespace: r.name, Name: "barrier"}
	r.secret(key.Name, r.issued(service.Name+"."+r.name+".svc"))
	if err := kube.Delete(r.Context(), service); err != nil {
		r.Fatal(err)
	}
	eventually(r.T, func(ctx context.Context) string {
		if err := kube.Get(ctx, key, &corev1.Secret{}); !apierrors.IsNotFound(err) {
			return "the Secret of a Service that is gone is still there"
		}
		return ""
	})
}

// The error cases: an error is reported in both families and counted, and the conflicting Secret
// stays untouched; success clears all of it.
func TestOpenShiftGenerationErrorAndItsEnd(t *testing.T) {
	r := newOpenShift(t)
	foreign := create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "web-tls"}, StringData: map[string]string{"password": "secret"},
	})
	service := r.service("web", map[string]string{alpha + "serving-cert-secret-name": "web-tls"})
	r.eventuallyFailed(service, "web-tls", "1")
	same(t, foreign)

	update(t, service, func(s *corev1.Service) { s.Annotations[beta+"serving-cert-secret-name"] = "In_valid" })
	r.eventuallyFailed(service, "In_valid", "2")

	update(t, service, func(s *corev1.Service) { s.Annotations[beta+"serving-cert-secret-name"] = "better-tls" })
	r.secret("better-tls", r.issued("web."+r.name+".svc"))
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(service), service); err != nil {
			return err.Error()
		}
		for _, key := range errorAnnotations() {
			if value, ok := service.Annotations[key]; ok {
				return key + ": " + value
			}
		}
		return ""
	})
	r.eventuallySigned(service)
	same(t, foreign)
}

// eventuallyFailed waits until a Service reports in both families an error with these words and
// this number of failures.
func (r realm) eventuallyFailed(service *corev1.Service, words, number string) {
	r.Helper()
	eventually(r.T, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(service), service); err != nil {
			return err.Error()
		}
		told := service.Annotations[v1alpha1.AnnotationError]
		for _, family := range []string{beta, alpha} {
			message, count := service.Annotations[family+"serving-cert-generation-error"], service.Annotations[family+"serving-cert-generation-error-num"]
			if !strings.Contains(message, words) || !strings.HasSuffix(told, message) || count != number {
				return fmt.Sprintf("%s: error %q, number %q; want one about %s, number %s, as in %q", family, message, count, words, number, told)
			}
		}
		return ""
	})
}

// same checks that an object was not written since it was read.
func same(t *testing.T, object client.Object) {
	t.Helper()
	version := object.GetResourceVersion()
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
		t.Error(err)
	} else if now := object.GetResourceVersion(); now != version {
		t.Errorf("%T %s was written: resourceVersion %s, was %s", object, object.GetName(), now, version)
	}
}
