// Package livedocs_test checks the documentation: its commands run, the API server accepts its
// manifests, and its programs compile. CONTRIBUTING.md describes how a block is marked that cannot
// be checked.
package livedocs_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/servingcert/operator/controllers/internal/testoperator"
	"github.com/servingcert/operator/hack/cluster"
)

const (
	root = "../.."
	// openShiftPage needs an operator that is installed under OpenShift's names.
	openShiftPage      = "docs/openshift.md"
	openShiftNamespace = "openshift-service-ca"
	usualNamespace     = "servingcert-system"
	// timeout is how long a block may take; it measures nothing.
	timeout = 4 * time.Minute
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

// TestPages checks every manifest, and then runs every command in a cluster that all pages share,
// as they share a reader's cluster.
func TestPages(t *testing.T) {
	running := start(t)
	blocks := readPages(t)
	if len(blocks) == 0 {
		t.Fatal("no blocks")
	}
	t.Run("manifests", func(t *testing.T) { checkManifests(t, running, blocks) })
	operate(t, running, usualNamespace)
	runPages(t, running, blocks, func(page string) bool { return page != openShiftPage })
}

func TestOpenShiftPage(t *testing.T) {
	running := start(t)
	operate(t, running, openShiftNamespace)
	runPages(t, running, readPages(t), func(page string) bool { return page == openShiftPage })
}

// TestPrograms compiles the Go programs.
func TestPrograms(t *testing.T) {
	for _, b := range readPages(t) {
		if b.language != "go" || !strings.HasPrefix(b.text, "package ") {
			continue
		}
		t.Run(b.String(), func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "main.go")
			if err := os.WriteFile(program, []byte(b.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if output, err := exec.CommandContext(t.Context(), "go", "vet", program).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, output)
			}
		})
	}
}

func start(t *testing.T) *cluster.Cluster {
	t.Helper()
	crds := []string{filepath.Join(root, "config", "crd", "bases"), filepath.Join(moduleOf(t, "github.com/cert-manager/cert-manager"), "deploy", "crds")}
	running, err := cluster.Start(t.Context(), cluster.Options{Controllers: true, CRDs: crds})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := running.Stop(); err != nil {
			t.Error(err)
		}
	})
	return running
}

// operate runs the operator until the test ends.
func operate(t *testing.T, running *cluster.Cluster, namespace string) {
	t.Helper()
	kube, err := testoperator.Client(running)
	if err != nil {
		t.Fatal(err)
	}
	if err := testoperator.Install(t.Context(), kube, namespace); err != nil {
		t.Fatal(err)
	}
	stop, err := testoperator.Start(context.WithoutCancel(t.Context()), running, namespace)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// moduleOf returns the folder of a module that this one requires.
func moduleOf(t *testing.T, path string) string {
	t.Helper()
	folder, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(folder))
}
