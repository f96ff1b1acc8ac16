package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// row is one value.
type row struct {
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"`
	// Grows is set for a value that should not grow faster than the number of Services.
	Grows bool `json:"-"`
}

// rows are the values of one cluster, in the order of their measurement.
type rows []row

func (r *rows) add(what string, value float64, unit string) {
	r.put(row{What: what, Value: value, Unit: unit})
}

// growing adds a value that the drawing shows.
func (r *rows) growing(what string, value float64, unit string) {
	r.put(row{What: what, Value: value, Unit: unit, Grows: true})
}

func (r *rows) put(added row) {
	if slices.ContainsFunc(*r, func(before row) bool { return before.What == added.What }) {
		panic("there are two numbers called " + added.What)
	}
	*r = append(*r, added)
	fmt.Fprintf(os.Stderr, "  %s: %.3g %s\n", added.What, added.Value, added.Unit)
}

// column is one cluster.
type column struct {
	Services int  `json:"services"`
	Rows     rows `json:"rows"`
}

// table has a column for each cluster, the largest last.
type table []column

// value returns a value of a cluster; false if it was not measured there.
func (c column) value(what string) (float64, bool) {
	for _, r := range c.Rows {
		if r.What == what {
			return r.Value, true
		}
	}
	return 0, false
}

func (t table) print(to io.Writer) error {
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprint(out, "Services\t")
	for _, c := range t {
		fmt.Fprintf(out, "%d\t", c.Services)
	}
	fmt.Fprintln(out)
	for _, r := range t[len(t)-1].Rows {
		fmt.Fprintf(out, "%s\t", r.What)
		for _, c := range t {
			if value, taken := c.value(r.What); taken {
				fmt.Fprintf(out, "%.4g", value)
			}
			fmt.Fprint(out, "\t")
		}
		fmt.Fprintf(out, "%s\n", r.Unit)
	}
	return out.Flush()
}

// The drawing has a panel for each value that may grow.
const (
	panelWidth, panelHeight, panelsInRow, margin = 360, 170, 2, 40
)

// draw returns an SVG of the growth: both axes are logarithmic, and the thin line is proportional
// growth with the number of Services.
func (t table) draw() []byte {
	var panels []row
	for _, r := range t[len(t)-1].Rows {
		if r.Grows {
			panels = append(panels, r)
		}
	}
	lines := (len(panels) + panelsInRow - 1) / panelsInRow
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n",
		panelsInRow*panelWidth, lines*panelHeight)
	fmt.Fprintln(&out, `<rect width="100%" height="100%" fill="white"/>`)
	for i, r := range panels {
		fmt.Fprintf(&out, `<g transform="translate(%d,%d)">`+"\n", i%panelsInRow*panelWidth, i/panelsInRow*panelHeight)
		t.panel(&out, r)
		fmt.Fprintln(&out, `</g>`)
	}
	fmt.Fprintln(&out, `</svg>`)
	return out.Bytes()
}

func (t table) panel(out io.Writer, r row) {
	first, last := t[0], t[len(t)-1]
	lowest, highest := math.Inf(1), math.Inf(-1)
	for _, c := range t {
		if value, taken := c.value(r.What); taken && value > 0 {
			lowest, highest = min(lowest, value), max(highest, value)
		}
	}
	// The axes have the same scale, so that a value that grows in proportion to the Services rises by
	// 45 degrees.
	decades := max(1, math.Log10(float64(last.Services)/float64(first.Services)))
	middle := (math.Log10(lowest) + math.Log10(highest)) / 2
	x := func(services int) float64 {
		return margin + math.Log10(float64(services)/float64(first.Services))/decades*(panelWidth-2*margin)
	}
	y := func(value float64) float64 {
		return panelHeight/2 - (math.Log10(value)-middle)/decades*(panelHeight-2*margin)
	}
	what, detail, _ := strings.Cut(r.What, ", ")
	fmt.Fprintf(out, `<text x="%d" y="14" font-weight="bold">%s</text><text x="%d" y="28">%s</text>`+"\n", margin/4, what, margin/4, detail)
	from := lowest
	fmt.Fprintf(out, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#ccc"/>`+"\n",
		x(first.Services), y(from), x(last.Services), y(from*float64(last.Services)/float64(first.Services)))
	fmt.Fprint(out, `<polyline fill="none" stroke="#326ce5" stroke-width="2" points="`)
	for _, c := range t {
		if value, taken := c.value(r.What); taken && value > 0 {
			fmt.Fprintf(out, "%.1f,%.1f ", x(c.Services), y(value))
		}
	}
	fmt.Fprintln(out, `"/>`)
	for _, c := range t {
		if value, taken := c.value(r.What); taken && value > 0 {
			fmt.Fprintf(out, `<circle cx="%.1f" cy="%.1f" r="3" fill="#326ce5"/><text x="%.1f" y="%.1f" text-anchor="middle">%.3g %s</text>`+"\n",
				x(c.Services), y(value), x(c.Services), y(value)-7, value, r.Unit)
		}
		fmt.Fprintf(out, `<text x="%.1f" y="%d" text-anchor="middle" fill="#777">%d</text>`+"\n", x(c.Services), panelHeight-6, c.Services)
	}
}
