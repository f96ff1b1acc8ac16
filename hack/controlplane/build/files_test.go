package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLinksFollowTheBinary(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "bin")
	for _, binary := range []string{"/cache/old", "/cache/new", "/cache/new"} {
		if err := link(folder, binary); err != nil {
			t.Fatal(err)
		}
		for _, component := range components {
			if got, err := os.Readlink(filepath.Join(folder, component)); err != nil || got != binary {
				t.Errorf("%s links to %q (%v), want %q", component, got, err, binary)
			}
		}
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) != len(components) {
		t.Errorf("%d files for %d components are left (%v)", len(entries), len(components), err)
	}
}
