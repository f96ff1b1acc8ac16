package rotation

import (
	"fmt"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Restarts is what is seen of the workloads that policies restart.
type Restarts struct {
	// Unknown: the workloads have not been looked at since the bundle changed.
	Unknown bool
	// Clients is the number of workloads that started before the bundle changed, and that a policy is going to restart for it;
	// ClientNames are some.
	Clients     int32
	ClientNames []string
	// Servers is the number of workloads that hold an older certificate than their Secret, and that a policy is going to restart for it;
	// ServerNames are some.
	Servers     int32
	ServerNames []string
	// HeldServers is the number of servers that their policy does not restart now: its window is closed, or a failed rollout halts it.
	HeldServers int32
}

// Pending reports whether a rotation may be waiting for restarts.
func (r Restarts) Pending() bool { return r.Unknown || r.Clients+r.Servers > 0 }

// ChangesDecision reports whether a rotation may go on, or has to wait, by what was seen before and by this. How many it waits for moves nothing.
func (r Restarts) ChangesDecision(before Restarts) bool {
	return (r.Clients > 0) != (before.Clients > 0) || (r.Servers > r.HeldServers) != (before.Servers > before.HeldServers)
}

// serversMessage says which of them a CA is trusted for that was compromised.
func (r Restarts) serversMessage() string {
	if r.Unknown {
		return "the workloads that hold older certificates have been looked at"
	}
	return fmt.Sprintf("%d workloads are restarted that hold older certificates (%s)", r.Servers, firstNames(r.ServerNames))
}

// RestartTimeout is how long restarts are waited for at most: of clients before the signer is switched, and of servers after the last certificate
// was reissued, before a CA that was compromised is distrusted. It is long enough for thousands of them, and no tenant can make it longer.
const RestartTimeout = 24 * time.Hour

// clientsDeadline is how long clients are restarted before the signer is switched, at the latest: a day, and no longer than until half of what is
// left at the threshold.
// A key that was compromised is given up as soon as it can be, and the bridge leads clients that run on to its successor. Where no CA signs,
// no certificate can be renewed for as long as it takes.
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

// waitsForServers reports whether servers are being restarted that hold a certificate of a CA that was compromised.
func (in Input) waitsForServers() bool {
	restarts := in.Evidence.Restarts
	return in.Now.Before(in.State.Since.Add(RestartTimeout)) && (restarts.Unknown || restarts.Servers > restarts.HeldServers)
}
