package apply_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	declared   = regexp.MustCompile(`FieldOwner\("([^"]+)"\)`)
	documented = regexp.MustCompile("(?m)^\\| `(servingcert-[a-z]+)` \\|")
)

// TestManagersAreDocumented checks that docs/gitops.md lists all field managers, which are part of
// the API, and that no other package declares one.
func TestManagersAreDocumented(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := os.ReadFile(path)
		for _, match := range declared.FindAllStringSubmatch(string(content), -1) {
			if names[match[1]] = true; filepath.Base(path) != "apply.go" {
				t.Errorf("%s has a field manager of its own: %s", path, match[1])
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("../../../docs/gitops.md")
	if err != nil {
		t.Fatal(err)
	}
	reported := map[string]bool{}
	for _, match := range documented.FindAllStringSubmatch(string(guide), -1) {
		reported[match[1]] = true
	}
	if !maps.Equal(names, reported) {
		t.Errorf("docs/gitops.md tells of %v, and there are %v", slices.Sorted(maps.Keys(reported)), slices.Sorted(maps.Keys(names)))
	}
}
