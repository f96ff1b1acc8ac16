package servingcert

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/policy"
)

// A Secret that comes from the API server as its Service's last look has made it causes no other look at that Service; whatever was changed on
// the way does, and so does whatever comes after a new look, or a second time. Rivals are looked at in any case.
func TestExpected(t *testing.T) {
	t.Parallel()
	key := client.ObjectKey{Namespace: "shop", Name: "web"}
	made := func() *corev1.Secret {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop", Name: "web-tls", Labels: map[string]string{v1alpha1.LabelService: "web"},
				Annotations:     map[string]string{v1alpha1.AnnotationCABundleHash: "hash"},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: "web", UID: "uid"}},
			},
			Type: corev1.SecretTypeTLS,
			Data: map[string][]byte{corev1.TLSCertKey: []byte("certificate"), "ca.crt": []byte("bundle")},
		}
	}
	for name, tc := range map[string]struct {
		before func(*Expected)
		edit   func(*corev1.Secret)
		again  bool
	}{
		"as it was made":     {},
		"another label":      {edit: func(s *corev1.Secret) { s.Labels["team"] = "a" }, again: true},
		"another annotation": {edit: func(s *corev1.Secret) { s.Annotations[v1alpha1.AnnotationCABundleHash] = "other" }, again: true},
		"no owner":           {edit: func(s *corev1.Secret) { s.OwnerReferences = nil }, again: true},
		"another name":       {edit: func(s *corev1.Secret) { s.Name = "other" }, again: true},
		"another bundle":     {edit: func(s *corev1.Secret) { s.Data["ca.crt"] = []byte("other") }, again: true},
		"another key beside": {edit: func(s *corev1.Secret) { s.Data["more"] = nil }, again: true},
		"a new look":         {before: func(e *Expected) { e.forget(key) }, again: true},
		"a second time":      {before: func(e *Expected) { e.met(digested(made())) }, again: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Reconciler{Expected: &Expected{}, View: View{Sets: &policy.Sets{}, Reader: reading(
				t, asking("web", "web-tls"), asking("rival", "web-tls"), asking("rival2", "other"),
			)}}
			r.Expected.expect(key, made())
			came := made()
			if tc.before != nil {
				tc.before(r.Expected)
			}
			if tc.edit != nil {
				tc.edit(came)
			}
			got := map[string]bool{}
			for _, request := range r.servicesOfSecret(t.Context(), digested(came)) {
				got[request.Name] = true
			}
			want := map[string]bool{"rival": true}
			if name == "another name" {
				want = map[string]bool{"rival2": true}
			}
			if tc.again {
				want["web"] = true
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func digested(secret *corev1.Secret) *corev1.Secret {
	issuance.Digest(secret)
	return secret
}

func asking(name, secretName string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: name, Annotations: map[string]string{v1alpha1.AnnotationSecretName: secretName},
	}}
}

func reading(t *testing.T, services ...client.Object) client.Reader {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(services...).WithIndex(&corev1.Service{}, indexAsked, func(object client.Object) []string {
		service, _ := object.(*corev1.Service)
		return []string{asksOtherwise(issuance.Rules{}, service)}
	}).Build()
}
