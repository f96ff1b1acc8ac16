// Command upgrade moves the control plane to another release of Kubernetes. Kubernetes requires its
// own libraries without a version and replaces them by folders of its repository; go.mod here has
// to replace them by their releases. Run it in the module's folder: go run ./build/upgrade v1.37.2
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

func main() {
	if len(os.Args) != 2 || !strings.HasPrefix(os.Args[1], "v1.") {
		fmt.Fprintln(os.Stderr, "usage: go run ./build/upgrade v1.<minor>.<patch>")
		os.Exit(2)
	}
	if err := upgrade(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "upgrade:", err)
		os.Exit(1)
	}
}

func upgrade(ctx context.Context, version string) error {
	paths, err := libraries(ctx, version)
	if err != nil {
		return err
	}
	edit := []string{"mod", "edit", "-require=k8s.io/kubernetes@" + version}
	for _, library := range paths {
		edit = append(edit, fmt.Sprintf("-replace=%s=%s@v0.%s", library, library, strings.TrimPrefix(version, "v1.")))
	}
	if _, err := goCommand(ctx, edit...); err != nil {
		return err
	}
	_, err = goCommand(ctx, "mod", "tidy")
	return err
}

// libraries returns the modules that are released together with Kubernetes.
func libraries(ctx context.Context, version string) ([]string, error) {
	var module struct{ GoMod string }
	if err := goJSON(ctx, &module, "mod", "download", "-json", "k8s.io/kubernetes@"+version); err != nil {
		return nil, err
	}
	var kubernetes struct {
		Replace []struct{ Old, New struct{ Path string } }
	}
	if err := goJSON(ctx, &kubernetes, "mod", "edit", "-json", module.GoMod); err != nil {
		return nil, err
	}
	paths := []string{}
	for _, replace := range kubernetes.Replace {
		if strings.HasPrefix(replace.New.Path, "./staging/") {
			paths = append(paths, replace.Old.Path)
		}
	}
	return paths, nil
}

func goJSON(ctx context.Context, into any, args ...string) error {
	output, err := goCommand(ctx, args...)
	if err != nil {
		return err
	}
	return json.Unmarshal(output, into)
}

func goCommand(ctx context.Context, args ...string) ([]byte, error) {
	command := exec.CommandContext(ctx, "go", args...)
	command.Stderr = os.Stderr
	return command.Output()
}
