package main

// row is a row of the dashboard.
type row struct {
	title  string
	height int
	panels []panel
}

// panel shows one query.
type panel struct {
	title, about string
	kind         kind
	unit         unit
	// width is in columns, of which there are 24.
	width int
	query string
	// legend names a series by its labels, in Grafana's notation.
	legend string
	// alarming is the value from which on values are alarming; 0 means none are.
	alarming float64
}

// kind is how values are displayed.
type kind int

const (
	// number is the last value.
	number kind = iota
	// lines are values over time; stacked are lines that add up.
	lines
	stacked
	// spans are the times at which there is a value.
	spans
)

// unit is the unit of the values, in Grafana's terms.
type unit string

const (
	count    unit = "short"
	seconds  unit = "s"
	duration unit = "dtdurations"
)

// rows are the rows of the dashboard. Each query takes the sum or the maximum over the replicas,
// because the leader changes.
var rows = []row{
	{title: "At a glance", height: 4, panels: []panel{
		{
			title: "First CA expires in", unit: duration, width: 4,
			query: `min(max by (serviceca) (servingcert_serviceca_not_after_timestamp_seconds)) - time()`,
		},
		{
			title: "First certificate expires in", unit: duration, width: 4,
			query: `min(servingcert_policy_earliest_expiry_timestamp_seconds) - time()`,
		},
		{
			title: "Services with a certificate", unit: count, width: 4,
			query: `sum(max by (policy) (servingcert_policy_services{state="issued"}))`,
		},
		{
			title: "Services without", about: "status.failures of the policies says which, and why.", unit: count, width: 4, alarming: 1,
			query: `sum(max by (policy, state) (servingcert_policy_services{state=~"pending|failed"}))`,
		},
		{
			title: "Targets with an old bundle", unit: count, width: 4, alarming: 1,
			query: `sum(max by (serviceca, state) (servingcert_serviceca_targets{state!="current"}))`,
		},
		{
			title: "Workloads to restart", unit: count, width: 4,
			query: `sum(max by (policy, state) (servingcert_policy_restarts{state=~"pending|rolling|blocked|in_progress|overdue"}))`,
		},
	}},
	{title: "Trust", height: 7, panels: []panel{
		{
			title: "Phase of the rotation", about: "Retiring lasts until no certificate of the CA before can be alive.", kind: spans, width: 8,
			query: `max by (serviceca, phase) (servingcert_serviceca_phase) == 1`, legend: "{{serviceca}}: {{phase}}",
		},
		{
			title: "Certificates, by who signed them", kind: stacked, unit: count, width: 8,
			query: `sum by (generation) (max by (serviceca, generation) (servingcert_serviceca_certificates))`, legend: "{{generation}}",
		},
		{
			title: "Targets of the bundle", about: "Blocked ones wait for their owners.", kind: stacked, unit: count, width: 8,
			query: `sum by (state) (max by (serviceca, state) (servingcert_serviceca_targets))`, legend: "{{state}}",
		},
	}},
	{title: "Certificates", height: 7, panels: []panel{
		{
			title: "Services, by state", kind: stacked, unit: count, width: 8,
			query: `sum by (state) (max by (policy, state) (servingcert_policy_services))`, legend: "{{state}}",
		},
		{
			title: "Certificates signed in an hour", kind: lines, unit: count, width: 8,
			query: `sum by (reason) (increase(servingcert_certificates_signed_total[1h]))`, legend: "{{reason}}",
		},
		{
			title: "Signing takes, at the 99th percentile", kind: lines, unit: seconds, width: 8,
			query: `histogram_quantile(0.99, sum by (controller, le) (rate(servingcert_signing_duration_seconds_bucket[1h])))`, legend: "{{controller}}",
		},
	}},
	{title: "Restarts, and the operator itself", height: 7, panels: []panel{
		{
			title: "Workloads that hold something old", kind: stacked, unit: count, width: 8,
			query: `sum by (state) (max by (policy, state) (servingcert_policy_restarts))`, legend: "{{state}}",
		},
		{
			title: "Errors in an hour", about: "Of single attempts: what fails is tried again.", kind: lines, unit: count, width: 8,
			query: `sum by (controller) (increase(controller_runtime_reconcile_errors_total{job="servingcert-metrics"}[1h]))`, legend: "{{controller}}",
		},
		{
			title: "Waiting for their turn", kind: lines, unit: count, width: 8,
			query: `sum by (controller) (workqueue_depth{job="servingcert-metrics"})`, legend: "{{controller}}",
		},
	}},
}
