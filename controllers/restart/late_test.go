package restart

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// daily returns a policy whose next window opens at 2071-03-15T02:00:00Z, and then each day.
func daily(outside v1alpha1.RestartOutsideWindows, edits ...func(*v1alpha1.Restart)) *v1alpha1.ServingCertPolicy {
	return windowed("0 2 * * *", outside, edits...)
}

func windowed(schedule string, outside v1alpha1.RestartOutsideWindows, edits ...func(*v1alpha1.Restart)) *v1alpha1.ServingCertPolicy {
	p := rollingPolicy(append(edits, func(r *v1alpha1.Restart) {
		r.Windows = []v1alpha1.RestartWindow{{Schedule: schedule, Duration: "1h", TimeZone: "UTC"}}
		r.OutsideWindows = outside
	})...)
	p.Spec.Certificate.Duration = "2160h"
	return p
}

// expiring returns a workload that does not know of a change and holds an object that expires after
// the given time.
func expiring(name string, what change, after time.Duration, edits ...func(*appsv1.Deployment)) *workloadState {
	item := stale(deployment(name, edits...), what)
	item.expires, item.expiring = now.Add(after), &item.pendingChanges[0]
	return item
}

// A workload whose certificate or bundle expires before the next window opens, in less than eleven
// hours, is restarted outside the windows in its turn, unless the policy forbids it. The status
// reports either case, and windows that are too rare.
func TestOutsideWindows(t *testing.T) {
	t.Parallel()
	const never, expires = v1alpha1.RestartOutsideNever, v1alpha1.RestartOutsideWhenExpiring
	web := func(after time.Duration, edits ...func(*appsv1.Deployment)) *workloadState {
		return expiring("web", renewed(time.Hour), after, edits...)
	}
	unknown := stale(deployment("web"), renewed(time.Hour))
	trustOnly := func(r *v1alpha1.Restart) { r.Triggers = []v1alpha1.RestartReason{v1alpha1.RestartOnTrustChanged} }
	short := daily(never)
	short.Spec.Certificate.RenewBefore = new(v1alpha1.Duration("22h59m"))
	for name, tc := range map[string]struct {
		policy  *v1alpha1.ServingCertPolicy
		items   []*workloadState
		begin   string
		is      bool
		reason  string
		message string
	}{
		"it expires later":            {daily(expires), []*workloadState{web(11 * time.Hour)}, "", false, "InTime", ""},
		"it expires before":           {daily(expires), []*workloadState{web(10 * time.Hour)}, "web", false, "InTime", ""},
		"it has expired":              {daily(expires), []*workloadState{web(-time.Hour)}, "web", false, "InTime", ""},
		"when it does is not known":   {daily(expires), []*workloadState{unknown}, "", false, "InTime", ""},
		"no window ever opens":        {windowed("0 0 31 2 *", expires), []*workloadState{web(9000 * time.Hour)}, "web", false, "RestartsOutsideWindows", "closed for ever"},
		"only in its turn":            {daily(expires), []*workloadState{web(-time.Hour), expiring("a", renewed(2*time.Hour), 0)}, "a", false, "InTime", ""},
		"reasons gather":              {daily(expires), []*workloadState{expiring("web", renewed(time.Second), 0)}, "", false, "InTime", ""},
		"another failed":              {daily(expires), []*workloadState{web(-time.Hour), marked(stale(deployment("a", stuck), renewed(time.Hour)), time.Minute, "")}, "", false, "InTime", ""},
		"never, and it expires later": {daily(never), []*workloadState{web(11 * time.Hour)}, "", false, "InTime", ""},
		"never, and it expires before": {daily(never), []*workloadState{web(10 * time.Hour), expiring("a", renewed(time.Hour), 11*time.Hour)}, "", true, "ExpiresBeforeWindow",
			"the next window opens 2071-03-15T02:00:00Z, after the certificate that Deployment shop/web holds ends (2071-03-15T01:09:26Z): "},
		"never, and a bundle does": {daily(never), []*workloadState{web(10 * time.Hour), expiring("a", trusts(time.Hour), time.Hour)}, "", true, "ExpiresBeforeWindow",
			"after the bundle that Deployment shop/a holds ends (2071-03-14T16:09:26Z): "},
		"never, and no window ever opens": {windowed("0 0 31 2 *", never), []*workloadState{web(time.Hour)}, "", true, "ExpiresBeforeWindow",
			"no window ever opens, after the certificate"},
		"never, and it opted out": {daily(never), []*workloadState{web(time.Hour, func(d *appsv1.Deployment) {
			d.Annotations = map[string]string{v1alpha1.AnnotationRestart: "false"}
		})}, "", false, "InTime", ""},
		"monthly, at once": {windowed("0 2 1 * *", never), nil, "", true, "WindowsTooRare",
			"spec.restart.windows are closed for up to 743h, and a certificate ends 720h after its renewal is due: "},
		"monthly, outside the windows": {windowed("0 2 1 * *", expires), nil, "", false, "RestartsOutsideWindows", "closed for up to 743h"},
		"monthly, for trust alone":     {windowed("0 2 1 * *", never, trustOnly), nil, "", false, "InTime", ""},
		"daily, renewed too late":      {short, nil, "", true, "WindowsTooRare", "closed for up to 23h, and a certificate ends 22h59m after"},
		"nothing is restarted":         {windowed("0 2 1 * *", never, func(r *v1alpha1.Restart) { r.Strategy = v1alpha1.RestartNone }), []*workloadState{web(-1)}, "", false, "NoWindows", ""},
		"at any time":                  {rollingPolicy(), []*workloadState{web(-1)}, "web", false, "NoWindows", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := planFor(now, tc.policy, tc.items)
			if got := namesOf(p.begin); got != tc.begin {
				t.Errorf("it is the turn of %q, want %q", got, tc.begin)
			}
			if late := p.report().Late; late.Is != tc.is || late.Reason != tc.reason || !strings.Contains(late.Message, tc.message) {
				t.Errorf("it says %+v, want %s %q", late, tc.reason, tc.message)
			}
		})
	}
}

// A rotation waits for a server that is restarted outside the windows, and the status reports that.
func TestOutsideWindowsIsReported(t *testing.T) {
	t.Parallel()
	for outside, want := range map[v1alpha1.RestartOutsideWindows]struct {
		held            int32
		sum, ofWorkload string
	}{
		v1alpha1.RestartOutsideNever: {1, "1 wait for their turn, from 2071-03-15T02:00:00Z: Deployment shop/web",
			"it waits for a window, which opens 2071-03-15T02:00:00Z, after the certificate that Deployment shop/web holds ends (2071-03-14T16:09:26Z)"},
		v1alpha1.RestartOutsideWhenExpiring: {0, "1 wait for their turn outside the windows, for what they hold expires before the next one opens: Deployment shop/web",
			"it waits for its turn outside the windows, which would open after the certificate that Deployment shop/web holds ends (2071-03-14T16:09:26Z)"},
	} {
		p, restarts := planFor(now, daily(outside), []*workloadState{expiring("web", renewed(time.Hour), time.Hour)}), map[string]rotation.Restarts{}
		p.addRotationRestarts(restarts)
		if got := restarts["default"]; got.Servers != 1 || got.HeldServers != want.held {
			t.Errorf("%s: the rotation waits for %+v", outside, got)
		}
		if report := p.report(); report.Message != want.sum || report.Counts.Workloads[0].Message != want.ofWorkload {
			t.Errorf("%s: it says %q, and of the workload %q", outside, report.Message, report.Counts.Workloads[0].Message)
		}
	}
}
