// Bench measures the operator on the embedded cluster, beside a floor taken in the same run: plain writers that create as many ready-made
// Secrets. The machine is noisy, so ratios are what counts.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
)

func main() {
	services := flag.Int("services", 1000, "how many Services get a certificate")
	foreign := flag.Int("foreign", 300, "how many Secrets of 50 KiB and as many ConfigMaps belong to others")
	out := flag.String("json", "", "a file for the numbers")
	flag.Parse()
	ctrl.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *services, *foreign, *out)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// row is one number.
type row struct {
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// results are the numbers of a run, in the order in which they were taken.
type results []row

func (r *results) add(what string, value float64, unit string) {
	*r = append(*r, row{what, value, unit})
	fmt.Fprintf(os.Stderr, "  %s: %.3g %s\n", what, value, unit)
}

func (r *results) seconds(what string, d time.Duration) { r.add(what, d.Seconds(), "s") }

func (r *results) print(to io.Writer) error {
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, one := range *r {
		fmt.Fprintf(table, "%s\t%.4g\t%s\n", one.What, one.Value, one.Unit)
	}
	return table.Flush()
}

func run(ctx context.Context, services, foreign int, out string) error {
	b, err := start(ctx)
	if err != nil {
		return err
	}
	defer b.stop()
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{"make a CA", b.makeCA},
		{fmt.Sprintf("create %d Services", services), func(ctx context.Context) error { return b.createServices(ctx, services) }},
		{fmt.Sprintf("the floor: %d Secrets by %d plain writers", services, writers), func(ctx context.Context) error { return b.floor(ctx, services) }},
		{fmt.Sprintf("issue %d certificates", services), func(ctx context.Context) error { return b.issue(ctx, services) }},
		{"annotate one Service after the other", b.annotate},
		{fmt.Sprintf("create %d Secrets of 50 KiB and as many ConfigMaps of others", foreign), func(ctx context.Context) error { return b.foreign(ctx, foreign) }},
		{"restart the manager", b.restart},
	}
	for _, step := range steps {
		fmt.Fprintln(os.Stderr, step.name)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	if err := b.results.print(os.Stdout); err != nil || out == "" {
		return err
	}
	encoded, err := json.MarshalIndent(b.results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(encoded, '\n'), 0o644)
}
