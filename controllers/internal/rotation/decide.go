package rotation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// Evidence is what was seen in the cluster.
type Evidence struct {
	// OutOfDate is the number of targets that do not carry the state's bundle yet, and that nobody but us keeps from it; OutOfDateNames are some.
	OutOfDate      int32
	OutOfDateNames []string
	// Outstanding is the number of live certificates that another CA than the active one signed; OutstandingNames are some.
	Outstanding      int32
	OutstandingNames []string
	// Requests is the number of live certificates that CAs before the active one gave to requests, and that only their holders can replace;
	// RequestNames are some, each with what replaces it.
	Requests     int32
	RequestNames []string
	// RequestsUnknown: which requests there are is not known yet.
	RequestsUnknown bool
	// Restarts are the workloads that have not read what they should.
	Restarts Restarts
	// LatestNotAfter is the end of a live certificate that the active CA signed for longer than it should, by a clock that was ahead; zero without one.
	LatestNotAfter time.Time
}

// Input is everything that decides.
type Input struct {
	Now      time.Time
	Spec     v1alpha1.CARotation
	State    *State
	Evidence Evidence
	// Cause is why spec.certificate or spec.source wants another CA; empty when they do not.
	Cause v1alpha1.RotationReason
	// NoSuccessor says why the source has no other CA to give, and what to do about it; empty when it has one.
	NoSuccessor string
}

// Move is a step from one state to the next: one write of the signing-key Secret.
type Move string

// The moves.
const (
	// NoMove leaves everything as it is.
	NoMove Move = ""
	// Begin prepares the next CA: Publishing.
	Begin Move = "Begin"
	// Propagate gives clients the time to read the bundle: Propagating.
	Propagate Move = "Propagate"
	// Switch lets the next CA sign, and destroys the key of the one before: Reissuing.
	Switch Move = "Switch"
	// Retire waits for the end of what the CAs before have signed: Retiring.
	Retire Move = "Retire"
	// Complete ends the rotation: Stable.
	Complete Move = "Settle"
	// DropRoots drops roots, in each phase but those that prepare the next.
	DropRoots Move = "Forget"
	// TrimCrossSigned sends no more of the bridge to a root that is about to go.
	TrimCrossSigned Move = "Shorten"
	// RecordPropagated writes down that every target carries a change that processes must read.
	RecordPropagated Move = "Announce"
)

// Decision is what to do now.
type Decision struct {
	Move Move
	// Reason is why a rotation begins.
	Reason v1alpha1.RotationReason
	// BlockedBy says what is waited for, a sentence each.
	BlockedBy []string
	// NeedsCA is set where the source must give another CA, and has none yet.
	NeedsCA bool
}

// PausedMessage is what a rotation waits for that is held by spec.rotation.mode.
const PausedMessage = "spec.rotation.mode Paused holds the rotation where it stands: set it to Automatic to go on"

// Decide is the state machine: what to do, or what to wait for.
func Decide(in Input) Decision {
	decision := in.decide()
	if in.Spec.Mode == v1alpha1.RotationPaused {
		decision.NeedsCA = false
	}
	if in.Spec.Mode == v1alpha1.RotationPaused && (decision.Move != NoMove || in.State.Phase != v1alpha1.PhaseStable) {
		decision = Decision{BlockedBy: append([]string{PausedMessage}, decision.BlockedBy...)}
	}
	if decision.Move == NoMove && in.exceedsTrimmed() {
		decision.Move = TrimCrossSigned
	}
	return decision
}

func (in Input) decide() Decision {
	if in.State.IsPreparing() {
		return in.prepare()
	}
	decision, reason := Decision{}, in.rotationReason()
	switch {
	case reason == "":
	case in.hasCompromisedPredecessor() && reason != v1alpha1.RotationCAExpired && reason != v1alpha1.RotationCompromise:
		decision.addBlocker("a rotation is due (%s), and waits until the CAs that were compromised are distrusted", reason)
	case in.NoSuccessor != "":
		decision.NeedsCA = true
		decision.addBlocker("a rotation is due (%s), and %s", reason, in.NoSuccessor)
	default:
		return Decision{Move: Begin, Reason: reason}
	}
	return in.afterSwitch(decision)
}

// hasCompromisedPredecessor reports whether a CA that was compromised is still trusted.
func (in Input) hasCompromisedPredecessor() bool {
	return slices.ContainsFunc(in.State.Previous, func(p Predecessor) bool { return p.Compromised })
}

// rotationReason is why another CA should sign; empty when none should.
func (in Input) rotationReason() v1alpha1.RotationReason {
	left := in.State.Active.NotAfter().Sub(in.Now)
	switch {
	case left <= 0:
		return v1alpha1.RotationCAExpired
	case in.State.Restored:
		return v1alpha1.RotationSigningKeyRestored
	case in.triggered() && in.Spec.TriggerReason == v1alpha1.TriggerCompromise:
		return v1alpha1.RotationCompromise
	case in.triggered():
		return v1alpha1.RotationTriggered
	case in.Cause != "":
		return in.Cause
	case left <= in.Spec.RotateBefore.Std():
		return v1alpha1.RotationThresholdPassed
	}
	return ""
}

func (in Input) triggered() bool { return in.Spec.Trigger != "" && in.Spec.Trigger != in.State.Trigger }

// prepare brings the next CA to everybody before it signs. Where nothing is alive that could fail, nothing is waited for.
func (in Input) prepare() Decision {
	state, decision := in.State, Decision{}
	if in.triggered() {
		decision.addBlocker("spec.rotation.trigger %q waits until this rotation has switched the signer", in.Spec.Trigger)
	}
	if in.Cause != "" {
		decision.addBlocker("a change of the spec or of the source (%s) waits until this rotation has switched the signer", in.Cause)
	}
	switch switchAt := state.Since.Add(in.Spec.Propagation.Minimum.Std()); {
	case !in.Now.Before(state.Next.NotAfter()):
		if in.NoSuccessor != "" {
			decision.NeedsCA = true
			decision.addBlocker("%s has expired before it signed, and %s", state.Next.Name(), in.NoSuccessor)
			return decision
		}
		return Decision{Move: Begin, Reason: state.Reason}
	case !state.AnyLeafValid(in.Now):
		return Decision{Move: Switch}
	case in.Evidence.OutOfDate > 0:
		decision.addBlocker("%d targets do not carry the bundle with %s yet: %s", in.Evidence.OutOfDate, state.Next.Name(), firstNames(in.Evidence.OutOfDateNames))
	case state.Phase == v1alpha1.PhasePublishing:
		return Decision{Move: Propagate}
	default:
		return in.propagate(decision, switchAt)
	}
	return decision
}

// propagate gives clients the time to read the bundle, and restarts those that do not read it by themselves.
func (in Input) propagate(decision Decision, switchAt time.Time) Decision {
	blockers := len(decision.BlockedBy)
	if in.Now.Before(switchAt) {
		decision.addBlocker("every target carries the bundle with %s, and until %s clients are given the time to read it",
			in.State.Next.Name(), switchAt.UTC().Format(time.RFC3339))
	}
	in.waitForClients(&decision)
	if len(decision.BlockedBy) == blockers {
		return Decision{Move: Switch}
	}
	return decision
}

// afterSwitch is what a phase after the switch comes to.
func (in Input) afterSwitch(decision Decision) Decision {
	state := in.State
	switch droppable := in.droppableRoots(); {
	case len(droppable) > 0:
		decision.Move = DropRoots
	case state.TrustChanging && in.Evidence.OutOfDate == 0:
		decision.Move = RecordPropagated
	case state.Phase == v1alpha1.PhaseReissuing && in.Evidence.Outstanding > 0 && !in.reissueTimedOut():
		decision.addBlocker("%d certificates of CAs before %s are not reissued yet: %s",
			in.Evidence.Outstanding, state.Active.Name(), firstNames(in.Evidence.OutstandingNames))
	case state.Phase == v1alpha1.PhaseReissuing:
		decision.Move = Retire
	case state.Phase == v1alpha1.PhaseRetiring:
		blockers := len(decision.BlockedBy)
		in.waitForRetirement(&decision)
		if len(decision.BlockedBy) == blockers {
			decision.Move = Complete
		}
	}
	return decision
}

// waitForRetirement waits for the end of what the CAs before have signed.
func (in Input) waitForRetirement(decision *Decision) {
	name, latest, compromised := in.State.Active.Name(), time.Time{}, []string(nil)
	for _, p := range in.State.Previous {
		if p.Compromised {
			compromised = append(compromised, pki.NameOf(p.Root))
		} else if p.SignedUntil.After(latest) {
			latest = p.SignedUntil
		}
	}
	if len(compromised) > 0 {
		in.waitForDistrust(decision, firstNames(compromised))
	}
	if in.Now.Before(latest) {
		decision.addBlocker("certificates of CAs before %s may live in the memory of servers until %s", name, latest.UTC().Format(time.RFC3339))
		if restarts := in.Evidence.Restarts; restarts.Servers > 0 {
			decision.addBlocker("%d workloads hold older certificates than their Secrets, and are going to be restarted: %s", restarts.Servers, firstNames(restarts.ServerNames))
		}
	}
}

// waitForDistrust says what the end of compromised CAs waits for.
func (in Input) waitForDistrust(decision *Decision, names string) {
	switch {
	case in.Evidence.Outstanding > 0:
		decision.addBlocker("%s: distrusted as soon as %d more certificates are reissued: %s",
			names, in.Evidence.Outstanding, firstNames(in.Evidence.OutstandingNames))
	case in.waitsForRequests():
		decision.addBlocker("%s: distrusted as soon as %s", names, in.requestsWaitMessage())
	case !in.Now.Before(in.propagatedAt()):
		decision.addBlocker("%s: distrusted as soon as %s, and at the latest %s", names,
			in.Evidence.Restarts.serversMessage(), in.State.Since.Add(RestartTimeout).UTC().Format(time.RFC3339))
	default:
		decision.addBlocker("%s: distrusted at %s, until when servers are given the time to read what %s signed",
			names, in.propagatedAt().UTC().Format(time.RFC3339), in.State.Active.Name())
	}
}

// droppableRoots are the predecessors whose roots nobody needs any more.
func (in Input) droppableRoots() map[string]bool {
	droppable := map[string]bool{}
	for _, p := range in.State.Previous {
		if !in.Now.Before(p.Root.NotAfter) || (in.isUnused(p) && !in.State.hasLongPathTo(p)) || (p.Compromised && in.isReissued()) {
			droppable[string(p.Root.Raw)] = true
		}
	}
	return droppable
}

// isUnused reports whether a root is trusted no longer than there are certificates that need it, and none is left.
func (in Input) isUnused(p Predecessor) bool {
	return in.Spec.PreviousTrust == v1alpha1.TrustUntilUnused && !in.Now.Before(p.SignedUntil)
}

// isReissued reports whether every certificate is, for so long that servers have read theirs, or have been restarted.
func (in Input) isReissued() bool {
	return in.State.Phase == v1alpha1.PhaseRetiring && (in.Evidence.Outstanding == 0 || in.reissueTimedOut()) &&
		!in.Now.Before(in.propagatedAt()) && !in.waitsForRequests() && !in.waitsForServers()
}

// requestsDeadline returns until when the holders of certificates that requests got may renew them,
// before a CA that was compromised is distrusted all the same: tenants cannot hold that up.
func (s *State) requestsDeadline() time.Time { return s.Since.Add(ReissueTimeout) }

// requestsWaitMessage says what waitsForRequests waits for.
func (in Input) requestsWaitMessage() string {
	until := in.State.requestsDeadline().UTC().Format(time.RFC3339)
	if in.Evidence.RequestsUnknown {
		return "the certificates that requests got have been looked at, and at the latest " + until
	}
	return fmt.Sprintf("%d certificates that requests got are renewed, and at the latest %s: %s",
		in.Evidence.Requests, until, firstNames(in.Evidence.RequestNames))
}

// waitsForRequests reports whether there are such certificates, and still time.
func (in Input) waitsForRequests() bool {
	return (in.Evidence.RequestsUnknown || in.Evidence.Requests > 0) && in.Now.Before(in.State.requestsDeadline())
}

// ReissueTimeout is how long after its turn a certificate is waited for that is not reissued, before a CA that was compromised is distrusted
// all the same: nobody can hold that up.
const ReissueTimeout = time.Hour

// reissueTimedOut reports whether what is not reissued after a compromise is not waited for any longer.
func (in Input) reissueTimedOut() bool {
	return in.State.Compromise && !in.Now.Before(in.State.Since.Add(in.State.ReissueSpread+ReissueTimeout))
}

func (in Input) propagatedAt() time.Time {
	return in.State.Since.Add(in.Spec.Propagation.Minimum.Std())
}

func (d *Decision) addBlocker(format string, arguments ...any) {
	d.BlockedBy = append(d.BlockedBy, fmt.Sprintf(format, arguments...))
}

// firstNames names a few objects.
func firstNames(names []string) string {
	const maxNames = 5
	text := strings.Join(names[:min(len(names), maxNames)], ", ")
	if len(names) > maxNames {
		text += ", …"
	}
	return text
}
