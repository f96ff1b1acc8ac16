package liveinstall_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/servingcert/operator/controllers/internal/testoperator"
	"github.com/servingcert/operator/controllers/restart"
)

// The component for another kind of workload names the kind to the manager and lets the manager
// read it, as docs/restarts.md describes.
func TestRestartKinds(t *testing.T) {
	config, err := testoperator.Path("config")
	if err != nil {
		t.Fatal(err)
	}
	overlay := t.TempDir()
	relative, err := filepath.Rel(overlay, config)
	if err != nil {
		t.Fatal(err)
	}
	kustomization := "resources: [" + relative + "/default]\ncomponents: [" + relative + "/components/restarts, " + relative + "/components/restart-clonesets]\n"
	if err := os.WriteFile(filepath.Join(overlay, "kustomization.yaml"), []byte(kustomization), 0o600); err != nil {
		t.Fatal(err)
	}
	objects, err := build(t.Context(), overlay)
	if err != nil {
		t.Fatal(err)
	}
	named, bound := false, false
	for _, object := range objects {
		switch object.GetKind() {
		case "Deployment":
			containers, _, _ := unstructured.NestedSlice(object.Object, "spec", "template", "spec", "containers")
			arguments, _, _ := unstructured.NestedStringSlice(containers[0].(map[string]any), "args") //nolint:forcetypeassert // a container is an object
			named = slices.Contains(arguments, "--restart-kinds=clonesets.v1alpha1.apps.kruise.io")
		case "ClusterRoleBinding":
			subjects, _, _ := unstructured.NestedSlice(object.Object, "subjects")
			subject, _ := subjects[0].(map[string]any)
			bound = bound || object.GetName() == "servingcert-restart-clonesets" && subject["namespace"] == operatorNamespace && subject["name"] == "servingcert-manager"
		}
	}
	if _, err := restart.ParseKinds("clonesets.v1alpha1.apps.kruise.io"); err != nil || !named || !bound {
		t.Errorf("the kind is named %t, and may be read %t (%v)", named, bound, err)
	}
}
