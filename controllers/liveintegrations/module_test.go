package liveintegrations_test

import (
	"os/exec"
	"strings"
	"testing"
)

// moduleOf returns the folder of a module that this one requires.
func moduleOf(t *testing.T, path string) string {
	t.Helper()
	folder, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(folder))
}
