package rotation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// Evidence is what the controller observed in the cluster.
type Evidence struct {
	// OutOfDate is the number of targets that do not carry the state's bundle yet, without those
	// that something other than the operator blocks. OutOfDateNames are some of them.
	OutOfDate      int32
	OutOfDateNames []string
	// Outstanding is the number of valid certificates that a CA other than the active one signed.
	// OutstandingNames are some of them.
	Outstanding      int32
	OutstandingNames []string
	// Requests is the number of valid certificates that predecessors issued for requests, and that
	// only their holders can replace. RequestNames are some of them, each with how to renew it.
	Requests     int32
	RequestNames []string
	// RequestsUnknown is set while the requests have not been read yet.
	RequestsUnknown bool
	// Restarts are the workloads that have not read the current bundle or certificate.
	Restarts Restarts
	// LatestNotAfter is the notAfter of a valid certificate that the active CA signed for longer
	// than it should have, because of a clock that was ahead; zero without one.
	LatestNotAfter time.Time
}

// Input is everything that a decision depends on.
type Input struct {
	Now      time.Time
	Spec     v1alpha1.CARotation
	State    *State
	Evidence Evidence
	// Cause is why spec.certificate or spec.source requires another CA; empty when neither does.
	Cause v1alpha1.RotationReason
	// NoSuccessor says why the source cannot provide another CA, and the remedy; empty when it can.
	NoSuccessor string
}

// Move is a transition from one state to the next: one write of the signing-key Secret.
type Move string

// The moves.
const (
	// NoMove leaves everything as it is.
	NoMove Move = ""
	// Begin prepares the next CA and enters Publishing.
	Begin Move = "Begin"
	// Propagate gives clients time to read the bundle and enters Propagating.
	Propagate Move = "Propagate"
	// Switch lets the next CA sign, destroys the key of its predecessor and enters Reissuing.
	Switch Move = "Switch"
	// Retire starts to wait until what the predecessors signed has expired, and enters Retiring.
	Retire Move = "Retire"
	// Complete ends the rotation and enters Stable.
	Complete Move = "Settle"
	// DropRoots drops roots, in every phase except those that prepare the next CA.
	DropRoots Move = "Forget"
	// TrimCrossSigned stops sending the part of the cross-signed chain that leads to a root that is
	// about to be dropped.
	TrimCrossSigned Move = "Shorten"
	// RecordPropagated records that every target carries a change that processes must read.
	RecordPropagated Move = "Announce"
)

// Decision is what to do now.
type Decision struct {
	Move Move
	// Reason is why a rotation begins.
	Reason v1alpha1.RotationReason
	// BlockedBy says what the rotation is waiting for, one sentence each.
	BlockedBy []string
	// NeedsCA is set when the source must provide another CA and has none yet.
	NeedsCA bool
}

// PausedMessage is the BlockedBy entry of a rotation that spec.rotation.mode pauses.
const PausedMessage = "spec.rotation.mode Paused holds the rotation where it stands: set it to Automatic to go on"

// Decide is the state machine: it returns what to do, or what to wait for.
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

// hasCompromisedPredecessor reports whether a compromised CA is still trusted.
func (in Input) hasCompromisedPredecessor() bool {
	return slices.ContainsFunc(in.State.Previous, func(p Predecessor) bool { return p.Compromised })
}

// rotationReason returns why another CA should sign; empty when none should.
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

// prepare decides before the switch: every target gets the bundle with the next CA before that CA
// signs. If no certificate is valid any more that could fail, prepare waits for nothing.
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

// propagate waits until clients have had time to read the bundle, and until those that do not
// reload it have been restarted.
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

// afterSwitch decides in the phases after the switch. decision holds the blockers of a rotation
// that is due but cannot begin.
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

// waitForRetirement waits until what the predecessors signed has expired.
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

// waitForDistrust says what the distrust of compromised CAs waits for.
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

// droppableRoots returns the predecessors whose roots are not needed any more.
func (in Input) droppableRoots() map[string]bool {
	droppable := map[string]bool{}
	for _, p := range in.State.Previous {
		if !in.Now.Before(p.Root.NotAfter) || (in.isUnused(p) && !in.State.hasLongPathTo(p)) || (p.Compromised && in.isReissued()) {
			droppable[string(p.Root.Raw)] = true
		}
	}
	return droppable
}

// isUnused reports whether roots are only trusted while certificates need them, and no certificate
// needs this one any more.
func (in Input) isUnused(p Predecessor) bool {
	return in.Spec.PreviousTrust == v1alpha1.TrustUntilUnused && !in.Now.Before(p.SignedUntil)
}

// isReissued reports whether every certificate was reissued so long ago that servers have read
// theirs, or have been restarted.
func (in Input) isReissued() bool {
	return in.State.Phase == v1alpha1.PhaseRetiring && (in.Evidence.Outstanding == 0 || in.reissueTimedOut()) &&
		!in.Now.Before(in.propagatedAt()) && !in.waitsForRequests() && !in.waitsForServers()
}

// requestsDeadline returns until when holders of certificates issued for requests may renew them.
// After that a compromised CA is distrusted anyway: tenants cannot delay it.
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

// waitsForRequests reports whether there are, or may be, such certificates, before
// requestsDeadline.
func (in Input) waitsForRequests() bool {
	return (in.Evidence.RequestsUnknown || in.Evidence.Requests > 0) && in.Now.Before(in.State.requestsDeadline())
}

// ReissueTimeout is how long after its scheduled time a certificate that is not reissued delays the
// distrust of a compromised CA. After that the CA is distrusted anyway: no tenant can delay it.
const ReissueTimeout = time.Hour

// reissueTimedOut reports whether, after a compromise, the rotation no longer waits for
// certificates that are not reissued.
func (in Input) reissueTimedOut() bool {
	return in.State.Compromise && !in.Now.Before(in.State.Since.Add(in.State.ReissueSpread+ReissueTimeout))
}

func (in Input) propagatedAt() time.Time {
	return in.State.Since.Add(in.Spec.Propagation.Minimum.Std())
}

func (d *Decision) addBlocker(format string, arguments ...any) {
	d.BlockedBy = append(d.BlockedBy, fmt.Sprintf(format, arguments...))
}

// firstNames returns a list of the first few names.
func firstNames(names []string) string {
	const maxNames = 5
	text := strings.Join(names[:min(len(names), maxNames)], ", ")
	if len(names) > maxNames {
		text += ", …"
	}
	return text
}
