package main

import (
	"os"
	"path/filepath"
	"testing"
)

const goMod = "module example\n\nrequire (\n\tk8s.io/kubernetes v1.37.2\n)\n"

func module(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for name, content := range map[string]string{"go.mod": goMod, "go.sum": "", "main.go": "package main\n", "node/node.go": "package node\n"} {
		write(t, filepath.Join(folder, name), content)
	}
	return folder
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func fingerprintOf(t *testing.T, module string) string {
	t.Helper()
	r, err := readRecipe(module)
	if err != nil {
		t.Fatal(err)
	}
	return r.fingerprint
}

func TestRecipeIsTheSameInEveryCheckout(t *testing.T) {
	if one, other := fingerprintOf(t, module(t)), fingerprintOf(t, module(t)); one != other {
		t.Errorf("two checkouts of the same content have fingerprints %s and %s", one, other)
	}
}

func TestRecipeFollowsWhatIsCompiled(t *testing.T) {
	for file, changes := range map[string]bool{
		"main.go": true, "node/node.go": true, "node/more.go": true, "go.sum": true,
		"main_test.go": false, "build/main.go": false, "README.md": false,
	} {
		folder := module(t)
		before := fingerprintOf(t, folder)
		write(t, filepath.Join(folder, file), "package changed\n")
		if changed := fingerprintOf(t, folder) != before; changed != changes {
			t.Errorf("a change of %s changes the fingerprint: %t, want %t", file, changed, changes)
		}
	}
}

func TestRecipeStampsTheVersionThatGoModRequires(t *testing.T) {
	r, err := readRecipe(module(t))
	if err != nil {
		t.Fatal(err)
	}
	const stamp = "-X k8s.io/component-base/version."
	want := "-ldflags=-s -w " + stamp + "gitVersion=v1.37.2 " + stamp + "gitMajor=1 " + stamp + "gitMinor=37"
	if got := r.flags[len(r.flags)-1]; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestRecipeNeedsAVersion(t *testing.T) {
	folder := module(t)
	write(t, filepath.Join(folder, "go.mod"), "module example\n")
	if _, err := readRecipe(folder); err == nil {
		t.Error("a go.mod without Kubernetes is accepted")
	}
}
