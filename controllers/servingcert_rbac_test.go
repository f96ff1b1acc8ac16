package controllers_test

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// may asks the API server whether the operator's ServiceAccount may do something, written as "verb
// group/resource[/subresource] [namespace]".
func may(t *testing.T, what string) bool {
	t.Helper()
	words := strings.Fields(what)
	path := strings.Split(words[1], "/")
	attributes := map[string]any{"verb": words[0], "group": strings.TrimSuffix(path[0], "core"), "resource": path[1]}
	if len(path) > 2 {
		attributes["subresource"] = path[2]
	}
	if len(words) > 2 {
		attributes["namespace"] = words[2]
	}
	review := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{
		"user": "system:serviceaccount:" + operatorNamespace + ":manager", "resourceAttributes": attributes,
		"groups": []any{"system:serviceaccounts", "system:serviceaccounts:" + operatorNamespace, "system:authenticated"},
	}}}
	review.SetGroupVersionKind(schema.GroupVersionKind{Group: "authorization.k8s.io", Version: "v1", Kind: "SubjectAccessReview"})
	if err := kube.Create(t.Context(), review); err != nil {
		t.Fatal(err)
	}
	allowed, _, err := unstructured.NestedBool(review.Object, "status", "allowed")
	if err != nil {
		t.Fatal(err)
	}
	return allowed
}

// The operator has the permissions that it needs, which every other test shows, and no others.
func TestOperatorHasNoRightsThatItDoesNotNeed(t *testing.T) {
	t.Parallel()
	const elsewhere = "kube-system"
	for _, group := range []struct {
		allowed bool
		what    []string
	}{
		{true, []string{
			"patch core/secrets " + elsewhere, "delete core/secrets " + elsewhere, "patch core/services " + elsewhere,
			"patch core/configmaps " + elsewhere, "create core/configmaps " + operatorNamespace,
			"delete core/configmaps " + operatorNamespace, "list core/pods " + elsewhere,
			"patch servingcert.dev/servicecas/status", "patch servingcert.dev/servingcertpolicies/status",
			"create events.k8s.io/events " + elsewhere,
			"update apiextensions.k8s.io/customresourcedefinitions", "update apiregistration.k8s.io/apiservices",
			"update admissionregistration.k8s.io/validatingwebhookconfigurations", "patch certificates.k8s.io/clustertrustbundles",
			"patch certificates.k8s.io/certificatesigningrequests/status", "patch certificates.k8s.io/podcertificaterequests/status " + elsewhere,
		}},
		{false, []string{
			"patch servingcert.dev/servicecas", "update servingcert.dev/servicecas", "create servingcert.dev/servicecas",
			"delete servingcert.dev/servicecas", "update servingcert.dev/servicecas/status", "patch servingcert.dev/servingcertpolicies",
			"delete servingcert.dev/servingcertpolicies", "deletecollection core/secrets " + elsewhere, "update core/secrets " + elsewhere,
			"update core/services " + elsewhere, "patch core/services/status " + elsewhere, "update core/services/status " + elsewhere,
			"create core/services " + elsewhere, "delete core/services " + elsewhere,
			"create core/pods " + elsewhere, "create core/pods " + operatorNamespace, "delete core/pods " + elsewhere,
			"create core/pods/exec " + operatorNamespace, "get core/pods/log " + elsewhere, "watch core/pods " + elsewhere,
			"create core/configmaps " + elsewhere, "delete core/configmaps " + elsewhere, "update core/configmaps " + elsewhere,
			"create core/serviceaccounts/token " + operatorNamespace, "patch core/namespaces", "delete core/namespaces",
			"get core/nodes", "patch apps/deployments " + operatorNamespace, "get apps/deployments " + elsewhere,
			"create apiextensions.k8s.io/customresourcedefinitions", "delete apiextensions.k8s.io/customresourcedefinitions",
			"create rbac.authorization.k8s.io/clusterrolebindings", "escalate rbac.authorization.k8s.io/clusterroles",
			"bind rbac.authorization.k8s.io/clusterroles", "impersonate core/users", "impersonate core/serviceaccounts " + elsewhere,
			"create coordination.k8s.io/leases " + elsewhere, "delete coordination.k8s.io/leases " + operatorNamespace,
			"update certificates.k8s.io/certificatesigningrequests/approval", "approve certificates.k8s.io/signers", "sign certificates.k8s.io/signers",
			"delete certificates.k8s.io/clustertrustbundles", "get cert-manager.io/certificaterequests " + elsewhere,
			"delete events.k8s.io/events " + elsewhere, "create admissionregistration.k8s.io/validatingwebhookconfigurations",
		}},
	} {
		for _, what := range group.what {
			if may(t, what) != group.allowed {
				t.Errorf("may %s: %t, want %t", what, !group.allowed, group.allowed)
			}
		}
	}
}

// No rule has a wildcard.
func TestOperatorHasNoWildcardRights(t *testing.T) {
	t.Parallel()
	role := &unstructured.Unstructured{}
	role.SetGroupVersionKind(schema.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"})
	role.SetName("manager")
	rules, found, err := unstructured.NestedSlice(reload(t, role).Object, "rules")
	if err != nil || !found {
		t.Fatal("the ClusterRole has no rules")
	}
	for _, rule := range rules {
		for field, value := range rule.(map[string]any) { //nolint:forcetypeassert // a rule is an object
			if list, ok := value.([]any); ok && slices.Contains(list, any("*")) {
				t.Errorf("%s names everything: %v", field, rule)
			}
		}
	}
}

// The API server also enforces this: forbidden requests fail.
func TestOperatorIsRefused(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	service := r.service("web", withSecretName("web-tls"))
	config, err := running.ServiceAccount(t.Context(), operatorNamespace, "manager")
	if err != nil {
		t.Fatal(err)
	}
	operator := clientFor(t, config)
	configMap := create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "theirs"}})
	empty := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"rotation":{"mode":"Paused"}}}`))
	for what, err := range map[string]error{
		"patch a ServiceCA":                    operator.Patch(t.Context(), r.ca.DeepCopy(), empty),
		"update the status of a Service":       operator.Status().Update(t.Context(), service.DeepCopy()),
		"delete a ConfigMap of somebody else":  operator.Delete(t.Context(), configMap),
		"create a pod in its own namespace":    operator.Create(t.Context(), &corev1.Pod{ObjectMeta: inOperatorNamespace("pod"), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "a"}}}}),
		"delete a policy":                      operator.Delete(t.Context(), r.policy.DeepCopy()),
		"replace the status of a ServiceCA":    operator.Status().Update(t.Context(), &v1alpha1.ServiceCA{ObjectMeta: r.ca.ObjectMeta}),
		"delete all Secrets of a namespace":    operator.DeleteAllOf(t.Context(), &corev1.Secret{}, client.InNamespace(r.name)),
		"create a ServingCertPolicy of itself": operator.Create(t.Context(), &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: r.name + "-own"}}),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want that it is forbidden", what, err)
		}
	}
}

func clientFor(t *testing.T, config *rest.Config) client.Client {
	t.Helper()
	config.QPS = -1
	made, err := client.New(config, client.Options{Scheme: kube.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return made
}
