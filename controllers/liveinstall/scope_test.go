package liveinstall_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/servingcert/operator/controllers/internal/testoperator"
)

// No cluster-scoped object that a kustomization builds has a namespace. Strict tools reject that,
// and kustomize writes its `namespace:` into kinds that it does not know to be cluster-scoped.
func TestClusterScopedObjectsHaveNoNamespace(t *testing.T) {
	names := map[string]bool{}
	for _, folder := range kustomizations(t) {
		objects, err := build(t.Context(), folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, object := range objects {
			kind := object.GroupVersionKind()
			mapping, err := env.kube.RESTMapper().RESTMapping(kind.GroupKind(), kind.Version)
			if meta.IsNoMatchError(err) && kind.Group == "monitoring.coreos.com" {
				continue // of Prometheus, which the cluster does not have
			}
			if err != nil {
				t.Fatalf("%s: %v", folder, err)
			}
			if mapping.Scope.Name() != meta.RESTScopeNameRoot {
				continue
			}
			names[kind.Kind] = true
			if namespace := object.GetNamespace(); namespace != "" {
				t.Errorf("%s: %s %s has the namespace %s", folder, kind.Kind, object.GetName(), namespace)
			}
		}
	}
	for _, kind := range []string{"ClusterRole", "CustomResourceDefinition", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "ServiceCA"} {
		if !names[kind] {
			t.Errorf("there is no %s in what is built", kind)
		}
	}
}

// kustomizations returns the folders under config that can be built by themselves, which components
// cannot.
func kustomizations(t *testing.T) []string {
	t.Helper()
	root, err := testoperator.Path()
	if err != nil {
		t.Fatal(err)
	}
	var folders []string
	err = fs.WalkDir(os.DirFS(root), "config", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Base(path) != "kustomization.yaml" {
			return err
		}
		content, err := os.ReadFile(filepath.Join(root, path))
		if !bytes.Contains(content, []byte("\nkind: Component\n")) {
			folders = append(folders, filepath.Dir(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return folders
}
