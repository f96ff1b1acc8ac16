package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
)

// The picture has 24 columns, as Grafana has.
const (
	columnWidth = 50
	unitHeight  = 26
	titleHeight = 34
	gap         = 8
)

// palette are the colors of the series, in order; they are distinguishable on a light and on a dark
// background.
var palette = []string{"#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#d62728", "#8c564b"}

const style = `
    text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f }
    .row { font-size: 14px; font-weight: 600 }
    .small { font-size: 10.5px; fill: #57606a }
    .number { font-size: 26px; fill: #1a7f37; text-anchor: middle }
    .alarming { fill: #cf222e }
    .panel { fill: #f6f8fa; stroke: #d0d7de }
    .axis { stroke: #d0d7de }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .small { fill: #9198a1 }
      .number { fill: #3fb950 }
      .alarming { fill: #f85149 }
      .panel { fill: #161b22; stroke: #30363d }
      .axis { stroke: #30363d }
    }
`

// box is the area in which something is drawn.
type box struct{ x, y, width, height float64 }

// picture returns the dashboard as an SVG.
func picture(rows []row, shown map[string]promql.Matrix) []byte {
	var body bytes.Buffer
	y := 0.0
	for _, r := range rows {
		fmt.Fprintf(&body, "  <text class=\"row\" x=\"4\" y=\"%g\">%s</text>\n", y+22, html.EscapeString(r.title))
		y += titleHeight
		x, height := 0.0, float64(r.height*unitHeight)
		for _, p := range r.panels {
			width := float64(p.width * columnWidth)
			draw(&body, p, shown[p.title], box{x + gap/2, y, width - gap, height - gap})
			x += width
		}
		y += height
	}
	return fmt.Appendf(nil, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %g\" role=\"img\" aria-labelledby=\"title\">\n"+
		"  <title id=\"title\">The dashboard over some made-up days in which a CA rotates</title>\n  <style>%s  </style>\n%s</svg>\n",
		24*columnWidth, y, style, body.Bytes())
}

func draw(out *bytes.Buffer, p panel, values promql.Matrix, at box) {
	fmt.Fprintf(out, "  <rect class=\"panel\" x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\" rx=\"4\"/>\n", at.x, at.y, at.width, at.height)
	fmt.Fprintf(out, "  <text x=\"%g\" y=\"%g\">%s</text>\n", at.x+10, at.y+19, html.EscapeString(p.title))
	inner := box{at.x + 54, at.y + 34, at.width - 66, at.height - 66}
	switch p.kind {
	case number:
		drawNumber(out, p, values, at)
	case spans:
		drawSpans(out, p, values, box{at.x + 150, inner.y, at.width - 162, at.height - 50})
	case lines, stacked:
		drawLines(out, p, values, inner)
		drawLegend(out, p, values, at)
	}
}

// drawNumber draws the last value.
func drawNumber(out *bytes.Buffer, p panel, values promql.Matrix, at box) {
	if len(values) == 0 {
		return
	}
	last := values[0].Floats[len(values[0].Floats)-1].F
	class := "number"
	if p.alarming > 0 && last >= p.alarming {
		class += " alarming"
	}
	fmt.Fprintf(out, "  <text class=\"%s\" x=\"%g\" y=\"%g\">%s</text>\n", class, at.x+at.width/2, at.y+at.height/2+20, p.unit.format(last))
}

// drawSpans draws a bar for each time in which a series has values.
func drawSpans(out *bytes.Buffer, p panel, values promql.Matrix, at box) {
	slices.SortFunc(values, func(a, b promql.Series) int { return int(a.Floats[0].T - b.Floats[0].T) })
	height := at.height / float64(max(len(values), 1))
	for i, series := range values {
		y, from, to := at.y+float64(i)*height, across(series.Floats[0].T, at), across(series.Floats[len(series.Floats)-1].T+step.Milliseconds(), at)
		fmt.Fprintf(out, "  <text class=\"small\" x=\"%g\" y=\"%.1f\">%s</text>\n", at.x-140, y+height/2+3, html.EscapeString(name(p, series.Metric)))
		fmt.Fprintf(out, "  <rect fill=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", colour(i), from, y+4, to-from, height-8)
	}
}

// drawLines draws the series; stacked ones each on top of the previous ones.
func drawLines(out *bytes.Buffer, p panel, values promql.Matrix, at box) {
	below := map[int64]float64{}
	tops := make([][]promql.FPoint, len(values))
	highest := 0.0
	for i, series := range values {
		for _, point := range series.Floats {
			if math.IsNaN(point.F) {
				continue
			}
			if p.kind == stacked {
				point.F += below[point.T]
				below[point.T] = point.F
			}
			highest = max(highest, point.F)
			tops[i] = append(tops[i], point)
		}
	}
	if highest == 0 {
		highest = 1
	}
	for _, mark := range []float64{0, 1} {
		y := at.y + at.height*(1-mark)
		fmt.Fprintf(out, "  <line class=\"axis\" x1=\"%g\" y1=\"%g\" x2=\"%g\" y2=\"%g\"/>\n", at.x, y, at.x+at.width, y)
		fmt.Fprintf(out, "  <text class=\"small\" x=\"%g\" y=\"%g\" text-anchor=\"end\">%s</text>\n", at.x-5, y+4, p.unit.format(highest*mark))
	}
	for i, top := range slices.Backward(tops) {
		var path strings.Builder
		for _, point := range top {
			fmt.Fprintf(&path, "%.1f,%.1f ", across(point.T, at), at.y+at.height*(1-point.F/highest))
		}
		fill := "none"
		if p.kind == stacked && len(top) > 0 {
			fill = colour(i)
			fmt.Fprintf(&path, "%.1f,%.1f %.1f,%.1f", across(top[len(top)-1].T, at), at.y+at.height, across(top[0].T, at), at.y+at.height)
		}
		fmt.Fprintf(out, "  <polyline fill=\"%s\" stroke=\"%s\" points=\"%s\"/>\n", fill, colour(i), strings.TrimSpace(path.String()))
	}
}

func drawLegend(out *bytes.Buffer, p panel, values promql.Matrix, at box) {
	x, y := at.x+12, at.y+at.height-12
	for i, series := range values {
		label := name(p, series.Metric)
		fmt.Fprintf(out, "  <rect fill=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"10\" height=\"4\"/>\n", colour(i), x, y-5)
		fmt.Fprintf(out, "  <text class=\"small\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", x+14, y, html.EscapeString(label))
		x += 26 + 5.8*float64(len(label))
	}
}

// across returns the x coordinate of a time.
func across(milliseconds int64, at box) float64 {
	return at.x + at.width*float64(milliseconds-begin.UnixMilli())/float64((steps*step).Milliseconds())
}

func colour(i int) string { return palette[i%len(palette)] }

// name returns the name of a series in the legend.
func name(p panel, metric labels.Labels) string {
	label := p.legend
	metric.Range(func(l labels.Label) { label = strings.ReplaceAll(label, "{{"+l.Name+"}}", l.Value) })
	return label
}

// format formats a value as Grafana does.
func (u unit) format(value float64) string {
	switch u {
	case duration:
		return fmt.Sprintf("%.0f days", value/86400)
	case seconds:
		return fmt.Sprintf("%.3g ms", value*1000)
	default:
		return fmt.Sprintf("%.3g", value)
	}
}
