package gitops

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/servingcert/operator/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the states anew for which Argo CD's health scripts are tried")

// CheckStates compares the states that a controller produces with those in a folder, one file each,
// with only the fields that decide about health. The test fails if the folder differs; `go test
// -run=TestHealth -update` rewrites it.
func CheckStates[T any](tb testing.TB, folder, kind string, states map[string]*T) {
	tb.Helper()
	existing, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, file := range existing {
		if states[name(file)] != nil {
			continue
		}
		if !*update {
			tb.Errorf("%s is no state of a %s", file, kind)
		} else if err := os.Remove(file); err != nil {
			tb.Fatal(err)
		}
	}
	for name, state := range states {
		checkState(tb, filepath.Join(folder, name+".yaml"), healthFields(tb, kind, state))
	}
}

func name(file string) string {
	base := filepath.Base(file)
	return base[:len(base)-len(filepath.Ext(base))]
}

func checkState(tb testing.TB, file string, state []byte) {
	tb.Helper()
	if *update {
		if err := os.WriteFile(file, state, 0o644); err != nil {
			tb.Fatal(err)
		}
		return
	}
	kept, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	if !bytes.Equal(kept, state) {
		tb.Errorf("%s is not the state any more, which is\n%s", file, state)
	}
}

// healthFields returns the fields that decide about health.
func healthFields(tb testing.TB, kind string, state any) []byte {
	tb.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(state)
	if err != nil {
		tb.Fatal(err)
	}
	whole := unstructured.Unstructured{Object: content}
	status := map[string]any{}
	for _, field := range []string{"observedGeneration", "conditions"} {
		if value, has, _ := unstructured.NestedFieldNoCopy(content, "status", field); has {
			status[field] = value
		}
	}
	encoded, err := yaml.Marshal(map[string]any{
		"apiVersion": v1alpha1.SchemeGroupVersion.String(), "kind": kind,
		"metadata": map[string]any{"name": whole.GetName(), "generation": whole.GetGeneration()},
		"status":   status,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return encoded
}
