package livedocs_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const (
	// unchecked marks a block that needs what the embedded cluster does not have.
	unchecked = "real-cluster"
	// applied marks a manifest that is applied, for the commands after it.
	applied = "applied"
)

// block is a fenced block of a page.
type block struct {
	page string
	line int
	// language and marks are the words after the fence.
	language string
	marks    []string
	text     string
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

func (b block) marked(mark string) bool { return slices.Contains(b.marks, mark) }

// commands returns what a reader of the block types.
func (b block) commands() string {
	switch b.language {
	case "sh":
		return b.text
	case "console":
		var typed strings.Builder
		for line := range strings.Lines(b.text) {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				typed.WriteString(command)
			}
		}
		return typed.String()
	case "yaml":
		if b.marked(applied) {
			return "kubectl apply --server-side -f - <<'MANIFEST'\n" + b.text + "MANIFEST\n"
		}
	}
	return ""
}

var fence = regexp.MustCompile("^( *)```(.*)$")

// blocksOf returns the fenced blocks of a page. The indentation of a fence in a list is removed
// from its block.
func blocksOf(page, content string) []block {
	var blocks []block
	var open *block
	indent := ""
	for number, line := range strings.Split(content, "\n") {
		names := fence.FindStringSubmatch(line)
		switch {
		case names == nil && open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		case names != nil && open != nil:
			blocks, open = append(blocks, *open), nil
		case names != nil:
			open, indent = &block{page: page, line: number + 1}, names[1]
			if words := strings.Fields(names[2]); len(words) > 0 {
				open.language, open.marks = words[0], words[1:]
			}
		}
	}
	return blocks
}

// readPages returns the blocks of all handwritten pages, in the order of the pages' names.
func readPages(t *testing.T) []block {
	t.Helper()
	var blocks []block
	for _, path := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "docs"} {
		err := filepath.WalkDir(filepath.Join(root, path), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".md" || entry.Name() == "api.md" {
				return err
			}
			content, err := os.ReadFile(path)
			page, _ := filepath.Rel(root, path)
			blocks = append(blocks, blocksOf(page, string(content))...)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return blocks
}

func TestBlocksOf(t *testing.T) {
	page := strings.Join([]string{
		"Text with `code`.", "```sh", "kubectl get pods", "```", "- a list", "  ```yaml applied", "  a:", "    b: c", "  ```",
		"```console real-cluster", "$ make test", "ok", "$ make lint", "```", "```", "plain", "```",
	}, "\n")
	want := []block{
		{page: "p.md", line: 2, language: "sh", text: "kubectl get pods\n"},
		{page: "p.md", line: 6, language: "yaml", marks: []string{"applied"}, text: "a:\n  b: c\n"},
		{page: "p.md", line: 10, language: "console", marks: []string{"real-cluster"}, text: "$ make test\nok\n$ make lint\n"},
		{page: "p.md", line: 15, text: "plain\n"},
	}
	got := blocksOf("p.md", page)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(block{}), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	var commands []string
	for _, b := range got {
		commands = append(commands, b.commands())
	}
	wantCommands := []string{
		"kubectl get pods\n", "kubectl apply --server-side -f - <<'MANIFEST'\na:\n  b: c\nMANIFEST\n", "make test\nmake lint\n", "",
	}
	if diff := cmp.Diff(wantCommands, commands); diff != "" {
		t.Error(diff)
	}
}
