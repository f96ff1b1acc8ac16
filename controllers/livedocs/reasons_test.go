package livedocs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReasons checks that the documentation has a row with a remedy for each reason that the
// operator can report on an object that asks for a bundle.
func TestReasons(t *testing.T) {
	read := func(path ...string) string {
		content, err := os.ReadFile(filepath.Join(append([]string{root}, path...)...))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	reasons := regexp.MustCompile(`(?m)^\t[rR]eason\w+ += "(\w+)"$`)
	found := reasons.FindAllStringSubmatch(read("controllers", "injector", "controller.go")+read("controllers", "internal", "issuance", "bundle.go"), -1)
	if len(found) == 0 {
		t.Fatal("there are no reasons")
	}
	page := read("docs", "configmaps.md")
	for _, reason := range found {
		if !strings.Contains(page, "\n| `"+reason[1]+"` | ") {
			t.Errorf("docs/configmaps.md does not say what to do about %s", reason[1])
		}
	}
}
