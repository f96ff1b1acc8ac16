package gitops_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/servingcert/operator/hack/gitops"
)

const customizations = "../../config/argocd/resource_customizations"

// healthTests are the cases of a health script, in the format that Argo CD keeps beside each
// script.
type healthTests struct {
	Tests []struct {
		HealthStatus gitops.Health `json:"healthStatus"`
		InputPath    string        `json:"inputPath"`
	} `json:"tests"`
}

// agrees maps Argo CD's health to the status that Flux computes for the same state; both then wait,
// or fail, for the same reasons.
var agrees = map[string]status.Status{"Healthy": status.CurrentStatus, "Progressing": status.InProgressStatus, "Degraded": status.FailedStatus}

// Argo CD's health scripts and kstatus, by which Flux waits, agree in each state that the
// controllers produce. TestHealth of each controller checks that the files are exactly these
// states.
func TestHealth(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob(filepath.Join(customizations, "*", "*", "health.lua"))
	if err != nil || len(scripts) != 2 {
		t.Fatalf("the scripts are %v (%v)", scripts, err)
	}
	for _, script := range scripts {
		folder := filepath.Dir(script)
		content := read(t, script)
		var cases healthTests
		if err := yaml.UnmarshalStrict(read(t, filepath.Join(folder, "health_test.yaml")), &cases); err != nil {
			t.Fatal(err)
		}
		untried := map[string]bool{}
		files, _ := filepath.Glob(filepath.Join(folder, "testdata", "*.yaml"))
		for _, file := range files {
			untried[filepath.Join("testdata", filepath.Base(file))] = true
		}
		for _, tc := range cases.Tests {
			delete(untried, tc.InputPath)
			t.Run(filepath.Base(folder)+"/"+filepath.Base(tc.InputPath), func(t *testing.T) {
				t.Parallel()
				evaluate(t, string(content), state(t, filepath.Join(folder, tc.InputPath)), tc.HealthStatus)
			})
		}
		for file := range untried {
			t.Errorf("%s has no case for %s", folder, file)
		}
	}
}

func evaluate(t *testing.T, script string, object *unstructured.Unstructured, want gitops.Health) {
	t.Helper()
	health, err := gitops.ArgoCD(script, object.Object)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, health); diff != "" {
		t.Errorf("Argo CD sees something else (- want, + is):\n%s", diff)
	}
	computed, err := status.Compute(object)
	if err != nil {
		t.Fatal(err)
	}
	if computed.Status != agrees[health.Status] {
		t.Errorf("Argo CD says %s, and kstatus %s", health.Status, computed.Status)
	}
	followsKstatus(t, object)
}

// followsKstatus checks that Reconciling and Stalled are True or absent, and that one of them is
// True if the object is not Ready.
func followsKstatus(t *testing.T, object *unstructured.Unstructured) {
	t.Helper()
	with, err := status.GetObjectWithConditions(object.Object)
	if err != nil {
		t.Fatal(err)
	}
	is := map[string]string{}
	for _, condition := range with.Status.Conditions {
		is[condition.Type] = string(condition.Status)
	}
	standing := is["Reconciling"] + is["Stalled"]
	if want := map[string]string{"": "", "True": "", "False": "True"}[is["Ready"]]; standing != want {
		t.Errorf("Ready is %q, Reconciling %q, Stalled %q", is["Ready"], is["Reconciling"], is["Stalled"])
	}
}

// A script must not need a library that Argo CD does not open.
func TestLibraries(t *testing.T) {
	t.Parallel()
	for _, library := range []string{"string", "math", "io", "os", "debug", "coroutine"} {
		health, err := gitops.ArgoCD("return {status = type("+library+")}", nil)
		if err != nil || health.Status != "nil" {
			t.Errorf("%s is a %s (%v)", library, health.Status, err)
		}
	}
	if _, err := gitops.ArgoCD("return 7", nil); err == nil || !strings.Contains(err.Error(), "number") {
		t.Errorf("a script that returns no table: %v", err)
	}
}

// Each script is in the patch of Argo CD's ConfigMap, under the key that Argo CD reads.
func TestPatch(t *testing.T) {
	t.Parallel()
	var patch struct {
		ConfigMapGenerator []struct {
			Name  string   `json:"name"`
			Files []string `json:"files"`
		} `json:"configMapGenerator"`
	}
	if err := yaml.Unmarshal(read(t, "../../config/argocd/kustomization.yaml"), &patch); err != nil {
		t.Fatal(err)
	}
	var want []string
	scripts, _ := filepath.Glob(filepath.Join(customizations, "*", "*", "health.lua"))
	for _, script := range scripts {
		kind := filepath.Dir(script)
		want = append(want, "resource.customizations.health."+filepath.Base(filepath.Dir(kind))+"_"+filepath.Base(kind)+
			"="+strings.TrimPrefix(script, "../../config/argocd/"))
	}
	if len(patch.ConfigMapGenerator) != 1 || patch.ConfigMapGenerator[0].Name != "argocd-cm" {
		t.Fatalf("the patch is %+v", patch)
	}
	if diff := cmp.Diff(want, patch.ConfigMapGenerator[0].Files); diff != "" {
		t.Errorf("the patch has other scripts (- want, + is):\n%s", diff)
	}
}

func state(t *testing.T, file string) *unstructured.Unstructured {
	t.Helper()
	encoded, err := yaml.YAMLToJSON(read(t, file))
	if err != nil {
		t.Fatal(err)
	}
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(encoded); err != nil {
		t.Fatal(err)
	}
	return object
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
