package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/operator-framework/api/pkg/apis/scorecard/v1alpha3"
	"github.com/operator-framework/api/pkg/manifests"
	"github.com/operator-framework/api/pkg/operators/v1alpha1"
	"github.com/operator-framework/api/pkg/validation"
	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"
)

// validators are all of operator-framework's validators for bundles except two: one is deprecated,
// and one pulls images.
var validators = append(validation.DefaultBundleValidators,
	validation.ObjectValidator,
	validation.OperatorHubV2Validator,
	validation.StandardCapabilitiesValidator,
	validation.StandardCategoriesValidator,
	validation.AlphaDeprecatedAPIsValidator,
	validation.GoodPracticesValidator,
)

// accepted are warnings that do not apply here.
var accepted = []string{
	"CSV contains permissions to create CRD.", // the manager patches the CRDs that ask for a caBundle, and creates none
	"removed in v1.25. More info: https://kubernetes.io/docs/reference/using-api/deprecation-guide/#v1-25. Migrate the API(s) for events: ", // the manager writes v1
}

func load(t *testing.T) *manifests.Bundle {
	t.Helper()
	bundle, err := manifests.GetBundleFromDir("../../bundle")
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

// problems returns the errors and the warnings of the validators, except the accepted ones.
func problems(bundle *manifests.Bundle) []string {
	var found []string
	for _, result := range validators.Validate(bundle.ObjectsToValidate()...) {
		for _, problem := range append(result.Errors, result.Warnings...) {
			isKnown := func(warning string) bool { return strings.Contains(problem.Error(), warning) }
			if !slices.ContainsFunc(accepted, isKnown) {
				found = append(found, problem.Error())
			}
		}
	}
	return found
}

func TestValid(t *testing.T) {
	for _, problem := range problems(load(t)) {
		t.Error(problem)
	}
}

// The validators detect a corrupted bundle, so passing them means something.
func TestSpoilt(t *testing.T) {
	for name, spoil := range map[string]func(*manifests.Bundle){
		"a CRD is missing":              func(b *manifests.Bundle) { b.V1CRDs = b.V1CRDs[1:] },
		"a CRD is not described":        func(b *manifests.Bundle) { owned(b.CSV)[0].Description = "" },
		"a kind has no example":         func(b *manifests.Bundle) { b.CSV.Annotations["alm-examples"] = "[]" },
		"a maintainer has no address":   func(b *manifests.Bundle) { b.CSV.Spec.Maintainers = []v1alpha1.Maintainer{{Name: "nobody"}} },
		"there is no icon":              func(b *manifests.Bundle) { b.CSV.Spec.Icon = nil },
		"no Kubernetes is old enough":   func(b *manifests.Bundle) { b.CSV.Spec.MinKubeVersion = "" },
		"there is no install mode":      func(b *manifests.Bundle) { b.CSV.Spec.InstallModes = nil },
		"the category is unknown":       func(b *manifests.Bundle) { b.CSV.Annotations["categories"] = "Certificates" },
		"the capability is unknown":     func(b *manifests.Bundle) { b.CSV.Annotations["capabilities"] = "All" },
		"the channel is called so":      func(b *manifests.Bundle) { b.Channels = []string{"alpha"} },
		"the name is not the version's": func(b *manifests.Bundle) { b.CSV.Name = "servingcert" },
	} {
		t.Run(name, func(t *testing.T) {
			bundle := load(t)
			spoil(bundle)
			if found := problems(bundle); len(found) == 0 {
				t.Error("nobody says so")
			}
		})
	}
}

func owned(csv *v1alpha1.ClusterServiceVersion) []v1alpha1.CRDDescription {
	return csv.Spec.CustomResourceDefinitions.Owned
}

// The permissions are those of config/rbac, rule for rule, and no others.
func TestRights(t *testing.T) {
	strategy := load(t).CSV.Spec.InstallStrategy.StrategySpec
	for name, check := range map[string]struct {
		files []string
		given []v1alpha1.StrategyDeploymentPermissions
	}{
		"in the cluster":                  {[]string{"role.yaml"}, strategy.ClusterPermissions},
		"in the operator's own namespace": {[]string{"leader_election_role.yaml", "own_namespace_role.yaml"}, strategy.Permissions},
	} {
		var want []rbacv1.PolicyRule
		for _, file := range check.files {
			want = append(want, readYAML[rbacv1.ClusterRole](t, "config/rbac/"+file).Rules...)
		}
		if len(check.given) != 1 || len(want) == 0 || !reflect.DeepEqual(check.given[0].Rules, want) {
			t.Errorf("%s it may\n%+v\nand should\n%+v", name, check.given, want)
		}
	}
}

// The Deployment is that of config/manager, under the names that kustomize sets.
func TestDeployment(t *testing.T) {
	csv := load(t).CSV
	deployment := csv.Spec.InstallStrategy.StrategySpec.DeploymentSpecs[0]
	want := readYAML[appsv1.Deployment](t, "config/manager/manager.yaml")
	pod := &want.Spec.Template.Spec
	pod.ServiceAccountName = "servingcert-" + pod.ServiceAccountName
	pod.Containers[0].Image = csv.Spec.RelatedImages[0].Image
	if !equality.Semantic.DeepEqual(deployment.Spec, want.Spec) || deployment.Name != "servingcert-"+want.Name {
		t.Errorf("the Deployment is\n%+v\nand should be\n%+v", deployment, want)
	}
	for _, granted := range append(csv.Spec.InstallStrategy.StrategySpec.Permissions, csv.Spec.InstallStrategy.StrategySpec.ClusterPermissions...) {
		if granted.ServiceAccountName != pod.ServiceAccountName {
			t.Errorf("rights are given to %s", granted.ServiceAccountName)
		}
	}
}

// The CRDs are those of config/crd, byte for byte.
func TestCRDs(t *testing.T) {
	files, err := filepath.Glob("../../config/crd/bases/*.yaml")
	if err != nil || len(files) != len(kinds) {
		t.Fatalf("%d CRDs (%v)", len(files), err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		copied, err := os.ReadFile("../../bundle/manifests/" + filepath.Base(file))
		if err != nil || !bytes.Equal(copied, content) {
			t.Errorf("%s is not in the bundle as it is (%v)", file, err)
		}
	}
}

// Only one install mode makes sense, because a ServiceCA is cluster-scoped.
func TestInstallModes(t *testing.T) {
	for _, mode := range load(t).CSV.Spec.InstallModes {
		if mode.Supported != (mode.Type == v1alpha1.InstallModeTypeAllNamespaces) {
			t.Errorf("%s: %t", mode.Type, mode.Supported)
		}
	}
}

func TestScorecard(t *testing.T) {
	config := readYAML[v1alpha3.Configuration](t, "bundle/tests/scorecard/config.yaml")
	if config.Kind != v1alpha3.ConfigurationKind || len(config.Stages) == 0 {
		t.Errorf("it says %+v", config)
	}
}

// A field that this module's older Kubernetes types do not have is an error, because it would be
// missing from the bundle.
func TestUnknownField(t *testing.T) {
	installed := &installation{}
	if err := installed.add([]byte("apiVersion: apps/v1\nkind: Deployment\nspec: {brandNew: true}\n")); err == nil {
		t.Error("an unknown field is taken")
	}
}

func readYAML[T any](t *testing.T, path string) T {
	t.Helper()
	content, err := os.ReadFile("../../" + path)
	if err != nil {
		t.Fatal(err)
	}
	var object T
	if err := yaml.UnmarshalStrict(content, &object); err != nil {
		t.Fatal(err)
	}
	return object
}
