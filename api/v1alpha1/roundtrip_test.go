package v1alpha1_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/api/meta"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/randfill"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/api/v1alpha1/applyconfiguration"
	configurations "github.com/servingcert/operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
)

// rounds is the number of random objects of each kind.
const rounds = 200

// kinds returns functions that create an empty object of each kind.
func kinds() map[string]func() runtime.Object {
	return map[string]func() runtime.Object{
		"ServiceCA":         func() runtime.Object { return &v1alpha1.ServiceCA{} },
		"ServingCertPolicy": func() runtime.Object { return &v1alpha1.ServingCertPolicy{} },
	}
}

// eachRandomObject calls check with objects whose fields all have random values.
func eachRandomObject(t *testing.T, check func(t *testing.T, empty func() runtime.Object, filled runtime.Object)) {
	t.Helper()
	filler := randomFiller()
	for kind, empty := range kinds() {
		t.Run(kind, func(t *testing.T) {
			for range rounds {
				filled := empty()
				filler.Fill(filled)
				filled.GetObjectKind().SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind(kind))
				check(t, empty, filled)
			}
		})
	}
}

// randomFiller fills the types of apimachinery with values that an API server could store. Its seed
// is fixed, so that failures are reproducible.
func randomFiller() *randfill.Filler {
	codecs := serializer.NewCodecFactory(runtime.NewScheme())
	return randfill.NewWithSeed(1).NilChance(.5).NumElements(0, 3).Funcs(metafuzzer.Funcs(codecs)...)
}

// TestJSONRoundTrip encodes random objects as JSON, decodes them, and checks that nothing is lost.
func TestJSONRoundTrip(t *testing.T) {
	eachRandomObject(t, func(t *testing.T, empty func() runtime.Object, filled runtime.Object) {
		t.Helper()
		content, err := json.Marshal(filled)
		must(t, err)
		got := empty()
		must(t, json.Unmarshal(content, got))
		if diff := cmp.Diff(filled, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("after a round trip (-want +got):\n%s", diff)
		}
	})
}

// TestApplyConfigurations decodes random objects into their apply configurations and checks that
// every field is present.
func TestApplyConfigurations(t *testing.T) {
	eachRandomObject(t, func(t *testing.T, _ func() runtime.Object, filled runtime.Object) {
		t.Helper()
		dropServerFields(t, filled)
		want, err := json.Marshal(filled)
		must(t, err)
		configuration := applyconfiguration.ForKind(filled.GetObjectKind().GroupVersionKind())
		must(t, json.Unmarshal(want, configuration))
		got, err := json.Marshal(configuration)
		must(t, err)
		if diff := cmp.Diff(withoutEmpty(t, want), withoutEmpty(t, got)); diff != "" {
			t.Fatalf("through the apply configuration (-want +got):\n%s", diff)
		}
	})
}

// TestApplyConfigurationSchema extracts the fields that a manager owns, by the schema that is
// generated with the apply configurations.
func TestApplyConfigurationSchema(t *testing.T) {
	owned := &metav1.FieldsV1{}
	owned.SetRawString(`{"f:spec": {"f:certificate": {"f:duration": {}}}}`)
	ca := &v1alpha1.ServiceCA{
		ObjectMeta: metav1.ObjectMeta{Name: "default", ManagedFields: []metav1.ManagedFieldsEntry{{
			Manager:    "git",
			Operation:  metav1.ManagedFieldsOperationApply,
			APIVersion: v1alpha1.SchemeGroupVersion.String(),
			FieldsType: "FieldsV1",
			FieldsV1:   owned,
		}}},
		Spec: v1alpha1.ServiceCASpec{Certificate: v1alpha1.CACertificate{CommonName: "signer", Duration: "24h"}},
	}
	want := configurations.ServiceCA("default").
		WithSpec(configurations.ServiceCASpec().WithCertificate(configurations.CACertificate().WithDuration("24h")))
	got, err := configurations.ExtractServiceCA(ca, "git")
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("owned fields (-want +got):\n%s", diff)
	}
}

// dropServerFields clears the metadata that clients do not apply.
func dropServerFields(t *testing.T, object runtime.Object) {
	t.Helper()
	metadata, err := meta.Accessor(object)
	must(t, err)
	metadata.SetManagedFields(nil)
	metadata.SetSelfLink("")
}

// withoutEmpty decodes JSON and drops nulls, zeros and empty values, which an apply configuration
// omits.
func withoutEmpty(t *testing.T, content []byte) any {
	t.Helper()
	var value any
	must(t, json.Unmarshal(content, &value))
	return dropEmpty(value)
}

func dropEmpty(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for key, child := range value {
			if value[key] = dropEmpty(child); value[key] == nil {
				delete(value, key)
			}
		}
		if len(value) == 0 {
			return nil
		}
	case []any:
		for i := range value {
			value[i] = dropEmpty(value[i])
		}
		if len(value) == 0 {
			return nil
		}
	case float64:
		if value == 0 {
			return nil
		}
	}
	return value
}
