package restart

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"k8s.io/utils/lru"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Late describes the condition RestartTooLate: whether an object that the workloads of a policy
// hold expires before a window allows their restart.
type Late struct {
	Is              bool
	Reason, Message string
}

// tooLate reports whether an object that the workload holds expires before the next window opens.
func (p *plan) tooLate(item *workloadState) bool {
	return p.windowClosed && !item.expires.IsZero() && (p.windowOpensAt.IsZero() || item.expires.Before(p.windowOpensAt))
}

// awaitsWindow reports whether the workload is not restarted before the next window opens.
func (p *plan) awaitsWindow(item *workloadState) bool {
	return p.windowClosed && (p.policy.Spec.Restart.OutsideWindows == v1alpha1.RestartOutsideNever || !p.tooLate(item))
}

// exempt returns the pending workloads that may be restarted although no window is open, and the
// others.
func (p *plan) exempt() (exempt, others []*workloadState) {
	for _, item := range p.byState[pending] {
		if p.windowClosed && !p.awaitsWindow(item) {
			exempt = append(exempt, item)
		} else {
			others = append(others, item)
		}
	}
	return exempt, others
}

// expiry returns the part of a message on a workload that names the object that expires before the
// next window opens; empty if none does.
func (p *plan) expiry(item *workloadState) string {
	if !p.tooLate(item) {
		return ""
	}
	return ", after " + item.holds()
}

// holds returns the part of a message that names what the workload holds and when it expires.
func (i *workloadState) holds() string {
	what := "certificate"
	if i.expiring.reason == v1alpha1.RestartOnTrustChanged {
		what = "bundle"
	}
	return fmt.Sprintf("the %s that %s holds ends (%s)", what, i, i.expires.UTC().Format(time.RFC3339))
}

// isLate returns the condition for what expires before a window opens. If nothing does, it reports
// whether the windows are too rare.
func (p *plan) isLate(now time.Time) Late {
	if !p.restarts() || p.windowError != nil || len(p.windows) == 0 {
		return Late{Reason: "NoWindows", Message: "no restart waits for a window"}
	}
	if first := p.firstTooLate(); first != nil {
		opens := "no window ever opens"
		if !p.windowOpensAt.IsZero() {
			opens = "the next window opens " + p.windowOpensAt.UTC().Format(time.RFC3339)
		}
		return Late{Is: true, Reason: "ExpiresBeforeWindow", Message: opens + ", after " + first.holds() +
			": restart it by hand, open a window before, or set spec.restart.outsideWindows to WhenExpiring"}
	}
	return p.windowsTooRare(now)
}

// firstTooLate returns the pending workload that holds what expires first of all that expire before
// a window opens; nil if there is none.
func (p *plan) firstTooLate() *workloadState {
	var first *workloadState
	for _, item := range p.byState[pending] {
		if !p.awaitsWindow(item) || !p.tooLate(item) {
			continue
		}
		if first == nil || item.expires.Before(first.expires) || (item.expires.Equal(first.expires) && item.String() < first.String()) {
			first = item
		}
	}
	return first
}

// windowsTooRare reports whether a certificate that is renewed just after a window has closed
// expires before the next window opens.
func (p *plan) windowsTooRare(now time.Time) Late {
	gap, before := p.longestGap(now), renewBefore(p.policy)
	closed := "for up to " + hours(gap)
	switch {
	case gap <= before || !slices.Contains(p.policy.Spec.Restart.Triggers, v1alpha1.RestartOnCertificateRenewed):
		return Late{Reason: "InTime", Message: "a window opens between the renewal of a certificate and its end"}
	case gap == math.MaxInt64:
		closed = "for ever"
	}
	message := fmt.Sprintf("spec.restart.windows are closed %s, and a certificate ends %s after its renewal is due: ", closed, hours(before))
	if p.policy.Spec.Restart.OutsideWindows == v1alpha1.RestartOutsideNever {
		return Late{Is: true, Reason: "WindowsTooRare", Message: message + "a workload may hold an expired one until a window opens; open windows more often, " +
			"renew earlier (spec.certificate.renewBefore), or set spec.restart.outsideWindows to WhenExpiring"}
	}
	return Late{Reason: "RestartsOutsideWindows", Message: message + "a workload that holds one is restarted outside the windows"}
}

// gaps caches the longest gap of each list of windows: computing it takes milliseconds, and it
// hardly ever changes.
var gaps = lru.New(256)

// longestGap returns the longest time for which the windows of the policy are closed.
func (p *plan) longestGap(now time.Time) time.Duration {
	windows := fmt.Sprint(p.policy.Spec.Restart.Windows)
	if known, ok := gaps.Get(windows); ok {
		gap, _ := known.(time.Duration)
		return gap
	}
	gap := p.windows.LongestGap(now)
	gaps.Add(windows, gap)
	return gap
}

// hours formats a duration without the units that are zero.
func hours(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
