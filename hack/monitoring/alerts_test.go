package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"
)

var component = filepath.Join("..", "..", "config", "components", "metrics")

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// manifest parses a manifest of the component into the type of prometheus-operator; a field that
// the type does not have is an error.
func manifest[T any](t *testing.T, name string) T {
	t.Helper()
	var object T
	if err := yaml.UnmarshalStrict(read(t, component, name), &object); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return object
}

func alerts(t *testing.T) []monitoringv1.Rule {
	t.Helper()
	var rules []monitoringv1.Rule
	for _, group := range manifest[monitoringv1.PrometheusRule](t, "prometheusrule.yaml").Spec.Groups {
		rules = append(rules, group.Rules...)
	}
	return rules
}

// promtool confirms that the alerts fire when they should, and only then.
func TestAlerts(t *testing.T) {
	folder := t.TempDir()
	rules, err := yaml.Marshal(manifest[monitoringv1.PrometheusRule](t, "prometheusrule.yaml").Spec)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"rules.yaml": rules, "alerts_test.yaml": read(t, "alerts_test.yaml")} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	promtool := filepath.Join(folder, "promtool")
	for _, command := range [][]string{
		// Without service discovery, which is most of promtool.
		{"go", "build", "-tags=remove_all_sd", "-o", promtool, "github.com/prometheus/prometheus/cmd/promtool"},
		{promtool, "check", "rules", "--lint=all", "--lint-fatal", filepath.Join(folder, "rules.yaml")},
		{promtool, "test", "rules", filepath.Join(folder, "alerts_test.yaml")},
	} {
		if printed, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, printed)
		}
	}
}

// Each alert has a case in which it fires, and one in which it does not.
func TestEveryAlertIsTestedBothWays(t *testing.T) {
	var cases struct {
		Tests []struct {
			Cases []struct {
				Alert    string           `json:"alertname"`
				Expected []map[string]any `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		} `json:"tests"`
	}
	if err := yaml.Unmarshal(read(t, "alerts_test.yaml"), &cases); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range cases.Tests {
		for _, one := range test.Cases {
			fires[one.Alert] = fires[one.Alert] || len(one.Expected) > 0
			silent[one.Alert] = silent[one.Alert] || len(one.Expected) == 0
		}
	}
	for _, alert := range alerts(t) {
		if !fires[alert.Alert] || !silent[alert.Alert] {
			t.Errorf("%s fires in a test: %t; does not fire in one: %t", alert.Alert, fires[alert.Alert], silent[alert.Alert])
		}
	}
}

// Each alert says what is wrong, and links to the runbook that says what to do.
func TestEveryAlertTellsWhatToDo(t *testing.T) {
	page := string(read(t, "..", "..", "docs", "metrics.md"))
	for _, alert := range alerts(t) {
		if alert.Annotations["summary"] == "" || alert.Annotations["description"] == "" {
			t.Errorf("%s has no summary or description", alert.Alert)
		}
		want := "https://github.com/servingcert/operator/blob/main/docs/metrics.md#" + strings.ToLower(alert.Alert)
		if got := alert.Annotations["runbook_url"]; got != want || !strings.Contains(page, "\n### "+alert.Alert+"\n") {
			t.Errorf("%s leads to %s; docs/metrics.md should have a chapter of its name, and the link be %s", alert.Alert, got, want)
		}
		row := regexp.MustCompile(`\| \[` + alert.Alert + `\]\(#\w+\) \| (\w+) \|`).FindStringSubmatch(page)
		if len(row) != 2 || row[1] != alert.Labels["severity"] {
			t.Errorf("%s is %s, and docs/metrics.md says %q", alert.Alert, alert.Labels["severity"], row)
		}
	}
}

// The ServiceMonitor scrapes the Service under the name in its certificate, and trusts the bundle
// that is injected into the ConfigMap.
func TestServiceMonitor(t *testing.T) {
	monitor := manifest[monitoringv1.ServiceMonitor](t, "servicemonitor.yaml")
	var service, trust struct {
		Metadata struct {
			Name, Namespace     string
			Labels, Annotations map[string]string
		}
		Spec struct{ Ports []struct{ Name string } }
	}
	for name, into := range map[string]any{"service.yaml": &service, "trust.yaml": &trust} {
		if err := yaml.Unmarshal(read(t, component, name), into); err != nil {
			t.Fatal(err)
		}
	}
	endpoint := monitor.Spec.Endpoints[0]
	if want := service.Metadata.Name + "." + service.Metadata.Namespace + ".svc"; *endpoint.TLSConfig.ServerName != want {
		t.Errorf("it verifies %s, and the certificate is for %s", *endpoint.TLSConfig.ServerName, want)
	}
	if from := endpoint.TLSConfig.CA.ConfigMap; from.Name != trust.Metadata.Name || from.Key != "service-ca.crt" {
		t.Errorf("it trusts %v", from)
	}
	if endpoint.Port != service.Spec.Ports[0].Name {
		t.Errorf("it scrapes port %s of %v", endpoint.Port, service.Spec.Ports)
	}
	// Prometheus uses the name of the Service as the job, unless the ServiceMonitor names a label
	// for it. The dashboard selects that job.
	if want := `job="` + service.Metadata.Name + `"`; monitor.Spec.JobLabel != "" || !strings.Contains(string(read(t, "panels.go")), want) {
		t.Errorf("the dashboard does not ask for %s; jobLabel: %q", want, monitor.Spec.JobLabel)
	}
	for label, value := range monitor.Spec.Selector.MatchLabels {
		if service.Metadata.Labels[label] != value {
			t.Errorf("it selects by %s=%s, and the Service has %v", label, value, service.Metadata.Labels)
		}
	}
}
