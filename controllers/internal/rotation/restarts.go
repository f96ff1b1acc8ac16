package rotation

import (
	"fmt"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Restarts is what is seen of the workloads that policies restart.
type Restarts struct {
	// Unseen: the workloads have not been looked at since the bundle changed.
	Unseen bool
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

// Waiting tells whether a rotation may be waiting for restarts.
func (r Restarts) Waiting() bool { return r.Unseen || r.Clients+r.Servers > 0 }

// Moves tells whether a rotation may go on, or has to wait, by what was seen before and by this. How many it waits for moves nothing.
func (r Restarts) Moves(before Restarts) bool {
	return (r.Clients > 0) != (before.Clients > 0) || (r.Servers > r.HeldServers) != (before.Servers > before.HeldServers)
}

// servers says which of them a CA is trusted for that was compromised.
func (r Restarts) servers() string {
	if r.Unseen {
		return "the workloads that hold older certificates have been looked at"
	}
	return fmt.Sprintf("%d workloads are restarted that hold older certificates (%s)", r.Servers, some(r.ServerNames))
}

// RestartPatience is how long restarts are waited for at most: of clients before the signer is switched, and of servers after the last certificate
// was reissued, before a CA that was compromised is distrusted. It is long enough for thousands of them, and no tenant can make it longer.
const RestartPatience = 24 * time.Hour

// clientsUntil is how long clients are restarted before the signer is switched, at the latest: a day, and no longer than until half of what is
// left at the threshold.
// A key that was compromised is given up as soon as it can be, and the bridge leads clients that run on to its successor. Where no CA signs,
// no certificate can be renewed for as long as it takes.
func (s *State) clientsUntil(spec v1alpha1.CARotation) time.Time {
	switch {
	case s.Compromise:
		return time.Time{}
	case s.Active == nil:
		return s.Since.Add(spec.Propagation.Minimum.Std() + Patience)
	}
	half, patient := s.Active.NotAfter().Add(-spec.RotateBefore.Std()/2), s.Since.Add(RestartPatience)
	if half.Before(patient) {
		return half
	}
	return patient
}

// restartClients waits for the clients that policies restart.
func (in Input) restartClients(decided *Decision) {
	restarts, until := in.Evidence.Restarts, in.State.clientsUntil(in.Spec)
	switch {
	case !in.Now.Before(until):
	case restarts.Unseen:
		decided.wait("the workloads that read the bundle are being looked at")
	case restarts.Clients > 0:
		decided.wait("%d workloads that have not read the bundle with %s are going to be restarted, and are waited for until %s at the latest: %s",
			restarts.Clients, in.State.Next.Name(), until.UTC().Format(time.RFC3339), some(restarts.ClientNames))
	}
}

// restartsServers tells whether servers are being restarted that hold a certificate of a CA that was compromised.
func (in Input) restartsServers() bool {
	restarts := in.Evidence.Restarts
	return in.Now.Before(in.State.Since.Add(RestartPatience)) && (restarts.Unseen || restarts.Servers > restarts.HeldServers)
}
