package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// recipe is everything that determines the content of the binary.
type recipe struct {
	version     string // of Kubernetes
	flags       []string
	fingerprint string
}

var kubernetes = regexp.MustCompile(`(?m)^\s*k8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)$`)

func readRecipe(module string) (recipe, error) {
	mod, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return recipe{}, err
	}
	version := kubernetes.FindStringSubmatch(string(mod))
	if version == nil {
		return recipe{}, fmt.Errorf("%s/go.mod requires no release of k8s.io/kubernetes", module)
	}
	r := recipe{version: version[1], flags: flags(version[1], version[2], version[3])}
	r.fingerprint, err = fingerprint(module, r.flags)
	return r, err
}

// flags returns the build flags. They stamp the version, without which kube-apiserver refuses to
// start, and omit the symbol table and the debug information, which no test reads.
func flags(version, major, minor string) []string {
	const stamp = " -X k8s.io/component-base/version."
	ldflags := "-s -w" + stamp + "gitVersion=" + version + stamp + "gitMajor=" + major + stamp + "gitMinor=" + minor
	return []string{"-trimpath", "-buildvcs=false", "-ldflags=" + ldflags}
}

// fingerprint returns a name for the content of the binary: the same in every checkout and on every
// branch that would build the same binary.
func fingerprint(module string, flags []string) (string, error) {
	files, err := sources(module)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	fmt.Fprintf(hash, "%q\n", append(flags, runtime.Version(), runtime.GOOS, runtime.GOARCH))
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(module, file))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%q %d\n%s", file, len(content), content)
	}
	return hex.EncodeToString(hash.Sum(nil))[:20], nil
}

// sources returns, sorted, the files of the module that determine the binary; those of the builder
// itself do not.
func sources(module string) ([]string, error) {
	files := []string{}
	err := fs.WalkDir(os.DirFS(module), ".", func(path string, _ fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == "build":
			return fs.SkipDir
		case path == "go.mod", path == "go.sum", strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			files = append(files, path)
		}
		return nil
	})
	return files, err
}
