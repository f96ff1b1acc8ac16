package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// binaries returns the absolute path of the folder with links to the components. An empty folder
// means bin/k8s of this repository.
func binaries(folder string) (string, error) {
	if folder == "" {
		root, err := repository()
		if err != nil {
			return "", err
		}
		folder = filepath.Join(root, "bin", "k8s")
	}
	if _, err := os.Stat(filepath.Join(folder, "kube-apiserver")); err != nil {
		return "", fmt.Errorf("no control plane, run `make controlplane`: %w", err)
	}
	return filepath.Abs(folder)
}

// repository returns the nearest folder, from the working directory upwards, that has a go.mod:
// tests run in the folder of their package.
func repository() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder, nil
		}
		if folder == filepath.Dir(folder) {
			return "", errors.New("no go.mod in this folder or above it")
		}
		folder = filepath.Dir(folder)
	}
}
