package servingcert

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/policy"
)

// Whatever the names, candidates returns every Service that requests the Secret or whose Secret a
// policy would name so, each once, and no others.
func TestCandidates(t *testing.T) {
	t.Parallel()
	everyService := v1alpha1.ServingCertPolicy{Spec: v1alpha1.ServingCertPolicySpec{Issuance: v1alpha1.IssueAll, SecretNameSuffix: "-b"}}
	name := rapid.StringMatching("[ab]{1,2}(-{1,2}[ab]{1,2}){0,3}")
	rapid.Check(t, func(t *rapid.T) {
		wanted := rapid.OneOf(name, rapid.StringMatching("-?[ab-]{1,6}")).Draw(t, "Secret")
		policies := policy.NewSet(nil)
		if rapid.Bool().Draw(t, "a policy serves every Service") {
			policies = policy.NewSet([]v1alpha1.ServingCertPolicy{everyService})
		}
		var all []client.Object
		var want []string
		for _, service := range rapid.SliceOfNDistinct(name, 0, 8, rapid.ID).Draw(t, "Services") {
			object := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: service}}
			requested := rapid.OneOf(name, rapid.Just(wanted), rapid.Just(service+"-b"), rapid.Just("")).Draw(t, "asks for")
			if requested != "" {
				object.Annotations = map[string]string{v1alpha1.AnnotationSecretName: requested}
			}
			if requested == wanted || slices.ContainsFunc(policies.Suffixes(), func(suffix string) bool { return service+suffix == wanted }) {
				want = append(want, service)
			}
			all = append(all, object)
		}
		view := View{Reader: fake.NewClientBuilder().WithObjects(all...).WithIndex(&corev1.Service{}, indexSecretName, func(object client.Object) []string {
			service, _ := object.(*corev1.Service)
			return []string{requestedWithOtherPrefix(issuance.Resolver{}, service)}
		}).Build()}
		found, err := view.candidates(t.Context(), policies, "shop", wanted)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, service := range found {
			got = append(got, service.Name)
		}
		slices.SortFunc(got, strings.Compare)
		slices.SortFunc(want, strings.Compare)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// However long the name is that a tenant requests, few Services are looked up.
func TestServiceNamesInAreBounded(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("w", 63)
	for requested, want := range map[string]int{
		strings.Repeat("-", 4096): 63, strings.Repeat("w-", 2048): 32, longest + "-tls": 1, "w" + longest + "-tls": 0, "-": 0, "": 0, "-tls": 0,
	} {
		if got := len(serviceNamesIn(requested, nil)); got != want {
			t.Errorf("%d names are looked up for %.20q, of %d bytes, want %d", got, requested, len(requested), want)
		}
	}
}
