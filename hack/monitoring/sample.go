package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

// sample is an invented half week with a rotation, one series per line, in promtool's notation,
// with a value for each half hour.
//
//go:embed sample.txt
var sample string

const (
	step  = 30 * time.Minute
	steps = 7 * 24
)

var begin = time.Date(2030, 3, 1, 0, 0, 0, 0, time.UTC)

// evaluate returns the result of each panel's query over that time, by the panel's title.
func evaluate(ctx context.Context, rows []row) (shown map[string]promql.Matrix, err error) {
	database, err := load()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, database.Close(), os.RemoveAll(database.Dir())) }()
	engine := promql.NewEngine(promql.EngineOpts{
		MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: step / 2, Parser: parser.NewParser(parser.Options{}),
	})
	shown = map[string]promql.Matrix{}
	for _, r := range rows {
		for _, p := range r.panels {
			query, err := engine.NewRangeQuery(ctx, database, nil, p.query, begin, begin.Add((steps-1)*step), step)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.title, err)
			}
			// The query is not closed: that would reuse the memory of its result.
			if shown[p.title], err = query.Exec(ctx).Matrix(); err != nil {
				return nil, fmt.Errorf("%s: %w", p.title, err)
			}
		}
	}
	return shown, nil
}

// load returns a database with the sample.
func load() (*tsdb.DB, error) {
	folder, err := os.MkdirTemp("", "sample-")
	if err != nil {
		return nil, err
	}
	options := tsdb.DefaultOptions()
	// One block holds all of the time, because the series are appended one after the other.
	options.MinBlockDuration = (2 * steps * step).Milliseconds()
	options.MaxBlockDuration = options.MinBlockDuration
	database, err := tsdb.Open(folder, nil, nil, options, nil)
	if err != nil {
		return nil, err
	}
	appender := database.Appender(context.Background())
	for line := range strings.Lines(sample) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := appendSeries(appender, line); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", line, err), database.Close())
		}
	}
	return database, appender.Commit()
}

// appendSeries appends the values of a series, step by step.
func appendSeries(to storage.Appender, line string) error {
	name, values, err := parser.NewParser(parser.Options{}).ParseSeriesDesc(line)
	if err != nil {
		return err
	}
	if len(values) != steps {
		return fmt.Errorf("there are %d values, want %d", len(values), steps)
	}
	for i, value := range values {
		if value.Omitted {
			continue
		}
		if _, err := to.Append(0, name, begin.Add(time.Duration(i)*step).UnixMilli(), value.Value); err != nil {
			return err
		}
	}
	return nil
}
