// Bench measures the operator on the embedded cluster, and compares it with a floor that is
// measured in the same run: plain writers that create as many ready-made Secrets. The machine is
// noisy, so only the ratios are meaningful.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
)

// smallest is the number of Services in the smallest cluster; each further cluster has ten times as
// many as the one before.
const smallest = 100

func main() {
	services := flag.Int("services", 1000, "how many Services there are in the largest cluster")
	only := flag.String("only", "", "measure this part alone: services, or publish")
	foreign := flag.Int("foreign", 3000, "how many Secrets of 50 KiB and as many ConfigMaps belong to others in the largest cluster")
	out := flag.String("out", filepath.Join("dist", "bench"), "a folder for the numbers (bench.json) and their growth (bench.svg)")
	flag.Parse()
	ctrl.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *services, *foreign, *only, *out)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, services, foreign int, only, out string) error {
	var table table
	for _, size := range sizes(services) {
		others := 0
		if size == services {
			others = foreign
		}
		taken, err := measure(ctx, size, others, only)
		if err != nil {
			return fmt.Errorf("size %d: %w", size, err)
		}
		table = append(table, column{size, taken})
	}
	if err := table.print(os.Stdout); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	encoded, err := json.MarshalIndent(table, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "bench.json"), append(encoded, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "bench.svg"), table.draw(), 0o644)
}

// sizes returns the numbers of Services, up to the largest.
func sizes(largest int) []int {
	var all []int
	for size := smallest; size < largest; size *= 10 {
		all = append(all, size)
	}
	return append(all, largest)
}

// step is one measurement.
type step struct {
	name string
	do   func(context.Context) error
}

// parts are the measurements, each part in its own cluster.
var parts = []part{{"services", servicesSteps}, {"publish", publishSteps}}

type part struct {
	name  string
	steps func(b *bench, foreign int) []step
}

func servicesSteps(b *bench, foreign int) []step {
	return []step{
		{"make a CA", b.makeCA},
		{"create the Services", b.createServices},
		{fmt.Sprintf("the floor: as many Secrets by %d plain writers", writers), b.floor},
		{"issue the certificates", b.issue},
		{"annotate one Service after the other", b.annotate},
		{"issue certificates for OpenShift's annotation", b.openShift},
		{"restart the manager", func(ctx context.Context) error { return b.restart(ctx, "a new manager") }},
		{"give ConfigMaps the bundle", b.inject},
		{"rotate, and reissue everything at once", b.reissue},
		{"issue certificates with RSA keys", b.issueRSA},
		{"restart the manager on ConfigMaps, too", func(ctx context.Context) error { return b.restart(ctx, "a new manager, and as many ConfigMaps") }},
		{fmt.Sprintf("restart it beside %d Secrets of 50 KiB and as many ConfigMaps of others", foreign), func(ctx context.Context) error { return b.fillWithForeignObjects(ctx, foreign) }},
	}
}

// measure returns the values of all parts, or of the one named by only.
func measure(ctx context.Context, size, foreign int, only string) (rows, error) {
	var all rows
	for _, part := range parts {
		if only != "" && only != part.name {
			continue
		}
		taken, err := part.measure(ctx, size, foreign)
		if err != nil {
			return nil, err
		}
		all = append(all, taken...)
	}
	if all == nil {
		return nil, fmt.Errorf("--only=%s is no part", only)
	}
	return all, nil
}

func (p part) measure(ctx context.Context, size, foreign int) (rows, error) {
	b, err := start(ctx, size)
	if err != nil {
		return nil, err
	}
	defer b.stop()
	for _, step := range p.steps(b, foreign) {
		fmt.Fprintf(os.Stderr, "%d, %s: %s\n", size, p.name, step.name)
		err := step.do(ctx)
		for _, open := range b.watches {
			open.Stop() // an unread watch still costs the API server time
		}
		if b.watches = nil; err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return b.rows, nil
}
