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
	// Behind is the number of targets that do not carry the state's bundle yet, and that nobody but us keeps from it; BehindNames are some.
	Behind      int32
	BehindNames []string
	// Outstanding is the number of live certificates that another CA than the active one signed; OutstandingNames are some.
	Outstanding      int32
	OutstandingNames []string
	// Requests is the number of live certificates that CAs before the active one gave to requests, and that only their holders can replace;
	// RequestNames are some, each with what replaces it.
	Requests     int32
	RequestNames []string
	// RequestsUnseen: which requests there are is not known yet.
	RequestsUnseen bool
	// Restarts are the workloads that have not read what they should.
	Restarts Restarts
	// Signed is the end of a live certificate that the active CA signed for longer than it should, by a clock that was ahead; zero without one.
	Signed time.Time
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
	// Stay leaves everything as it is.
	Stay Move = ""
	// Begin prepares the next CA: Publishing.
	Begin Move = "Begin"
	// Propagate gives clients the time to read the bundle: Propagating.
	Propagate Move = "Propagate"
	// Switch lets the next CA sign, and destroys the key of the one before: Reissuing.
	Switch Move = "Switch"
	// Retire waits for the end of what the CAs before have signed: Retiring.
	Retire Move = "Retire"
	// Settle ends the rotation: Stable.
	Settle Move = "Settle"
	// Forget drops roots, in each phase but those that prepare the next.
	Forget Move = "Forget"
	// Shorten sends no more of the bridge to a root that is about to go.
	Shorten Move = "Shorten"
	// Announce writes down that every target carries a change that processes must read.
	Announce Move = "Announce"
)

// Decision is what to do now.
type Decision struct {
	Move Move
	// Reason is why a rotation begins.
	Reason v1alpha1.RotationReason
	// BlockedBy says what is waited for, a sentence each.
	BlockedBy []string
	// Wanted is set where the source must give another CA, and has none yet.
	Wanted bool
}

// Paused is what a rotation waits for that is held by spec.rotation.mode.
const Paused = "spec.rotation.mode Paused holds the rotation where it stands: set it to Automatic to go on"

// Decide is the state machine: what to do, or what to wait for.
func Decide(in Input) Decision {
	decided := in.decide()
	if in.Spec.Mode == v1alpha1.RotationPaused {
		decided.Wanted = false
	}
	if in.Spec.Mode == v1alpha1.RotationPaused && (decided.Move != Stay || in.State.Phase != v1alpha1.PhaseStable) {
		decided = Decision{BlockedBy: append([]string{Paused}, decided.BlockedBy...)}
	}
	if decided.Move == Stay && in.overlong() {
		decided.Move = Shorten
	}
	return decided
}

func (in Input) decide() Decision {
	if in.State.Preparing() {
		return in.prepare()
	}
	decided, reason := Decision{}, in.due()
	switch {
	case reason == "":
	case in.distrusting() && reason != v1alpha1.RotationCAExpired && reason != v1alpha1.RotationCompromise:
		decided.wait("a rotation is due (%s), and waits until the CAs that were compromised are distrusted", reason)
	case in.NoSuccessor != "":
		decided.Wanted = true
		decided.wait("a rotation is due (%s), and %s", reason, in.NoSuccessor)
	default:
		return Decision{Move: Begin, Reason: reason}
	}
	return in.within(decided)
}

// distrusting tells whether a CA that was compromised is still trusted.
func (in Input) distrusting() bool {
	return slices.ContainsFunc(in.State.Previous, func(p Predecessor) bool { return p.Compromised })
}

// due is why another CA should sign; empty when none should.
func (in Input) due() v1alpha1.RotationReason {
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
	state, decided := in.State, Decision{}
	if in.triggered() {
		decided.wait("spec.rotation.trigger %q waits until this rotation has switched the signer", in.Spec.Trigger)
	}
	if in.Cause != "" {
		decided.wait("a change of the spec or of the source (%s) waits until this rotation has switched the signer", in.Cause)
	}
	switch switchAt := state.Since.Add(in.Spec.Propagation.Minimum.Std()); {
	case !in.Now.Before(state.Next.NotAfter()):
		if in.NoSuccessor != "" {
			decided.Wanted = true
			decided.wait("%s has expired before it signed, and %s", state.Next.Name(), in.NoSuccessor)
			return decided
		}
		return Decision{Move: Begin, Reason: state.Reason}
	case !state.Alive(in.Now):
		return Decision{Move: Switch}
	case in.Evidence.Behind > 0:
		decided.wait("%d targets do not carry the bundle with %s yet: %s", in.Evidence.Behind, state.Next.Name(), some(in.Evidence.BehindNames))
	case state.Phase == v1alpha1.PhasePublishing:
		return Decision{Move: Propagate}
	default:
		return in.propagate(decided, switchAt)
	}
	return decided
}

// propagate gives clients the time to read the bundle, and restarts those that do not read it by themselves.
func (in Input) propagate(decided Decision, switchAt time.Time) Decision {
	due := len(decided.BlockedBy)
	if in.Now.Before(switchAt) {
		decided.wait("every target carries the bundle with %s, and until %s clients are given the time to read it",
			in.State.Next.Name(), switchAt.UTC().Format(time.RFC3339))
	}
	in.restartClients(&decided)
	if len(decided.BlockedBy) == due {
		return Decision{Move: Switch}
	}
	return decided
}

// within is what a phase after the switch comes to.
func (in Input) within(decided Decision) Decision {
	state := in.State
	switch forgettable := in.forgettable(); {
	case len(forgettable) > 0:
		decided.Move = Forget
	case state.TrustChanging && in.Evidence.Behind == 0:
		decided.Move = Announce
	case state.Phase == v1alpha1.PhaseReissuing && in.Evidence.Outstanding > 0 && !in.resisted():
		decided.wait("%d certificates of CAs before %s are not reissued yet: %s",
			in.Evidence.Outstanding, state.Active.Name(), some(in.Evidence.OutstandingNames))
	case state.Phase == v1alpha1.PhaseReissuing:
		decided.Move = Retire
	case state.Phase == v1alpha1.PhaseRetiring:
		due := len(decided.BlockedBy)
		in.retiring(&decided)
		if len(decided.BlockedBy) == due {
			decided.Move = Settle
		}
	}
	return decided
}

// retiring waits for the end of what the CAs before have signed.
func (in Input) retiring(decided *Decision) {
	name, latest, compromised := in.State.Active.Name(), time.Time{}, []string(nil)
	for _, p := range in.State.Previous {
		if p.Compromised {
			compromised = append(compromised, pki.NameOf(p.Root))
		} else if p.SignedUntil.After(latest) {
			latest = p.SignedUntil
		}
	}
	if len(compromised) > 0 {
		in.distrust(decided, some(compromised))
	}
	if in.Now.Before(latest) {
		decided.wait("certificates of CAs before %s may live in the memory of servers until %s", name, latest.UTC().Format(time.RFC3339))
		if restarts := in.Evidence.Restarts; restarts.Servers > 0 {
			decided.wait("%d workloads hold older certificates than their Secrets, and are going to be restarted: %s", restarts.Servers, some(restarts.ServerNames))
		}
	}
}

// distrust says what the end of compromised CAs waits for.
func (in Input) distrust(decided *Decision, names string) {
	switch {
	case in.Evidence.Outstanding > 0:
		decided.wait("%s: distrusted as soon as %d more certificates are reissued: %s",
			names, in.Evidence.Outstanding, some(in.Evidence.OutstandingNames))
	case in.requestsWait():
		decided.wait("%s: distrusted as soon as %s", names, in.requestsWaitedFor())
	case !in.Now.Before(in.reissuedAt()):
		decided.wait("%s: distrusted as soon as %s, and at the latest %s", names,
			in.Evidence.Restarts.servers(), in.State.Since.Add(RestartPatience).UTC().Format(time.RFC3339))
	default:
		decided.wait("%s: distrusted at %s, until when servers are given the time to read what %s signed",
			names, in.reissuedAt().UTC().Format(time.RFC3339), in.State.Active.Name())
	}
}

// forgettable are the predecessors whose roots nobody needs any more.
func (in Input) forgettable() map[string]bool {
	found := map[string]bool{}
	for _, p := range in.State.Previous {
		if !in.Now.Before(p.Root.NotAfter) || (in.unused(p) && !in.State.leadsTo(p)) || (p.Compromised && in.reissued()) {
			found[string(p.Root.Raw)] = true
		}
	}
	return found
}

// unused reports whether a root is trusted no longer than there are certificates that need it, and none is left.
func (in Input) unused(p Predecessor) bool {
	return in.Spec.PreviousTrust == v1alpha1.TrustUntilUnused && !in.Now.Before(p.SignedUntil)
}

// reissued tells whether every certificate is, for so long that servers have read theirs, or have been restarted.
func (in Input) reissued() bool {
	return in.State.Phase == v1alpha1.PhaseRetiring && (in.Evidence.Outstanding == 0 || in.resisted()) &&
		!in.Now.Before(in.reissuedAt()) && !in.requestsWait() && !in.restartsServers()
}

// requestsUntil returns until when the holders of certificates that requests got may renew them,
// before a CA that was compromised is distrusted all the same: tenants cannot hold that up.
func (s *State) requestsUntil() time.Time { return s.Since.Add(Patience) }

// requestsWaitedFor says what requestsWait waits for.
func (in Input) requestsWaitedFor() string {
	until := in.State.requestsUntil().UTC().Format(time.RFC3339)
	if in.Evidence.RequestsUnseen {
		return "the certificates that requests got have been looked at, and at the latest " + until
	}
	return fmt.Sprintf("%d certificates that requests got are renewed, and at the latest %s: %s",
		in.Evidence.Requests, until, some(in.Evidence.RequestNames))
}

// requestsWait reports whether there are such certificates, and still time.
func (in Input) requestsWait() bool {
	return (in.Evidence.RequestsUnseen || in.Evidence.Requests > 0) && in.Now.Before(in.State.requestsUntil())
}

// Patience is how long after its turn a certificate is waited for that is not reissued, before a CA that was compromised is distrusted
// all the same: nobody can hold that up.
const Patience = time.Hour

// resisted tells whether what is not reissued after a compromise is not waited for any longer.
func (in Input) resisted() bool {
	return in.State.Compromise && !in.Now.Before(in.State.Since.Add(in.State.ReissueOver+Patience))
}

func (in Input) reissuedAt() time.Time { return in.State.Since.Add(in.Spec.Propagation.Minimum.Std()) }

func (d *Decision) wait(format string, arguments ...any) {
	d.BlockedBy = append(d.BlockedBy, fmt.Sprintf(format, arguments...))
}

// some names a few objects.
func some(names []string) string {
	const most = 5
	text := strings.Join(names[:min(len(names), most)], ", ")
	if len(names) > most {
		text += ", …"
	}
	return text
}
