package rotation

import (
	"fmt"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Restarts is what the controller observed of the workloads that policies restart.
type Restarts struct {
	// Unknown is set while the workloads have not been read since the bundle changed.
	Unknown bool
	// Clients is the number of workloads that started before the bundle changed, and that a policy
	// will restart because of that. ClientNames are some of them.
	Clients     int32
	ClientNames []string
	// Servers is the number of workloads that hold an older certificate than their Secret, and that
	// a policy will restart because of that. ServerNames are some of them.
	Servers     int32
	ServerNames []string
	// HeldServers is the number of servers that their policy does not restart now, because its
	// window is closed or a failed rollout halts it.
	HeldServers int32
}

// Pending reports whether a rotation may be waiting for restarts.
func (r Restarts) Pending() bool { return r.Unknown || r.Clients+r.Servers > 0 }

// ChangesDecision reports whether r instead of before lets a rotation continue, or makes it wait.
// The number of workloads it waits for does not matter.
func (r Restarts) ChangesDecision(before Restarts) bool {
	return (r.Clients > 0) != (before.Clients > 0) || (r.Servers > r.HeldServers) != (before.Servers > before.HeldServers)
}

// serversMessage says which servers delay the distrust of a compromised CA.
func (r Restarts) serversMessage() string {
	if r.Unknown {
		return "the workloads that hold older certificates have been looked at"
	}
	return fmt.Sprintf("%d workloads are restarted that hold older certificates (%s)", r.Servers, firstNames(r.ServerNames))
}

// RestartTimeout limits how long a rotation waits for restarts: of clients before the signer is
// switched, and of servers after the last certificate was reissued, before a compromised CA is
// distrusted. It is long enough for thousands of restarts, and no tenant can extend it.
const RestartTimeout = 24 * time.Hour

// clientsDeadline returns until when the signer's switch waits for restarts of clients: for a day,
// but at most until half of spec.rotation.rotateBefore is left of the active CA.
//
// A compromised key is given up as soon as possible; the cross-signed chain leads clients that were
// not restarted to its successor. While no CA signs, no certificate can be renewed during the wait,
// so it is limited to ReissueTimeout after the minimum propagation time.
func (s *State) clientsDeadline(spec v1alpha1.CARotation) time.Time {
	switch {
	case s.Compromise:
		return time.Time{}
	case s.Active == nil:
		return s.Since.Add(spec.Propagation.Minimum.Std() + ReissueTimeout)
	}
	half, deadline := s.Active.NotAfter().Add(-spec.RotateBefore.Std()/2), s.Since.Add(RestartTimeout)
	if half.Before(deadline) {
		return half
	}
	return deadline
}

// waitForClients waits for the clients that policies restart.
func (in Input) waitForClients(decision *Decision) {
	restarts, until := in.Evidence.Restarts, in.State.clientsDeadline(in.Spec)
	switch {
	case !in.Now.Before(until):
	case restarts.Unknown:
		decision.addBlocker("the workloads that read the bundle are being looked at")
	case restarts.Clients > 0:
		decision.addBlocker("%d workloads that have not read the bundle with %s are going to be restarted, and are waited for until %s at the latest: %s",
			restarts.Clients, in.State.Next.Name(), until.UTC().Format(time.RFC3339), firstNames(restarts.ClientNames))
	}
}

// waitsForServers reports whether servers that hold a certificate of a compromised CA are being
// restarted.
func (in Input) waitsForServers() bool {
	restarts := in.Evidence.Restarts
	return in.Now.Before(in.State.Since.Add(RestartTimeout)) && (restarts.Unknown || restarts.Servers > restarts.HeldServers)
}
