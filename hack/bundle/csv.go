package main

import (
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/blang/semver/v4"
	libversion "github.com/operator-framework/api/pkg/lib/version"
	"github.com/operator-framework/api/pkg/operators/v1alpha1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	packageName = "servingcert"
	// channel is the channel of an early version.
	channel    = "candidate"
	repository = "https://github.com/servingcert/operator"
	issues     = repository + "/issues"
	// minKubeVersion is the first version whose API server knows the functions that the validation
	// rules of the CRDs call (format.dns1123Subdomain).
	minKubeVersion = "1.32.0"
)

var (
	//go:embed description.md
	description string
	//go:embed icon.svg
	icon []byte
)

// clusterServiceVersion returns how OLM installs the operator, and how consoles show it.
func clusterServiceVersion(installed *installation, examples []map[string]any, version string) (*v1alpha1.ClusterServiceVersion, error) {
	parsed, err := semver.Parse(version)
	if err != nil {
		return nil, fmt.Errorf("version %q: %w", version, err)
	}
	owned, err := describeAll(installed.crds)
	if err != nil {
		return nil, err
	}
	shown, err := shownAnnotations(installed, examples)
	if err != nil {
		return nil, err
	}
	return &v1alpha1.ClusterServiceVersion{
		TypeMeta: metav1.TypeMeta{
			APIVersion: v1alpha1.ClusterServiceVersionAPIVersion, Kind: v1alpha1.ClusterServiceVersionKind,
		},
		ObjectMeta: metav1.ObjectMeta{Name: packageName + ".v" + version, Namespace: "placeholder", Annotations: shown},
		Spec: v1alpha1.ClusterServiceVersionSpec{
			DisplayName:    "Serving certificates",
			Description:    description,
			Version:        libversion.OperatorVersion{Version: parsed},
			MinKubeVersion: minKubeVersion,
			Maturity:       "alpha",
			Keywords:       []string{"certificates", "TLS", "service CA", "PKI", "trust bundle"},
			Provider:       v1alpha1.AppLink{Name: packageName, URL: repository},
			// No maintainers: each entry would need an email address, and the project is contacted
			// by its issues.
			Links: []v1alpha1.AppLink{
				{Name: "Documentation", URL: repository + "#documentation"}, {Name: "Source", URL: repository}, {Name: "Issues", URL: issues},
			},
			Icon:                      []v1alpha1.Icon{{Data: base64.StdEncoding.EncodeToString(icon), MediaType: "image/svg+xml"}},
			InstallModes:              installModes(),
			InstallStrategy:           strategy(installed),
			CustomResourceDefinitions: v1alpha1.CustomResourceDefinitions{Owned: owned},
			RelatedImages:             []v1alpha1.RelatedImage{{Name: "manager", Image: image(installed)}},
		},
	}, nil
}

// installModes supports only all namespaces, because a ServiceCA is cluster-scoped.
func installModes() []v1alpha1.InstallMode {
	return []v1alpha1.InstallMode{
		{Type: v1alpha1.InstallModeTypeOwnNamespace},
		{Type: v1alpha1.InstallModeTypeSingleNamespace},
		{Type: v1alpha1.InstallModeTypeMultiNamespace},
		{Type: v1alpha1.InstallModeTypeAllNamespaces, Supported: true},
	}
}

// strategy returns the unchanged Deployment, and the permissions that are bound to it.
func strategy(installed *installation) v1alpha1.NamedInstallStrategy {
	deployment := installed.deployment
	own, cluster := installed.rules()
	may := func(rules []rbacv1.PolicyRule) []v1alpha1.StrategyDeploymentPermissions {
		account := deployment.Spec.Template.Spec.ServiceAccountName
		return []v1alpha1.StrategyDeploymentPermissions{{ServiceAccountName: account, Rules: rules}}
	}
	return v1alpha1.NamedInstallStrategy{
		StrategyName: v1alpha1.InstallStrategyNameDeployment,
		StrategySpec: v1alpha1.StrategyDetailsDeployment{
			DeploymentSpecs:    []v1alpha1.StrategyDeploymentSpec{{Name: deployment.Name, Label: deployment.Labels, Spec: deployment.Spec}},
			Permissions:        may(own),
			ClusterPermissions: may(cluster),
		},
	}
}

func image(installed *installation) string {
	return installed.deployment.Spec.Template.Spec.Containers[0].Image
}

func shownAnnotations(installed *installation, examples []map[string]any) (map[string]string, error) {
	encoded, err := json.MarshalIndent(examples, "", "  ")
	if err != nil {
		return nil, err
	}
	namespace, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{"name": installed.namespace.Name, "labels": installed.namespace.Labels},
	})
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"alm-examples":   string(encoded),
		"capabilities":   "Basic Install",
		"categories":     "Security",
		"containerImage": image(installed),
		"description":    "TLS certificates for Services, and the trust bundle for their clients, as policy",
		"repository":     repository,
		"support":        issues,
		"operatorframework.io/suggested-namespace":          installed.namespace.Name,
		"operatorframework.io/suggested-namespace-template": string(namespace),
	}, nil
}
