// Command bundle writes bundle/, by which the Operator Lifecycle Manager installs the operator,
// from config/. `make bundle` runs it, with the output of kustomize for config/default as its
// input.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	version := flag.String("version", "", "version of the bundle, such as 0.1.0")
	root := flag.String("root", "../..", "root of the repository")
	flag.Parse()
	if err := run(os.Stdin, *root, *version); err != nil {
		fmt.Fprintln(os.Stderr, "bundle:", err)
		os.Exit(1)
	}
}

func run(manifests io.Reader, root, version string) error {
	installed, err := read(manifests)
	if err != nil {
		return err
	}
	examples, err := readExamples(filepath.Join(root, "config", "samples", "basic"))
	if err != nil {
		return err
	}
	csv, err := clusterServiceVersion(installed, examples, version)
	if err != nil {
		return err
	}
	files, err := copies(filepath.Join(root, "config", "crd", "bases"))
	if err != nil {
		return err
	}
	if files["manifests/servingcert.clusterserviceversion.yaml"], err = render(csv); err != nil {
		return err
	}
	if files["manifests/servingcert.poddisruptionbudget.yaml"], err = render(disruptionBudget(installed)); err != nil {
		return err
	}
	files["metadata/annotations.yaml"] = annotations()
	files["bundle.Dockerfile"] = dockerfile()
	return write(filepath.Join(root, "bundle"), files)
}
