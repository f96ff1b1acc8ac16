package liveinstall_test

import (
	"context"
	"fmt"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Users who may view, edit or administer the whole cluster may do the same with ServiceCAs and
// policies. A role in one namespace gives no permission on either: both are cluster-scoped.
func TestUserRoles(t *testing.T) {
	t.Parallel()
	const namespaced = "view-in-one-namespace"
	bindRole(t, namespaced)
	for role, mayEdit := range map[string]bool{"view": false, "edit": true, "admin": true} {
		bindClusterRole(t, role)
		for _, resource := range []string{"servicecas", "servingcertpolicies"} {
			for verb, want := range map[string]bool{
				"get": true, "list": true, "watch": true,
				"create": mayEdit, "update": mayEdit, "patch": mayEdit, "delete": mayEdit,
			} {
				eventually(t, func(ctx context.Context) error { return expectAccess(ctx, role, verb, resource, "", want) })
			}
			eventually(t, func(ctx context.Context) error { return expectAccess(ctx, role, "patch", resource, "status", false) })
		}
	}
	if err := expectAccess(t.Context(), namespaced, "get", "servicecas", "", false); err != nil {
		t.Error(err)
	}
}

// bindClusterRole gives a user, who is named after one of Kubernetes' own roles, that role in the
// whole cluster.
func bindClusterRole(t *testing.T, role string) {
	t.Helper()
	create(t, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "test-" + role},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: role}},
	})
}

// bindRole gives a user the role `view` in the namespace default.
func bindRole(t *testing.T, user string) {
	t.Helper()
	create(t, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "test-view"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	})
}

func create(t *testing.T, object client.Object) {
	t.Helper()
	if err := env.kube.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
}

// expectAccess returns an error if the API server does not answer as expected whether a user may do
// something with one of the operator's kinds.
func expectAccess(ctx context.Context, user, verb, resource, subresource string, want bool) error {
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user, ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: verb, Group: v1alpha1.GroupName, Resource: resource, Subresource: subresource,
		},
	}}
	if err := env.kube.Create(ctx, review); err != nil {
		return err
	}
	if review.Status.Allowed != want {
		return fmt.Errorf("user %s may %s %s: %t, want %t", user, verb, resource, review.Status.Allowed, want)
	}
	return nil
}
