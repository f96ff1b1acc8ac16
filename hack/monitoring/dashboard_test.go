package main

import (
	"math"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
)

// Every query of the dashboard and of the alerts is valid PromQL, and uses only metrics that
// docs/metrics.md describes. Other tests check that the operator exports exactly those.
func TestQueriesAskForWhatThereIs(t *testing.T) {
	queries := map[string]string{}
	for _, r := range rows {
		for _, p := range r.panels {
			queries[p.title] = p.query
		}
	}
	for _, alert := range alerts(t) {
		queries[alert.Alert] = alert.Expr.String()
	}
	known := map[string]bool{}
	for _, name := range regexp.MustCompile("`([a-z]+(_[a-z]+)+)`").FindAllStringSubmatch(string(read(t, "..", "..", "docs", "metrics.md")), -1) {
		known[name[1]] = true
	}
	for title, query := range queries {
		parsed, err := parser.NewParser(parser.Options{}).ParseExpr(query)
		if err != nil {
			t.Errorf("%s: %v", title, err)
			continue
		}
		asked := 0
		parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
			if selector, is := node.(*parser.VectorSelector); is {
				asked++
				if !known[strings.TrimSuffix(selector.Name, "_bucket")] {
					t.Errorf("%s asks for %s, which docs/metrics.md does not know", title, selector.Name)
				}
			}
			return nil
		})
		if asked == 0 {
			t.Errorf("%s asks for nothing", title)
		}
	}
}

// With the sample every panel shows at least one series, with complete names, and no series of
// other operators.
func TestEveryPanelShowsSomething(t *testing.T) {
	shown, err := evaluate(t.Context(), rows)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		width := 0
		for _, p := range r.panels {
			width += p.width
			if greatest(shown[p.title]) <= 0 {
				t.Errorf("%s shows nothing", p.title)
			}
			for _, series := range shown[p.title] {
				if label := name(p, series.Metric); strings.Contains(label, "{{") || (p.kind != number && label == "") || label == "foreign" {
					t.Errorf("%s names a series %q", p.title, label)
				}
			}
		}
		if width != 24 {
			t.Errorf("the panels of %q are %d columns wide", r.title, width)
		}
	}
}

func greatest(values promql.Matrix) float64 {
	highest := math.Inf(-1)
	for _, series := range values {
		for _, point := range series.Floats {
			if !math.IsNaN(point.F) {
				highest = max(highest, point.F)
			}
		}
	}
	return highest
}
