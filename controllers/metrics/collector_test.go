package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// fakeCache is a cache that holds these objects.
type fakeCache struct {
	client.Reader
	cas      []v1alpha1.ServiceCA
	policies []v1alpha1.ServingCertPolicy
	err      error
}

func (f fakeCache) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	switch list := list.(type) {
	case *v1alpha1.ServiceCAList:
		list.Items = f.cas
	case *v1alpha1.ServingCertPolicyList:
		list.Items = f.policies
	}
	return f.err
}

func at(seconds int64) metav1.Time { return metav1.NewTime(time.Unix(seconds, 0)) }

// full returns a cache of objects with every field of the status set.
func full() fakeCache {
	rotating := v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "corp"}, Status: v1alpha1.ServiceCAStatus{
		Conditions: []metav1.Condition{{Type: "Ready", Status: metav1.ConditionTrue}, {Type: "ExpiringSoon", Status: metav1.ConditionFalse}},
		Active:     &v1alpha1.CAGeneration{NotAfter: at(2000000000), Certificates: new(int32(7))},
		Next:       &v1alpha1.CAGeneration{NotAfter: at(2100000000), Certificates: new(int32(0))},
		Previous:   []v1alpha1.CAGeneration{{Certificates: new(int32(2))}, {Certificates: new(int32(1))}, {}},
		Rotation: &v1alpha1.RotationStatus{
			Phase: v1alpha1.PhasePropagating, Reason: v1alpha1.RotationCompromise,
			LastTransitionTime: new(at(1900000000)), BlockedBy: []string{"this", "that"},
		},
		TrustBundle:      &v1alpha1.TrustBundleStatus{Certificates: 4, Targets: 9, CurrentTargets: 5, BlockedTargets: 1},
		NextRotationTime: new(at(1950000000)),
	}}
	policy := v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Status: v1alpha1.ServingCertPolicyStatus{
		Conditions:      []metav1.Condition{{Type: "RestartHalted", Status: metav1.ConditionTrue}},
		Services:        &v1alpha1.ServiceCounts{Matched: 6, Issued: 3, Pending: 2, Failed: 1, Held: 1},
		EarliestExpiry:  new(at(1800000000)),
		NextRenewalTime: new(at(1700000000)),
		Restarts:        &v1alpha1.RestartCounts{Pending: 15, Rolling: 5, Blocked: 6, InProgress: 10, Overdue: 7, Failed: 2, OptedOut: 1},
	}}
	return fakeCache{cas: []v1alpha1.ServiceCA{rotating}, policies: []v1alpha1.ServingCertPolicy{policy}}
}

// The metrics match the statuses.
func TestStatuses(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		`servingcert_serviceca_condition{condition="ExpiringSoon",serviceca="corp"}`:  "0",
		`servingcert_serviceca_condition{condition="Ready",serviceca="corp"}`:         "1",
		`servingcert_serviceca_not_after_timestamp_seconds{serviceca="corp"}`:         "2e+09",
		`servingcert_serviceca_next_rotation_timestamp_seconds{serviceca="corp"}`:     "1.95e+09",
		`servingcert_serviceca_certificates{generation="active",serviceca="corp"}`:    "7",
		`servingcert_serviceca_certificates{generation="next",serviceca="corp"}`:      "0",
		`servingcert_serviceca_certificates{generation="previous",serviceca="corp"}`:  "3",
		`servingcert_serviceca_bundle_certificates{serviceca="corp"}`:                 "4",
		`servingcert_serviceca_targets{serviceca="corp",state="current"}`:             "5",
		`servingcert_serviceca_targets{serviceca="corp",state="blocked"}`:             "1",
		`servingcert_serviceca_targets{serviceca="corp",state="behind"}`:              "3",
		`servingcert_serviceca_phase{phase="Stable",serviceca="corp"}`:                "0",
		`servingcert_serviceca_phase{phase="Publishing",serviceca="corp"}`:            "0",
		`servingcert_serviceca_phase{phase="Propagating",serviceca="corp"}`:           "1",
		`servingcert_serviceca_phase{phase="Reissuing",serviceca="corp"}`:             "0",
		`servingcert_serviceca_phase{phase="Retiring",serviceca="corp"}`:              "0",
		`servingcert_serviceca_phase_start_timestamp_seconds{serviceca="corp"}`:       "1.9e+09",
		`servingcert_serviceca_rotation_blockers{serviceca="corp"}`:                   "2",
		`servingcert_serviceca_rotation_reason{reason="Compromise",serviceca="corp"}`: "1",
		`servingcert_policy_condition{condition="RestartHalted",policy="web"}`:        "1",
		`servingcert_policy_services{policy="web",state="issued"}`:                    "3",
		`servingcert_policy_services{policy="web",state="pending"}`:                   "2",
		`servingcert_policy_services{policy="web",state="failed"}`:                    "1",
		`servingcert_policy_earliest_expiry_timestamp_seconds{policy="web"}`:          "1.8e+09",
		`servingcert_policy_next_renewal_timestamp_seconds{policy="web"}`:             "1.7e+09",
		`servingcert_policy_restarts{policy="web",state="pending"}`:                   "4",
		`servingcert_policy_restarts{policy="web",state="rolling"}`:                   "5",
		`servingcert_policy_restarts{policy="web",state="blocked"}`:                   "6",
		`servingcert_policy_restarts{policy="web",state="in_progress"}`:               "3",
		`servingcert_policy_restarts{policy="web",state="overdue"}`:                   "7",
		`servingcert_policy_restarts{policy="web",state="failed"}`:                    "2",
		`servingcert_policy_restarts{policy="web",state="opted_out"}`:                 "1",
		`servingcert_policy_held_services{policy="web"}`:                              "1",
	}
	got := scrape(t, full())
	for series, value := range want {
		if got[series] != value {
			t.Errorf("%s is %q, want %s", series, got[series], value)
		}
		delete(got, series)
	}
	if len(got) > 0 {
		t.Errorf("nobody wants %v", got)
	}
}

// scrape returns the value of each series in a scrape.
func scrape(t *testing.T, s fakeCache) map[string]string {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(statusCollector{s})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			t.Fatal(err)
		}
	}
	scraped := map[string]string{}
	for line := range strings.Lines(text.String()) {
		if series, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok && !strings.HasPrefix(line, "#") {
			scraped[series+"}"] = value
		}
	}
	return scraped
}

// A new object without a status, or a deleted one, has no metrics.
func TestNothingToShow(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]fakeCache{
		"new":  {cas: make([]v1alpha1.ServiceCA, 1), policies: make([]v1alpha1.ServingCertPolicy, 1)},
		"gone": {},
	} {
		if scraped := scrape(t, s); len(scraped) > 0 {
			t.Errorf("%s: it shows %v", name, scraped)
		}
	}
}

// A cache that cannot be read makes the scrape fail: that is better than a missing or an outdated
// value.
func TestUnreadableCacheFailsTheScrape(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	registry.MustRegister(statusCollector{fakeCache{err: errors.New("the cache is closed")}})
	if _, err := registry.Gather(); err == nil || !strings.Contains(err.Error(), "the cache is closed") {
		t.Errorf("the scrape says %v", err)
	}
}

// newRegistry returns a registry in which each metric has a value.
func newRegistry(t *testing.T) *prometheus.Registry {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	signing, err := NewSigning(registry)
	if err != nil {
		t.Fatal(err)
	}
	signing.Signed("servingcert", "web", Renewed, 20*time.Millisecond)
	registry.MustRegister(statusCollector{full()})
	return registry
}

func TestSigned(t *testing.T) {
	t.Parallel()
	registry := newRegistry(t)
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP servingcert_certificates_signed_total Certificates that were signed and handed out, by the controller that did it, and why.
# TYPE servingcert_certificates_signed_total counter
servingcert_certificates_signed_total{controller="servingcert",policy="web",reason="Renewed"} 1
`), "servingcert_certificates_signed_total"); err != nil {
		t.Error(err)
	}
}

// The names follow Prometheus's conventions.
func TestLint(t *testing.T) {
	t.Parallel()
	problems, err := testutil.GatherAndLint(newRegistry(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
}

// The table in docs/metrics.md lists each metric with its type and labels, and no others. So every
// label must be added there deliberately: a tenant must not be able to create series.
func TestDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(servingcert_\\w+)` \\| (\\w+) \\| (.*?) \\|").FindAllStringSubmatch(string(page), -1) {
		documented[row[1]] = row[2] + " " + strings.NewReplacer("`", "", ",", "").Replace(row[3])
	}
	families, err := newRegistry(t).Gather()
	if err != nil {
		t.Fatal(err)
	}
	exported := map[string]string{}
	for _, family := range families {
		described := strings.ToLower(family.GetType().String())
		for _, label := range family.GetMetric()[0].GetLabel() {
			described += " " + label.GetName()
		}
		exported[family.GetName()] = described
	}
	for _, name := range slices.Sorted(maps.Keys(exported)) {
		if documented[name] != exported[name] {
			t.Errorf("docs/metrics.md says %q of %s, which is %q", documented[name], name, exported[name])
		}
		delete(documented, name)
	}
	if len(documented) > 0 {
		t.Errorf("docs/metrics.md has metrics that are none: %s", fmt.Sprint(documented))
	}
}
