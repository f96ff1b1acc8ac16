// Command monitoring writes the Grafana dashboard and a picture of it, both from one source:
// panels.go. `make dashboard` runs it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := run(context.Background(), filepath.Join("..", "..")); err != nil {
		fmt.Fprintln(os.Stderr, "monitoring:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root string) error {
	built, err := grafana(rows)
	if err != nil {
		return err
	}
	var encoded bytes.Buffer
	encoder := json.NewEncoder(&encoded)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(built); err != nil {
		return err
	}
	shown, err := evaluate(ctx, rows)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "config", "components", "metrics", "dashboard.json"), encoded.Bytes(), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, "docs", "dashboard.svg"), picture(rows, shown), 0o644)
}
