package liveintegrations_test

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// An APIService returns to insecureSkipTLSVerify in two steps, as docs/integrations/webhooks.md
// describes: the API server rejects that field beside a caBundle, which is removed with the
// annotation.
func TestAPIServiceRollback(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	bundle, object := r.bundle(), r.apiService("rollback.example.org", r.serve("server"))
	withoutAnnotation := object.DeepCopy()
	withoutAnnotation.SetAnnotations(nil)
	insecure := withoutAnnotation.DeepCopy()
	if err := unstructured.SetNestedField(insecure.Object, true, "spec", "insecureSkipTLSVerify"); err != nil {
		t.Fatal(err)
	}
	apply := func(manifest *unstructured.Unstructured) error {
		return env.kube.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(manifest.DeepCopy()), git, client.ForceOwnership)
	}
	must := func(manifest *unstructured.Unstructured) {
		t.Helper()
		if err := apply(manifest); err != nil {
			t.Fatal(err)
		}
	}
	hasCABundle := func(want string) {
		t.Helper()
		get(t, object.DeepCopy(), func(live *unstructured.Unstructured) string {
			encoded, _, _ := unstructured.NestedString(live.Object, "spec", "caBundle")
			found, _ := base64.StdEncoding.DecodeString(encoded)
			return same("caBundle", string(found), want)
		})
	}
	t.Cleanup(func() { _ = client.IgnoreNotFound(env.kube.Delete(context.Background(), object)) })
	must(object)
	hasCABundle(bundle)
	if err := apply(insecure); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "insecureSkipTLSVerify") {
		t.Fatalf("insecureSkipTLSVerify beside a caBundle: %v", err)
	}
	must(withoutAnnotation)
	hasCABundle("")
	must(insecure)
}
