package restart

import (
	"slices"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// addRotationRestarts adds the workloads that a rotation waits for: those that the policy restarts,
// or that are rolling out for another reason.
func (p *plan) addRotationRestarts(restarts map[string]rotation.Restarts) {
	if !p.restarts() || p.windowError != nil {
		return
	}
	for _, waiting := range []state{pending, rolling, restarting, overdue, failed} {
		for _, item := range p.byState[waiting] {
			delayed := p.haltedBy != nil || (waiting == pending && p.awaitsWindow(item))
			if (waiting == failed && p.haltedBy == nil) || (waiting == pending && item.rollout.deadlineExceeded) {
				continue
			}
			for ca, reasons := range reasonsByCA(item) {
				counts := restarts[ca]
				addRestart(&counts, item.String(), reasons, delayed)
				restarts[ca] = counts
			}
		}
	}
}

func reasonsByCA(item *workloadState) map[string][]v1alpha1.RestartReason {
	reasons := map[string][]v1alpha1.RestartReason{}
	changes := item.pendingChanges
	if item.ongoing != nil {
		changes = item.changes
	}
	for _, c := range changes {
		if !slices.Contains(reasons[c.serviceCA], c.reason) {
			reasons[c.serviceCA] = append(reasons[c.serviceCA], c.reason)
		}
	}
	return reasons
}

func addRestart(restarts *rotation.Restarts, name string, reasons []v1alpha1.RestartReason, delayed bool) {
	for _, reason := range reasons {
		if reason == v1alpha1.RestartOnTrustChanged {
			restarts.Clients++
			restarts.ClientNames = insertSorted(restarts.ClientNames, name)
		} else {
			restarts.Servers++
			restarts.ServerNames = insertSorted(restarts.ServerNames, name)
			if delayed {
				restarts.HeldServers++
			}
		}
	}
}
