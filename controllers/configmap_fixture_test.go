package controllers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// trustManager is the documented field manager of injected bundles.
const trustManager = "servingcert-trust"

// injects returns the annotations of a ConfigMap that asks for the bundle of the realm's CA, and
// further annotations given as alternating keys and values.
func (r realm) injects(more ...string) map[string]string {
	annotations := map[string]string{v1alpha1.AnnotationInjectCABundle: r.ca.Name}
	for i := 0; i < len(more); i += 2 {
		annotations[more[i]] = more[i+1]
	}
	return annotations
}

// with returns a function that returns these data and the current bundle under the key.
func (r realm) with(key string, others map[string]string) func() map[string]string {
	return func() map[string]string {
		all := map[string]string{key: r.published()}
		maps.Copy(all, others)
		return all
	}
}

// ownedBy returns the fields of an object that a field manager owns, as sorted paths such as
// "data.service-ca.crt".
func ownedBy(t *testing.T, object client.Object, manager string) []string {
	t.Helper()
	var paths []string
	for _, entry := range object.GetManagedFields() {
		if entry.Manager != manager {
			continue
		}
		var fields map[string]any
		if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields); err != nil {
			t.Fatal(err)
		}
		for _, path := range leaves("", fields) {
			paths = append(paths, string(entry.Operation)+" "+path)
		}
	}
	slices.Sort(paths)
	return paths
}

// leaves returns the paths of the fields that have no fields below them.
func leaves(prefix string, fields map[string]any) []string {
	var paths []string
	for name, below := range fields {
		name, isField := strings.CutPrefix(name, "f:")
		if !isField {
			continue
		}
		if deeper, _ := below.(map[string]any); len(deeper) > 0 {
			paths = append(paths, leaves(prefix+name+".", deeper)...)
		} else {
			paths = append(paths, prefix+name)
		}
	}
	return paths
}

// ownKeys returns the only fields that the operator may own on a ConfigMap with a bundle under the
// key.
func ownKeys(key string) []string {
	return []string{
		"Apply data." + key, "Apply metadata.annotations." + v1alpha1.AnnotationCABundleHash, "Apply metadata.annotations." + v1alpha1.AnnotationCABundleSince,
	}
}

// owns checks which fields of a ConfigMap the operator owns.
func owns(t *testing.T, configMap *corev1.ConfigMap, want ...string) {
	t.Helper()
	if got := ownedBy(t, configMap, trustManager); !slices.Equal(got, want) {
		t.Errorf("%s owns %q, want %q", trustManager, got, want)
	}
}

// errorOn waits until the error annotation of a ConfigMap contains every one of these texts;
// without texts, until there is no such annotation.
func errorOn(t *testing.T, configMap *corev1.ConfigMap, says ...string) {
	t.Helper()
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(configMap), configMap); err != nil {
			return err.Error()
		}
		annotation, ok := configMap.Annotations[v1alpha1.AnnotationError]
		if ok != (len(says) > 0) {
			return fmt.Sprintf("the ConfigMap is told %q", annotation)
		}
		for _, part := range says {
			if !strings.Contains(annotation, part) {
				return fmt.Sprintf("the ConfigMap is told %q, without %q", annotation, part)
			}
		}
		return ""
	})
}

// gitops applies a manifest as a GitOps controller does: server-side, with its own field manager
// and without force.
func (r realm) gitops(name string, annotations, data map[string]string) (*corev1.ConfigMap, error) {
	manifest := coreac.ConfigMap(name, r.name).WithAnnotations(annotations).WithData(data)
	if err := kube.Apply(r.Context(), manifest, client.FieldOwner("gitops")); err != nil {
		return nil, err
	}
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name}}
	return configMap, kube.Get(r.Context(), client.ObjectKeyFromObject(configMap), configMap)
}
