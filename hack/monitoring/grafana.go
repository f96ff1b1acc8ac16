package main

import (
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// source is the Prometheus that the dashboard's user selects.
var source = common.DataSourceRef{Type: new("prometheus"), Uid: new("${datasource}")}

// The legend is below the graph, or hidden where the names are beside the graph anyway.
var (
	below  = common.NewVizLegendOptionsBuilder().ShowLegend(true).DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom)
	hidden = common.NewVizLegendOptionsBuilder().ShowLegend(false).DisplayMode(common.LegendDisplayModeHidden).Placement(common.LegendPlacementBottom)
)

// grafana returns the dashboard in Grafana's format.
//
//nolint:staticcheck // every Grafana loads this schema from a ConfigMap, and only new ones its successor
func grafana(rows []row) (dashboard.Dashboard, error) {
	builder := dashboard.NewDashboardBuilder("servingcert").
		Uid("servingcert").
		Tags([]string{"servingcert", "certificates"}).
		Time("now-7d", "now").
		Refresh("1m").
		Link(dashboard.NewDashboardLinkBuilder("What to do").Url("https://github.com/servingcert/operator/blob/main/docs/metrics.md")).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Type("prometheus").Label("Prometheus"))
	id := uint32(0)
	for _, r := range rows {
		id++
		builder.WithRow(dashboard.NewRowBuilder(r.title).Id(id))
		for _, p := range r.panels {
			id++
			builder.WithPanel(p.build(id, uint32(r.height)))
		}
	}
	return builder.Build()
}

func (p panel) build(id, height uint32) cog.Builder[dashboard.Panel] {
	query := prometheus.NewDataqueryBuilder().Expr(p.query).LegendFormat(p.legend).RefId("A")
	switch p.kind {
	case number:
		return stat.NewPanelBuilder().Id(id).Title(p.title).Description(p.about).Unit(string(p.unit)).Span(uint32(p.width)).Height(height).
			Datasource(source).Thresholds(p.thresholds()).WithTarget(query.Instant()).
			Orientation(common.VizOrientationAuto).GraphMode(common.BigValueGraphModeNone).
			ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"}))
	case spans:
		return statetimeline.NewPanelBuilder().Id(id).Title(p.title).Description(p.about).Span(uint32(p.width)).Height(height).
			Datasource(source).ShowValue(common.VisibilityModeNever).Legend(hidden).WithTarget(query.Range())
	default:
		built := timeseries.NewPanelBuilder().Id(id).Title(p.title).Description(p.about).Unit(string(p.unit)).Span(uint32(p.width)).Height(height).
			Datasource(source).Min(0).Legend(below).WithTarget(query.Range())
		if p.kind == stacked {
			built.FillOpacity(60).Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal))
		}
		return built
	}
}

func (p panel) thresholds() cog.Builder[dashboard.ThresholdsConfig] {
	steps := []dashboard.Threshold{{Color: "green"}}
	if p.alarming > 0 {
		steps = append(steps, dashboard.Threshold{Value: &p.alarming, Color: "red"})
	}
	return dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).Steps(steps)
}
