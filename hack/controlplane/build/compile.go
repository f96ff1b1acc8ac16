package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

// imported matches a line of `go build -v` with the path of a package that is being compiled. Other
// lines are downloads and errors.
var imported = regexp.MustCompile(`^[\w./~-]+$`)

// compile counts the packages to compile, which also downloads what is missing, and compiles them.
func compile(ctx context.Context, r recipe, output string) error {
	title := "building Kubernetes " + r.version + " (once)"
	show := newProgress(os.Stderr, title)
	defer show.done()

	var stale bytes.Buffer
	downloads, compiled := 0, 0
	list := append([]string{"list", "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}"}, append(r.flags, ".")...)
	err := run(ctx, list, &stale, func(module string) {
		downloads++
		show.set("%s: downloading modules, %d so far, now %s", title, downloads, module)
	})
	if err != nil {
		return err
	}
	total := len(strings.Fields(stale.String()))
	show.set("%s: %d packages to compile", title, total)
	build := append([]string{"build", "-v", "-o", output}, append(r.flags, ".")...)
	return run(ctx, build, io.Discard, func(string) {
		compiled++
		if compiled < total {
			show.set("%s: %d of %d packages", title, compiled, total)
			return
		}
		show.set("%s: all %d packages, linking", title, total)
	})
}

// run runs the go command, and calls step for each module that it downloads and each package that
// it compiles. The rest of its output is used only if it fails.
func run(ctx context.Context, args []string, out io.Writer, step func(string)) error {
	command := exec.CommandContext(ctx, "go", args...)
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.Stdout = out
	said, err := command.StderrPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	rest := sift(said, step)
	if err := command.Wait(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", args[0], err, rest)
	}
	return nil
}

func sift(lines io.Reader, step func(string)) (rest string) {
	scanner := bufio.NewScanner(lines)
	for scanner.Scan() {
		line := scanner.Text()
		module, download := strings.CutPrefix(line, "go: downloading ")
		if download || imported.MatchString(line) {
			step(module)
			continue
		}
		rest += line + "\n"
	}
	return rest
}
