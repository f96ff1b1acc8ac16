package injector

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// A tenant that marks its own objects as if they had the bundle hides no other object that has it,
// and does not exhaust memory.
func TestFindBundlesAmongForgeries(t *testing.T) {
	t.Parallel()
	const bundle = "the roots"
	hash := pki.Hash([]byte(bundle))
	carrier := func(namespace, name, holds string) client.Object {
		return &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{
				v1alpha1.AnnotationInjectCABundle: "default", v1alpha1.AnnotationCABundleHash: hash,
			}},
			Data: map[string]string{v1alpha1.DefaultCABundleKey: holds},
		}
	}
	var forgeries []client.Object
	for i := range 2 * maxCarriers {
		forgeries = append(forgeries, carrier("a-tenant", fmt.Sprintf("small-%03d", i), "made up"))
	}
	for i := range maxCarriersPerNamespace {
		forgeries = append(forgeries, carrier("another", fmt.Sprintf("large-%03d", i), strings.Repeat("x", maxBundleSize+1)))
	}
	for name, tc := range map[string]struct {
		genuine client.Object
		// maxReads is the largest number of objects that may be read.
		maxReads int
	}{
		"in the operator's namespace": {carrier("system", "trust", bundle), 1},
		"at another tenant's":         {carrier("tenant", "trust", bundle), maxCarriersPerNamespace + 1},
		"nowhere":                     {carrier("tenant", "trust", "the roots of before"), maxCarriersPerNamespace + 1},
	} {
		t.Run(name, func(t *testing.T) {
			// The subtests do not run in parallel, because building a fake client writes to the
			// objects that it gets.
			c := fake.NewClientBuilder().WithObjects(forgeries...).WithObjects(tc.genuine).
				WithIndex(&corev1.ConfigMap{}, indexCA, func(object client.Object) []string {
					return []string{object.GetAnnotations()[v1alpha1.AnnotationInjectCABundle]}
				}).Build()
			injector := &Injector{reconcilers: []*Reconciler{{kind: ConfigMaps, targets: c, live: c}}}
			bundles, err := injector.FindBundles(t.Context(), "default", hash, "system")
			if err != nil {
				t.Fatal(err)
			}
			found := slices.ContainsFunc(bundles, func(value []byte) bool { return string(value) == bundle })
			if len(bundles) > tc.maxReads || found != (name != "nowhere") {
				t.Errorf("%d values are carried, the genuine one among them: %t", len(bundles), found)
			}
			for _, value := range bundles {
				if len(value) > maxBundleSize {
					t.Errorf("%d bytes are kept", len(value))
				}
			}
		})
	}
}
