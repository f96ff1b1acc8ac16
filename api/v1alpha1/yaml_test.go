package v1alpha1_test

import (
	"encoding/json"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// TestYAMLWords checks that YAML parsers read every field name and enum value in the spec of our
// kinds as the string that is written. kubectl, Helm, Flux and Argo CD parse YAML 1.1
// (https://yaml.org/type/bool.html), in which a bare on, off, yes, no, y or n is a boolean, also as
// a key.
func TestYAMLWords(t *testing.T) {
	if readsAsWritten("on") || readsAsWritten("null") || !readsAsWritten("triggers") {
		t.Fatal("the parser is not the one that this test is about")
	}
	for _, file := range []string{serviceCAFile, servingCertPolicyFile} {
		spec := readDefinition(t, file).Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
		checkWords(t, &spec, file)
	}
}

// checkWords walks a schema, and reports each field name and enum value that YAML reads as another
// value.
func checkWords(t *testing.T, schema *apiextensionsv1.JSONSchemaProps, path string) {
	t.Helper()
	for _, value := range schema.Enum {
		var word string
		if json.Unmarshal(value.Raw, &word) == nil && !readsAsWritten(word) {
			t.Errorf("%s: the value %q must be quoted in YAML: choose another word", path, word)
		}
	}
	for name, property := range schema.Properties {
		if !readsAsWritten(name) {
			t.Errorf("%s: the field %q must be quoted in YAML: choose another name", path, name)
		}
		checkWords(t, &property, path+"."+name)
	}
	if schema.Items != nil && schema.Items.Schema != nil {
		checkWords(t, schema.Items.Schema, path+"[]")
	}
	if schema.AdditionalProperties != nil && schema.AdditionalProperties.Schema != nil {
		checkWords(t, schema.AdditionalProperties.Schema, path+"{}")
	}
}

// readsAsWritten reports whether kubectl's parser reads a bare word as that string, both as a key
// and as a value.
func readsAsWritten(word string) bool {
	var object map[string]any
	err := yaml.Unmarshal([]byte(word+": "+word), &object)
	return err == nil && len(object) == 1 && object[word] == word
}
