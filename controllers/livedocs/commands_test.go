package livedocs_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/servingcert/operator/hack/cluster"
)

// prepare sets up what a reader of any page has: the operator, a CA, and the demo. Propagation is
// set short, so that a rotation takes seconds.
const prepare = `
kubectl apply --server-side --force-conflicts -k config/default
kubectl apply --server-side --force-conflicts -k config/samples/basic
kubectl apply --server-side --force-conflicts -f hack/demo/demo.yaml
kubectl patch serviceca default --type=merge -p '{"spec":{"rotation":{"triggerReason":"Routine","propagation":{"minimum":"1s"}}}}'
kubectl wait --for=condition=Ready serviceca/default servingcertpolicy/default --timeout=2m
kubectl wait --for=create secret/web-tls -n demo --timeout=2m
`

// shell runs commands as a reader does.
type shell struct {
	folder string
	env    []string
}

// newShell returns a shell in its own folder, with the parts of the repository that commands name.
func newShell(t *testing.T, running *cluster.Cluster) shell {
	t.Helper()
	s := shell{folder: t.TempDir()}
	for _, part := range []string{"config", filepath.Join("hack", "demo")} {
		if err := os.CopyFS(filepath.Join(s.folder, part), os.DirFS(filepath.Join(root, part))); err != nil {
			t.Fatal(err)
		}
	}
	binaries, err := filepath.Abs(filepath.Join(root, "bin", "k8s"))
	if err != nil {
		t.Fatal(err)
	}
	s.env = append(os.Environ(), "KUBECONFIG="+running.Kubeconfig, "PATH="+standIn(t)+":"+binaries+":"+os.Getenv("PATH"))
	return s
}

// standIn returns a folder with a replacement for make that only checks that a target exists.
func standIn(t *testing.T) string {
	t.Helper()
	command, err := exec.LookPath("make")
	if err != nil {
		t.Fatal(err)
	}
	repository, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	script := "#!/bin/sh\nexec '" + command + "' -C '" + repository + "' --dry-run \"$@\" >/dev/null\n"
	if err := os.WriteFile(filepath.Join(folder, "make"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return folder
}

func (s shell) run(t *testing.T, commands string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	command := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", commands)
	command.Dir, command.Env = s.folder, s.env
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s\n(what needs more than the embedded cluster is marked %s)", err, commands, output, unchecked)
	}
}

// runPages runs the commands of the pages, each page in its own folder; after a command that fails,
// it skips the rest of that page.
func runPages(t *testing.T, running *cluster.Cluster, blocks []block, wanted func(page string) bool) {
	t.Helper()
	byPage := map[string][]block{}
	var pages []string
	for _, b := range blocks {
		if !wanted(b.page) || b.commands() == "" || b.marked(unchecked) {
			continue
		}
		if byPage[b.page] == nil {
			pages = append(pages, b.page)
		}
		byPage[b.page] = append(byPage[b.page], b)
	}
	for _, page := range pages {
		t.Run(page, func(t *testing.T) {
			s := newShell(t, running)
			if page != openShiftPage {
				s.run(t, prepare)
			}
			for _, b := range byPage[page] {
				if !t.Run(b.String(), func(t *testing.T) { s.run(t, b.commands()) }) {
					return
				}
			}
		})
	}
}
