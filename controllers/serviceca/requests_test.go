package serviceca

import (
	"testing"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
)

// TestLeftoverRequests checks that requests that an earlier version left behind are deleted with
// their ServiceCA, and that other requests are kept.
func TestLeftoverRequests(t *testing.T) {
	t.Parallel()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{cmapi.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	live := fake.NewClientBuilder().WithScheme(scheme).WithReturnManagedFields().Build()
	for _, tc := range []struct {
		name, namespace, ca string
		owner               client.FieldOwner
	}{
		{"left", "system", "gone", apply.ServiceCA},
		{"used", "system", "default", apply.ServiceCA},
		{"copied", "system", "gone", "kubectl"},
		{"elsewhere", "shop", "gone", apply.ServiceCA},
	} {
		request := &cmapi.CertificateRequest{ObjectMeta: metav1.ObjectMeta{
			Name: tc.name, Namespace: tc.namespace, Labels: map[string]string{v1alpha1.LabelServiceCA: tc.ca},
		}}
		if err := live.Create(t.Context(), request, tc.owner); err != nil {
			t.Fatal(err)
		}
	}
	if err := live.Create(t.Context(), &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default"}}); err != nil {
		t.Fatal(err)
	}
	r := &Reconciler{Live: live, Namespace: "system"}
	if err := r.deleteLeftovers(t.Context()); err != nil {
		t.Fatal(err)
	}
	var left cmapi.CertificateRequestList
	if err := live.List(t.Context(), &left); err != nil {
		t.Fatal(err)
	}
	for _, request := range left.Items {
		if request.Name == "left" {
			t.Error("the request of a deleted ServiceCA is still there")
		}
	}
	if len(left.Items) != 3 {
		t.Errorf("%d requests are left, want 3", len(left.Items))
	}
}
