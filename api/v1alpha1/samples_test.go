package v1alpha1_test

import (
	"os"
	"path/filepath"
	"testing"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
)

// TestSamples checks that the CRDs admit every sample of our kinds and prune nothing from it.
func TestSamples(t *testing.T) {
	crds := map[string]*crd{
		"ServiceCA":         loadCRD(t, serviceCAFile),
		"ServingCertPolicy": loadCRD(t, servingCertPolicyFile),
	}
	files, err := filepath.Glob("../../config/samples/*/*.yaml")
	must(t, err)
	tried := map[string]bool{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		must(t, err)
		object := decode(t, string(content))
		kind, _ := object["kind"].(string)
		crd := crds[kind]
		if crd == nil {
			continue
		}
		tried[kind] = true
		t.Run(filepath.Join(filepath.Base(filepath.Dir(file)), filepath.Base(file)), func(t *testing.T) {
			report := structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
			for _, unknown := range pruning.PruneWithOptions(object, crd.structural, true, report) {
				t.Errorf("unknown field %s", unknown)
			}
			if _, refusals := crd.admit(t, string(content)); len(refusals) > 0 {
				t.Errorf("refused: %q", refusals)
			}
		})
	}
	if len(tried) < len(crds) {
		t.Errorf("there are samples of %v only", tried)
	}
}
