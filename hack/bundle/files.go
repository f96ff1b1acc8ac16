package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// labels describe the bundle to OLM, in its metadata and on its image.
var labels = [][2]string{
	{"operators.operatorframework.io.bundle.mediatype.v1", "registry+v1"},
	{"operators.operatorframework.io.bundle.manifests.v1", "manifests/"},
	{"operators.operatorframework.io.bundle.metadata.v1", "metadata/"},
	{"operators.operatorframework.io.bundle.package.v1", packageName},
	{"operators.operatorframework.io.bundle.channels.v1", channel},
	{"operators.operatorframework.io.bundle.channel.default.v1", channel},
	{"operators.operatorframework.io.test.mediatype.v1", "scorecard+v1"},
	{"operators.operatorframework.io.test.config.v1", "tests/scorecard/"},
}

func annotations() []byte {
	var b strings.Builder
	b.WriteString("annotations:\n")
	for _, label := range labels {
		fmt.Fprintf(&b, "  %s: %s\n", label[0], label[1])
	}
	return []byte(b.String())
}

func dockerfile() []byte {
	var b strings.Builder
	b.WriteString("# The bundle as an image, for a catalog: docker build -f bundle/bundle.Dockerfile bundle\nFROM scratch\n")
	for _, label := range labels {
		fmt.Fprintf(&b, "LABEL %s=%s\n", label[0], label[1])
	}
	b.WriteString("COPY manifests /manifests/\nCOPY metadata /metadata/\nCOPY tests/scorecard /tests/scorecard/\n")
	return []byte(b.String())
}

// disruptionBudget returns the PodDisruptionBudget of the installation, without a namespace: OLM
// chooses that of the operator.
func disruptionBudget(installed *installation) *policyv1.PodDisruptionBudget {
	budget := installed.disruptionBudget.DeepCopy()
	budget.Namespace = ""
	return budget
}

// render leaves out what an API server would fill in.
func render(object any) ([]byte, error) {
	encoded, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	var content map[string]any
	if err := json.Unmarshal(encoded, &content); err != nil {
		return nil, err
	}
	delete(content, "status")
	unstructured.RemoveNestedField(content, "metadata", "creationTimestamp")
	return yaml.Marshal(content)
}

// copies returns the files of a folder, as manifests of the bundle.
func copies(folder string) (map[string][]byte, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, entry := range entries {
		if files["manifests/"+entry.Name()], err = os.ReadFile(filepath.Join(folder, entry.Name())); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// write replaces the manifests and the metadata of the bundle, and removes files that are no longer
// written.
func write(folder string, files map[string][]byte) error {
	for _, generated := range []string{"manifests", "metadata"} {
		if err := os.RemoveAll(filepath.Join(folder, generated)); err != nil {
			return err
		}
	}
	for name, content := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
