package v1alpha1_test

import (
	"os"
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// The generated CRDs that users install.
const (
	serviceCAFile         = "../../config/crd/bases/servingcert.dev_servicecas.yaml"
	servingCertPolicyFile = "../../config/crd/bases/servingcert.dev_servingcertpolicies.yaml"
)

// crd is a CustomResourceDefinition, compiled as the API server compiles it.
type crd struct {
	definition *apiextensionsv1.CustomResourceDefinition
	structural *structuralschema.Structural
	schema     validation.SchemaValidator
	rules      *cel.Validator
}

// loadCRD compiles the CustomResourceDefinition in a file.
func loadCRD(t *testing.T, file string) *crd {
	t.Helper()
	definition := readDefinition(t, file)
	props := &apiextensions.JSONSchemaProps{}
	must(t, apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(
		definition.Spec.Versions[0].Schema.OpenAPIV3Schema, props, nil))
	structural, err := structuralschema.NewStructural(props)
	must(t, err)
	schema, _, err := validation.NewSchemaValidator(props)
	must(t, err)
	return &crd{
		definition: definition,
		structural: structural,
		schema:     schema,
		rules:      cel.NewValidator(structural, true, celconfig.PerCallLimit),
	}
}

// readDefinition reads a CustomResourceDefinition and applies the API server's defaults.
func readDefinition(t *testing.T, file string) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	content, err := os.ReadFile(file)
	must(t, err)
	definition := &apiextensionsv1.CustomResourceDefinition{}
	must(t, yaml.UnmarshalStrict(content, definition))
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&definition.Spec)
	definition.Status.StoredVersions = []string{definition.Spec.Versions[0].Name}
	return definition
}

// admit prunes, defaults and validates an object. It returns the object as the API server would
// store it, and the validation errors.
func (c *crd) admit(t *testing.T, manifest string) (map[string]any, []string) {
	t.Helper()
	object := decode(t, manifest)
	pruning.Prune(object, c.structural, true)
	defaulting.PruneNonNullableNullsWithoutDefaults(object, c.structural)
	defaulting.Default(object, c.structural)
	return object, sentences(c.validate(t, object))
}

// decode reads a manifest as the API server does, with integers as int64.
func decode(t *testing.T, manifest string) map[string]any {
	t.Helper()
	content, err := yaml.YAMLToJSON([]byte(manifest))
	must(t, err)
	object := map[string]any{}
	must(t, json.Unmarshal(content, &object))
	return object
}

// validate follows the API server: it evaluates the rules only if the schema accepts the object.
func (c *crd) validate(t *testing.T, object map[string]any) field.ErrorList {
	t.Helper()
	errs := validation.ValidateCustomResource(nil, object, c.schema)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, c.structural, object)...)
	if blocksRules(errs) {
		return errs
	}
	broken, _ := c.rules.Validate(t.Context(), nil, c.structural, object, nil, celconfig.RuntimeCELCostBudget)
	return append(errs, broken...)
}

// blocksRules reports whether one of the errors prevents the API server from evaluating the rules.
func blocksRules(errs field.ErrorList) bool {
	for _, err := range errs {
		switch err.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong,
			field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return true
		default:
		}
	}
	return false
}

// sentences returns the field and the detail of each error, as a user reads them.
func sentences(errs field.ErrorList) []string {
	var out []string
	for _, err := range errs {
		out = append(out, strings.TrimPrefix(err.Field, "<nil>")+": "+err.Detail)
	}
	return out
}

// must fails the test if err is not nil.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestCRDsAreValid validates the CRDs as the API server does: the rules compile, and their
// estimated cost is within the limits.
func TestCRDsAreValid(t *testing.T) {
	for _, file := range []string{serviceCAFile, servingCertPolicyFile} {
		definition := readDefinition(t, file)
		t.Run(definition.Name, func(t *testing.T) {
			internal := &apiextensions.CustomResourceDefinition{}
			must(t, apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(definition, internal, nil))
			for _, err := range crdvalidation.ValidateCustomResourceDefinition(t.Context(), internal) {
				t.Error(err)
			}
			if loadCRD(t, file).rules == nil {
				t.Error("no rule was compiled")
			}
		})
	}
}
