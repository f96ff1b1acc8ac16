package restart

import (
	"slices"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// hold adds the workloads that a rotation waits for: those that the policy restarts, or that roll for another reason.
func (p *plan) hold(waits map[string]rotation.Restarts) {
	if !p.restarts() || p.invalid != nil {
		return
	}
	for _, waiting := range []state{pending, rolling, restarting, overdue, failed} {
		for _, one := range p.byState[waiting] {
			later := p.halts != nil || (waiting == pending && p.awaitsWindow(one))
			if (waiting == failed && p.halts == nil) || (waiting == pending && one.rollout.missed) {
				continue
			}
			for ca, reasons := range reasonsByCA(one) {
				counted := waits[ca]
				count(&counted, one.String(), reasons, later)
				waits[ca] = counted
			}
		}
	}
}

func reasonsByCA(one *item) map[string][]v1alpha1.RestartReason {
	found := map[string][]v1alpha1.RestartReason{}
	concerned := one.unknown
	if one.turn != nil {
		concerned = one.changes
	}
	for _, c := range concerned {
		if !slices.Contains(found[c.of], c.reason) {
			found[c.of] = append(found[c.of], c.reason)
		}
	}
	return found
}

func count(counted *rotation.Restarts, name string, reasons []v1alpha1.RestartReason, later bool) {
	for _, reason := range reasons {
		if reason == v1alpha1.RestartOnTrustChanged {
			counted.Clients++
			counted.ClientNames = some(counted.ClientNames, name)
		} else {
			counted.Servers++
			counted.ServerNames = some(counted.ServerNames, name)
			if later {
				counted.HeldServers++
			}
		}
	}
}
