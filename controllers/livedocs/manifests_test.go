package livedocs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/hack/cluster"
)

// foreign are the API groups of other projects that users run beside the operator; of their
// manifests only the YAML syntax is checked.
var foreign = []string{"argoproj.io", "fluxcd.io", "monitoring.coreos.com", "operators.coreos.com", "kustomize.config.k8s.io"}

// part is a fragment of an object, as a page shows it: it is recognized by its keys, and checked
// inside the smallest object that makes it complete.
type part struct {
	keys []string
	in   []string
	of   string
}

var parts = []part{
	{keys: []string{"containers", "volumes"}, in: []string{"spec"}, of: `{apiVersion: v1, kind: Pod, metadata: {name: part}, spec: {containers: [{name: web, image: web}]}}`},
	{keys: []string{"metadata"}, of: `{apiVersion: v1, kind: Service, metadata: {name: part}, spec: {ports: [{port: 443}]}}`},
	{keys: []string{"restart"}, in: []string{"spec"}, of: `{apiVersion: servingcert.dev/v1alpha1, kind: ServingCertPolicy, metadata: {name: part}, spec: {}}`},
	{keys: []string{"rotation", "source"}, in: []string{"spec"}, of: `{apiVersion: servingcert.dev/v1alpha1, kind: ServiceCA, metadata: {name: part}, spec: {}}`},
}

// checkManifests checks every manifest by a dry run against the API server.
func checkManifests(t *testing.T, running *cluster.Cluster, blocks []block) {
	t.Helper()
	kube, err := client.New(running.Config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		if b.language != "yaml" {
			continue
		}
		t.Run(b.String(), func(t *testing.T) {
			objects, err := objectsOf(b)
			if err != nil {
				t.Fatal(err)
			}
			for _, object := range objects {
				if err := dryRun(t.Context(), kube, object); err != nil {
					t.Errorf("%s %s: %v", object.GetKind(), object.GetName(), err)
				}
			}
		})
	}
}

// objectsOf returns the objects of a block that the API server can check.
func objectsOf(b block) ([]*unstructured.Unstructured, error) {
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(b.text), len(b.text))
	var objects []*unstructured.Unstructured
	for {
		content := map[string]any{}
		switch err := decoder.Decode(&content); {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, err
		case b.marked(unchecked):
			continue
		}
		object, err := whole(content)
		if err != nil {
			return nil, err
		}
		group := object.GroupVersionKind().Group
		if !slices.ContainsFunc(foreign, func(known string) bool { return group == known || strings.HasSuffix(group, "."+known) }) {
			objects = append(objects, object)
		}
	}
}

// whole returns the object itself, or for a fragment the complete object around it.
func whole(content map[string]any) (*unstructured.Unstructured, error) {
	if content["apiVersion"] != nil {
		return &unstructured.Unstructured{Object: content}, nil
	}
	for _, p := range parts {
		object := map[string]any{}
		if !p.knows(content) {
			continue
		}
		if err := yaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(p.of)), len(p.of)).Decode(&object); err != nil {
			return nil, err
		}
		for key, value := range content {
			if err := unstructured.SetNestedField(object, value, append(slices.Clone(p.in), key)...); err != nil {
				return nil, err
			}
		}
		made := &unstructured.Unstructured{Object: object}
		made.SetName("part")
		return made, nil
	}
	return nil, fmt.Errorf("a part of what? No object, and nothing in the table of parts has the keys %v (what cannot be checked is marked %s)",
		slices.Sorted(maps.Keys(content)), unchecked)
}

func (p part) knows(content map[string]any) bool {
	for key := range content {
		if !slices.Contains(p.keys, key) {
			return false
		}
	}
	return true
}

// dryRun applies an object without persisting it, and rejects fields that the API server does not
// know.
func dryRun(ctx context.Context, kube client.Client, object *unstructured.Unstructured) error {
	namespaced, err := kube.IsObjectNamespaced(object)
	if err != nil {
		return err
	}
	if namespaced {
		if object.GetNamespace() == "" {
			object.SetNamespace("demo")
		}
		if err := makeNamespace(ctx, kube, object.GetNamespace()); err != nil {
			return err
		}
	}
	return kube.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner("docs"), client.DryRunAll,
		client.ForceOwnership)
}

// makeNamespace creates a namespace, and waits until it accepts pods.
func makeNamespace(ctx context.Context, kube client.Client, name string) error {
	err := kube.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	account := &corev1.ServiceAccount{}
	return wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, timeout, true, func(ctx context.Context) (bool, error) {
		err := kube.Get(ctx, client.ObjectKey{Namespace: name, Name: "default"}, account)
		return err == nil, client.IgnoreNotFound(err)
	})
}

func TestManifestsThatAreRefused(t *testing.T) {
	for _, text := range []string{"a: [", "volume: []", "volumes: []\nrestart: {}"} {
		if objects, err := objectsOf(block{language: "yaml", text: text}); err == nil {
			t.Errorf("%q was taken for %v", text, objects)
		}
	}
}
