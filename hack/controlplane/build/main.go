// Command build compiles the control plane, once for all checkouts of the same content, and creates
// a link to it for each component. Run it in the module's folder: go run ./build --out
// ../../bin/k8s
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// components are the names that ../main.go handles.
var components = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "hollow-node"}

func main() {
	out := flag.String("out", "../../bin/k8s", "folder for the components' links")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := build(ctx, *out)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "controlplane:", err)
		os.Exit(1)
	}
}

func build(ctx context.Context, out string) error {
	r, err := readRecipe(".")
	if err != nil {
		return err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	binary := filepath.Join(cache, "servingcert-controlplane", r.fingerprint, "controlplane")
	if err := ensure(ctx, r, binary); err != nil {
		return err
	}
	return link(out, binary)
}

// ensure compiles the binary unless it exists. If two builders run at the same time, one compiles
// and the other waits for it.
func ensure(ctx context.Context, r recipe, binary string) error {
	if exists(binary) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(binary), 0o755); err != nil {
		return err
	}
	unlock, err := lock(binary + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if exists(binary) {
		return nil
	}
	// An interrupted build must not leave a partly written binary.
	unfinished := binary + ".unfinished"
	defer os.Remove(unfinished)
	if err := compile(ctx, r, unfinished); err != nil {
		return err
	}
	return os.Rename(unfinished, binary)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
