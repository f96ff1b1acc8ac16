package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// installation is what config/default installs, as far as a bundle can contain it. The
// NetworkPolicy is left out: it is meant for the operator's own namespace, and OLM puts the
// operators of all namespaces into a shared one.
type installation struct {
	namespace        corev1.Namespace
	deployment       appsv1.Deployment
	disruptionBudget policyv1.PodDisruptionBudget
	crds             []apiextensionsv1.CustomResourceDefinition
	roles            []rbacv1.Role
	clusterRoles     []rbacv1.ClusterRole
	bindings         []rbacv1.RoleBinding
	clusterBindings  []rbacv1.ClusterRoleBinding
}

func read(manifests io.Reader) (*installation, error) {
	found := &installation{}
	documents := utilyaml.NewYAMLReader(bufio.NewReader(manifests))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := found.add(document); err != nil {
			return nil, err
		}
	}
	if err := found.check(); err != nil {
		return nil, err
	}
	return found, nil
}

// add parses strictly: a field that this module does not know yet must not be dropped from the
// bundle.
func (i *installation) add(document []byte) error {
	var header metav1.TypeMeta
	if err := yaml.Unmarshal(document, &header); err != nil {
		return err
	}
	switch header.Kind {
	case "Namespace":
		return yaml.UnmarshalStrict(document, &i.namespace)
	case "Deployment":
		return yaml.UnmarshalStrict(document, &i.deployment)
	case "PodDisruptionBudget":
		return yaml.UnmarshalStrict(document, &i.disruptionBudget)
	case "CustomResourceDefinition":
		return appendTo(&i.crds, document)
	case "Role":
		return appendTo(&i.roles, document)
	case "ClusterRole":
		return appendTo(&i.clusterRoles, document)
	case "RoleBinding":
		return appendTo(&i.bindings, document)
	case "ClusterRoleBinding":
		return appendTo(&i.clusterBindings, document)
	}
	return nil
}

func appendTo[T any](all *[]T, document []byte) error {
	var one T
	err := yaml.UnmarshalStrict(document, &one)
	*all = append(*all, one)
	return err
}

func (i *installation) check() error {
	if i.deployment.Name == "" || i.disruptionBudget.Name == "" || i.namespace.Name == "" || len(i.crds) == 0 {
		return errors.New("something is missing in what was read: it should be `kustomize build config/default`")
	}
	return nil
}

// rules returns what the Deployment's ServiceAccount may do, in its own namespace and in the whole
// cluster.
func (i *installation) rules() (own, cluster []rbacv1.PolicyRule) {
	isOurs := func(subject rbacv1.Subject) bool {
		return subject.Kind == rbacv1.ServiceAccountKind && subject.Name == i.deployment.Spec.Template.Spec.ServiceAccountName
	}
	for _, binding := range i.bindings {
		for _, role := range i.roles {
			if role.Name == binding.RoleRef.Name && slices.ContainsFunc(binding.Subjects, isOurs) {
				own = append(own, role.Rules...)
			}
		}
	}
	for _, binding := range i.clusterBindings {
		for _, role := range i.clusterRoles {
			if role.Name == binding.RoleRef.Name && slices.ContainsFunc(binding.Subjects, isOurs) {
				cluster = append(cluster, role.Rules...)
			}
		}
	}
	return own, cluster
}

// readExamples returns the objects in the files of a sample.
func readExamples(folder string) ([]map[string]any, error) {
	files, err := filepath.Glob(filepath.Join(folder, "s*.yaml"))
	if err != nil {
		return nil, err
	}
	var examples []map[string]any
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if err := appendTo(&examples, content); err != nil {
			return nil, err
		}
	}
	return examples, nil
}
