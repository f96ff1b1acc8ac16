package gitops_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var example = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// The examples of docs/gitops.md are valid YAML, and the folders of this repository that they name
// exist.
func TestExamples(t *testing.T) {
	t.Parallel()
	waits := 0
	for _, block := range example.FindAllStringSubmatch(string(read(t, "../../docs/gitops.md")), -1) {
		for document := range strings.SplitSeq(block[1], "\n---\n") {
			var object struct {
				Kind string `json:"kind"`
				Spec struct {
					Path string `json:"path"`
					Wait bool   `json:"wait"`
				} `json:"spec"`
			}
			if err := yaml.Unmarshal([]byte(document), &object); err != nil {
				t.Errorf("%v:\n%s", err, document)
			}
			if object.Spec.Wait {
				waits++
			}
			if path := object.Spec.Path; strings.HasPrefix(path, "./config/") {
				if _, err := os.Stat(filepath.Join("..", "..", path, "kustomization.yaml")); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if waits != 2 {
		t.Errorf("%d Kustomizations wait", waits)
	}
}
