package servingcertpolicy

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/restart"
)

// now is far in the future, so that a stray time.Now() makes a test fail, and has a fraction of a
// second.
var now = time.Date(2071, time.March, 14, 15, 9, 26, 535897932, time.UTC)

func service(namespace, name, reported string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if reported != "" {
		s.Annotations = map[string]string{v1alpha1.AnnotationError: reported}
	}
	return s
}

func newProblem() *issuance.Problem {
	return issuance.NewProblem(issuance.ReasonSecretNotOurs, "left alone")
}

// readyCA returns a ServiceCA with this status of its condition Ready, or without that condition if
// status is empty.
func readyCA(status metav1.ConditionStatus) *v1alpha1.ServiceCA {
	ca := &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if status != "" {
		ca.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: status, Message: "its message"}}
	}
	return ca
}

func newPolicy() *v1alpha1.ServingCertPolicy {
	return &v1alpha1.ServingCertPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "default", Generation: 4}, Spec: v1alpha1.ServingCertPolicySpec{ServiceCAName: "default"},
	}
}

func messageOf(status v1alpha1.ServingCertPolicyStatus, kind string) string {
	condition := meta.FindStatusCondition(status.Conditions, kind)
	if condition == nil {
		return "absent"
	}
	return fmt.Sprintf("%s %s: %s", condition.Status, condition.Reason, condition.Message)
}

// A Service counts as issued while it has a certificate that is still valid, whatever problem it
// has; as failed if a person has to act; and as pending otherwise.
func TestCounts(t *testing.T) {
	t.Parallel()
	later := now.Add(time.Hour)
	for name, tc := range map[string]struct {
		reported string
		plan     issuance.Plan
		want     v1alpha1.ServiceCounts
		message  string
	}{
		"sound":                     {"", issuance.Plan{NotAfter: later}, v1alpha1.ServiceCounts{Matched: 1, Issued: 1}, "True AllServed: all 1 Services are served; the first certificate ends 2071-03-14T16:09:26Z"},
		"none yet":                  {"", issuance.Plan{}, v1alpha1.ServiceCounts{Matched: 1, Pending: 1}, "False Pending: 0 of 1 Services are served, and 1 will be soon"},
		"ended":                     {"", issuance.Plan{NotAfter: now}, v1alpha1.ServiceCounts{Matched: 1, Pending: 1}, "False Pending: "},
		"refused":                   {"", issuance.Plan{Problem: newProblem()}, v1alpha1.ServiceCounts{Matched: 1, Failed: 1}, "False Failures: 0 of 1 Services are served; shop/web: left alone"},
		"told":                      {"SecretRefused: quota", issuance.Plan{}, v1alpha1.ServiceCounts{Matched: 1, Failed: 1}, "False Failures: 0 of 1 Services are served; shop/web: quota"},
		"sound, and told":           {"SecretConflict: wanted", issuance.Plan{NotAfter: later}, v1alpha1.ServiceCounts{Matched: 1, Issued: 1}, "False Failures: 1 of 1 Services are served; shop/web: wanted"},
		"told something of its own": {"nonsense", issuance.Plan{NotAfter: later}, v1alpha1.ServiceCounts{Matched: 1, Issued: 1, Held: 1}, "False Failures: "},
		"sound, and held":           {"SecretRefused: quota", issuance.Plan{NotAfter: later}, v1alpha1.ServiceCounts{Matched: 1, Issued: 1, Held: 1}, "False Failures: 1 of 1 Services are served; shop/web: quota"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			counts := &tally{}
			counts.add(now, service("shop", "web", tc.reported), tc.plan)
			status := counts.status(now, newPolicy(), readyCA(metav1.ConditionTrue))
			if *status.Services != tc.want {
				t.Errorf("the counts are %+v, want %+v", *status.Services, tc.want)
			}
			if got := messageOf(status, v1alpha1.ConditionAllServed); !strings.HasPrefix(got, tc.message) {
				t.Errorf("AllServed is %q, want %q", got, tc.message)
			}
			if got := messageOf(status, v1alpha1.ConditionReady); !strings.HasPrefix(got, "True ") {
				t.Errorf("Ready is %q: what a tenant does is no fault of the policy", got)
			}
			for _, failure := range status.Failures {
				if failure.Reason == "" || failure.Namespace == "" || failure.Service == "" {
					t.Errorf("the API server does not take a failure %+v", failure)
				}
			}
		})
	}
}

// The times are those of the first certificate that is due for renewal and of the first that
// expires.
func TestTimes(t *testing.T) {
	t.Parallel()
	counts := &tally{}
	for _, left := range []time.Duration{5 * time.Hour, 3 * time.Hour, 9 * time.Hour} {
		counts.add(now, service("shop", left.String(), ""), issuance.Plan{NotAfter: now.Add(left), RenewAt: now.Add(10*time.Hour - left)})
	}
	counts.add(now, service("shop", "ends with its CA", ""), issuance.Plan{NotAfter: now.Add(20 * time.Hour)})
	// A renewal that only the owner of the Service can unblock does not count as the next renewal.
	counts.add(now, service("shop", "held", "SecretRefused: quota"), issuance.Plan{NotAfter: now.Add(4 * time.Hour), RenewAt: now.Add(-time.Hour)})
	status := counts.status(now, newPolicy(), readyCA(metav1.ConditionTrue))
	if want := now.Add(3 * time.Hour).Truncate(time.Second); !status.EarliestExpiry.Time.Equal(want) {
		t.Errorf("the earliest expiry is %s, want %s", status.EarliestExpiry, want)
	}
	if want := now.Add(time.Hour).Truncate(time.Second); !status.NextRenewalTime.Time.Equal(want) {
		t.Errorf("the next renewal is %s, want %s", status.NextRenewalTime, want)
	}
	if none := (&tally{}).status(now, newPolicy(), nil); none.EarliestExpiry != nil || none.NextRenewalTime != nil || none.ObservedGeneration != 4 {
		t.Errorf("a policy that serves nobody says %+v", none)
	}
}

// Ready depends only on the policy and its ServiceCA.
func TestReady(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		adjust         func(*v1alpha1.ServingCertPolicy)
		ca             *v1alpha1.ServiceCA
		ready, stalled string
	}{
		"ready":      {nil, readyCA(metav1.ConditionTrue), "True Ready: ServiceCA default signs for this policy", "absent"},
		"no CA":      {nil, nil, "False ServiceCANotFound: there is no ServiceCA default: create it", "absent"},
		"fresh CA":   {nil, readyCA(""), "False ServiceCANotReady: ServiceCA default has no signing key yet", "absent"},
		"CA in need": {nil, readyCA(metav1.ConditionFalse), "False ServiceCANotReady: ServiceCA default: its message", "absent"},
		"no window": {func(p *v1alpha1.ServingCertPolicy) {
			p.Spec.Restart.Windows = []v1alpha1.RestartWindow{{Schedule: "0 2 * * *", Duration: "1h", TimeZone: "Europe/Atlantis"}}
		}, readyCA(metav1.ConditionTrue), "False InvalidWindow: spec.restart.windows[0].timeZone: unknown time zone", "True InvalidWindow: spec.restart.windows[0].timeZone"},
		"no selector": {func(p *v1alpha1.ServingCertPolicy) {
			p.Spec.ServiceSelector.MatchLabels = map[string]string{"no label": ""}
		}, readyCA(metav1.ConditionTrue), "False InvalidSelector: spec.serviceSelector", "True InvalidSelector: spec.serviceSelector"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPolicy()
			if tc.adjust != nil {
				tc.adjust(p)
			}
			status := (&tally{}).status(now, p, tc.ca)
			if got := messageOf(status, v1alpha1.ConditionReady); !strings.HasPrefix(got, tc.ready) {
				t.Errorf("Ready is %q, want %q", got, tc.ready)
			}
			if got := messageOf(status, v1alpha1.ConditionStalled); !strings.HasPrefix(got, tc.stalled) {
				t.Errorf("Stalled is %q, want %q", got, tc.stalled)
			}
		})
	}
}

// At most ten failures are listed, sorted by namespace and name, whatever the order in which they
// were added.
func TestFailures(t *testing.T) {
	t.Parallel()
	counts := &tally{}
	for i := range 20 {
		n := i * 7 % 20
		counts.add(now, service(fmt.Sprintf("ns-%d", n%2), fmt.Sprintf("web-%02d", n), ""), issuance.Plan{Problem: newProblem()})
	}
	status := counts.status(now, newPolicy(), nil)
	if len(status.Failures) != 10 || status.Services.Failed != 20 {
		t.Fatalf("%d failures are listed, and %d counted", len(status.Failures), status.Services.Failed)
	}
	for i, failure := range status.Failures {
		if failure.Namespace != "ns-0" || failure.Service != fmt.Sprintf("web-%02d", 2*i) {
			t.Errorf("failure %d is that of %s/%s", i, failure.Namespace, failure.Service)
		}
	}
	if got := messageOf(status, v1alpha1.ConditionAllServed); !strings.Contains(got, "0 of 20 Services are served; ns-0/web-00: left alone") {
		t.Errorf("AllServed is %q", got)
	}
}

// Policies with the same priority are reported on each other, with the same message whatever the
// order in which they were added.
func TestConflicts(t *testing.T) {
	t.Parallel()
	named := func(name string) *v1alpha1.ServingCertPolicy {
		return &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	if got := messageOf((&tally{}).status(now, newPolicy(), nil), v1alpha1.ConditionConflicted); !strings.HasPrefix(got, "False NoConflict") {
		t.Errorf("Conflicted is %q", got)
	}
	for _, others := range [][]*v1alpha1.ServingCertPolicy{{named("b"), named("c")}, {named("c"), named("b"), named("c")}} {
		counts := &tally{}
		counts.conflict(others...)
		counts.conflict()
		if got := messageOf(counts.status(now, newPolicy(), nil), v1alpha1.ConditionConflicted); !strings.HasPrefix(got, "True SamePriority: policy b has the same priority") {
			t.Errorf("Conflicted is %q", got)
		}
	}
}

// The report on restarts is in the status. Until there is one, the status keeps the previous
// report.
func TestRestarts(t *testing.T) {
	t.Parallel()
	long := metav1.NewTime(now.Add(-time.Hour).Truncate(time.Second))
	before := newPolicy()
	before.Status = (&tally{restarts: &restart.Report{
		Counts: &v1alpha1.RestartCounts{Pending: 3, LastCompletedAt: &long}, Reason: "Restarting", Message: "3 wait for their turn",
	}}).status(now, before, nil)
	if got := messageOf(before.Status, v1alpha1.ConditionRestartHalted); got != "False Restarting: 3 wait for their turn" || before.Status.Restarts.Pending != 3 {
		t.Fatalf("it says %q of %+v", got, before.Status.Restarts)
	}
	unknown := (&tally{}).status(now, before, nil)
	if got := messageOf(unknown, v1alpha1.ConditionRestartHalted); got != "False Restarting: 3 wait for their turn" || !reflect.DeepEqual(unknown.Restarts, before.Status.Restarts) {
		t.Errorf("after a restart of the manager it says %q of %+v", got, unknown.Restarts)
	}
	next := (&tally{restarts: &restart.Report{Counts: &v1alpha1.RestartCounts{}, Halted: true, Reason: "RolloutFailed", Message: "web"}}).status(now, before, nil)
	if got := messageOf(next, v1alpha1.ConditionRestartHalted); got != "True RolloutFailed: web" || next.Restarts.Pending != 0 || !next.Restarts.LastCompletedAt.Equal(&long) {
		t.Errorf("it says %q of %+v, and forgot when a restart was completed", got, next.Restarts)
	}
	earlier := metav1.NewTime(long.Add(-time.Minute))
	again := (&tally{restarts: &restart.Report{Counts: &v1alpha1.RestartCounts{LastCompletedAt: &earlier}}}).status(now, before, nil)
	if !again.Restarts.LastCompletedAt.Equal(&long) {
		t.Errorf("a new manager knows no better when a restart was completed, and it says %s", again.Restarts.LastCompletedAt)
	}
	if blind := (&tally{restarts: &restart.Report{Halted: true, Reason: "NotPermitted", Message: "no"}}).status(now, before, nil); blind.Restarts != nil {
		t.Errorf("nobody may look, and it says %+v", blind.Restarts)
	}
	if fresh := (&tally{}).status(now, newPolicy(), nil); fresh.Restarts != nil || messageOf(fresh, v1alpha1.ConditionRestartHalted) != "absent" {
		t.Errorf("nobody has looked, and it says %+v", fresh)
	}
}
