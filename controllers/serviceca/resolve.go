package serviceca

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// resolution is the CA as it was found, and what became of it meanwhile.
type resolution struct {
	// state is nil when there is no CA.
	state   *rotation.State
	problem *problem
	events  []rotationEvent
}

// resolve reads the signing-key Secret. Where that is gone, broken or older than what has happened, it finds out from the published
// bundle and from the status what clients trust, and gives up nothing of it.
func resolve(in observed) resolution {
	resolved := in.findState()
	if reported := in.serviceCA.Status.TrustBundle; resolved.state != nil && reported != nil && reported.ChangedAt != nil && reported.ChangedAt.After(resolved.state.TrustChangedAt) {
		// A backup, or a key that was lost, does not know when.
		resolved.state.TrustChangedAt = reported.ChangedAt.Time
	}
	return resolved
}

// findState is the CA in the signing-key Secret, or what takes its place.
func (in observed) findState() resolution {
	secret := in.secret
	if secret == nil {
		secret = in.formerSecret
	}
	if secret == nil {
		return in.createState(v1alpha1.RotationSigningKeyLost, "its Secret is gone")
	}
	if problem := in.signingKeyProblem(secret); problem != nil {
		return resolution{problem: problem}
	}
	state, lost := rotation.Read(in.now, secret)
	if state == nil {
		return in.createState(v1alpha1.RotationSigningKeyLost, fmt.Sprintf("Secret %s: %v", secret.Name, lost))
	}
	if reportedSince := in.reportedSince(); state.Since.Before(reportedSince) || (state.Since.Equal(reportedSince) && in.diverged(state)) {
		return in.resolveRestored(state)
	}
	in.restoreFromStatus(state)
	switch {
	case lost == nil:
		return resolution{state: state}
	case state.Active != nil:
		return resolution{state: state, events: []rotationEvent{tellPutBack(in.serviceCA, lost.Error())}}
	}
	for i, p := range state.Previous {
		state.Previous[i] = in.predecessor(p.Root)
	}
	in.extendPredecessors(state)
	return resolution{state: state, events: []rotationEvent{lostEvent(in.serviceCA, state, lost.Error())}}
}

// restoreFromStatus adds to a state what somebody may have taken from it by hand, or by restoring what was before, where the status still knows it.
func (in observed) restoreFromStatus(state *rotation.State) {
	if reportedSince := in.reportedSince(); reportedSince.IsZero() || !state.Since.After(reportedSince) {
		state.AddPredecessors(in.recoveredRoots()...)
		state.LongestDuration = max(state.LongestDuration, in.longestFromStatus(state.Active))
	}
}

func keyOutsideProblem(ca *v1alpha1.ServiceCA, outside *types.NamespacedName) *problem {
	return &problem{reason: reasonKeyOutside, message: fmt.Sprintf("the signing key is in Secret %s, and not in Secret %s of the operator's namespace: "+
		"move it there, or delete that Secret if the key is to be replaced", outside, ca.SigningKeySecretName())}
}

// createState makes a CA where there is none, or none that may sign. Where clients trust others, it must be known to them before it signs.
func (in observed) createState(reason v1alpha1.RotationReason, detail string) resolution {
	next, problem := in.firstSigner()
	if problem != nil {
		return resolution{problem: problem}
	}
	state := &rotation.State{
		Phase: v1alpha1.PhasePublishing, Since: in.nextTransitionTime(), StartedAt: in.nextTransitionTime(), Reason: reason,
		Trigger: in.serviceCA.Spec.Rotation.Trigger, LongestDuration: in.longestDuration, Next: next,
	}
	state.Compromise = in.unfinishedCompromise()
	last := in.withLastCertificate(next)
	copied := in.serviceCA.Status.Active != nil && last != nil && in.isKnownRoot(last.Root)
	if copied {
		// Only our copy of a CA that was brought is lost, though its certificate may have been renewed.
		state.Phase, state.Active, state.Next = v1alpha1.PhaseReissuing, last, nil
	}
	state.AddPredecessors(in.recoveredRoots()...)
	in.extendPredecessors(state)
	// Without a status, as after the ServiceCA was made again, clients hold what is still published.
	state.TrustChanging = in.serviceCA.Status.TrustBundle != nil || len(state.Previous) > 0
	switch {
	case copied:
		// A rotation that has not switched the signer has not begun: the CA that signs again is the one that it was to replace.
		state.TrustChanging, state.Trigger, state.Compromise = false, in.switchedTrigger(), in.compromised()
		state.LongestDuration = max(state.LongestDuration, in.longestFromStatus(state.Active))
		if in.secret != nil {
			state.Active.Authority = state.Active.WithCrossSigned(pki.ParseCrossSigned(in.secret.Data[rotation.CrossSignedKey]))
			in.shortenBridge(state)
		}
		return resolution{state: state, events: []rotationEvent{copiedEvent(state, detail)}}
	case !state.AnyLeafValid(in.now):
		state.Phase, state.Reason, state.StartedAt = v1alpha1.PhaseStable, "", time.Time{}
		state.Active, state.Next = state.Next, nil
	case in.serviceCA.Spec.Rotation.Mode == v1alpha1.RotationPaused:
		return resolution{problem: pausedProblem(detail)}
	}
	return resolution{state: state, events: []rotationEvent{lostEvent(in.serviceCA, state, detail)}}
}

func pausedProblem(reason string) *problem {
	return &problem{reason: reasonRotationPaused, message: fmt.Sprintf(
		"the signing key is lost (%s), and spec.rotation.mode Paused keeps a new one from being made: set it to Automatic, or restore the key", reason)}
}

// firstSigner is a CA of the source's.
func (in observed) firstSigner() (*rotation.Signer, *problem) {
	source := in.serviceCA.Spec.Source
	switch {
	case in.keyOutside != nil:
		return nil, keyOutsideProblem(in.serviceCA, in.keyOutside)
	case source.CertManager != nil:
		return in.requestedSigner()
	case source.Secret != nil:
		return in.sourceSecretSigner()
	}
	var before pki.Bundle
	for _, p := range in.recoveredRoots() {
		before = append(before, p.Root)
	}
	signer, err := in.generateRoot(before)
	if err != nil {
		return nil, &problem{reason: reasonSourceInvalid, message: "spec.certificate: " + err.Error()}
	}
	return signer, nil
}

// reportedSince is when the phase began that the status reports. A status is always written after the Secret: an older Secret is one that
// somebody has restored.
func (in observed) reportedSince() time.Time {
	if reported := in.serviceCA.Status.Rotation; reported != nil && reported.LastTransitionTime != nil {
		return reported.LastTransitionTime.Time
	}
	return time.Time{}
}

// diverged reports whether a Secret holds another CA than was reported of it.
func (in observed) diverged(state *rotation.State) bool {
	status := in.serviceCA.Status
	return status.TrustBundle != nil && (!sameSigner(status.Active, state.Active) || !sameSigner(status.Next, state.Next))
}

func sameSigner(reported *v1alpha1.CAGeneration, active *rotation.Signer) bool {
	if reported == nil || active == nil {
		return reported == nil && active == nil
	}
	return reported.Fingerprint == active.Fingerprint()
}

// nextTransitionTime is the time of a new phase, always later than what the status reports.
func (in observed) nextTransitionTime() time.Time {
	now, reportedSince := in.now.Truncate(time.Second), in.reportedSince()
	if !now.After(reportedSince) {
		return reportedSince.Add(time.Second)
	}
	return now
}

// resolveRestored goes on with a CA from a backup. It may sign where clients still trust it; where another has signed meanwhile, it is
// replaced by a new one, for its key had been given up.
func (in observed) resolveRestored(state *rotation.State) resolution {
	status := in.serviceCA.Status
	// What was being prepared then may have signed since.
	state.Next = nil
	same := in.hasLastKey(state)
	state.AddPredecessors(in.recoveredRoots()...)
	if status.Next != nil && sameSigner(status.Next, state.Active) {
		// It is the one that was being prepared: it signs when it is known, and not before.
		state.Next, state.Active, state.Phase, state.Since = state.Active, nil, v1alpha1.PhasePublishing, in.nextTransitionTime()
		state.Reason, state.StartedAt, state.Compromise = v1alpha1.RotationSigningKeyLost, state.Since, in.unfinishedCompromise()
		state.TrustChanging = true
		return resolution{state: state}
	}
	in.extendPredecessors(state)
	if !same && (state.Active == nil || !in.isKnownRoot(state.Active.Root) || in.reportedCompromise()) {
		return in.createState(v1alpha1.RotationSigningKeyRestored, "the backup that was restored holds a key that may not sign any more")
	}
	if same && status.Rotation != nil && !in.reportedPreparing() {
		state.Trigger = status.Rotation.Trigger
	}
	in.shortenBridge(state)
	state.LongestDuration = max(state.LongestDuration, in.longestFromStatus(state.Active))
	state.Phase, state.Since, state.Restored = v1alpha1.PhaseReissuing, in.nextTransitionTime(), !same
	if state.Renewed != nil {
		// The rotation to it says so.
		return resolution{state: state}
	}
	return resolution{state: state, events: []rotationEvent{in.restoredEvent(state)}}
}

// shortenBridge drops from the bridge of the active CA, which comes from a backup, what leads to roots that were retired since: GnuTLS
// refuses a server that sends more than one certificate which leads to a root that it does not trust.
func (in observed) shortenBridge(state *rotation.State) {
	var trusted pki.Bundle
	for _, p := range state.Previous {
		if in.isKnownRoot(p.Root) {
			trusted = append(trusted, p.Root)
		}
	}
	state.Active.Authority = state.Active.WithCrossSigned(pki.TrimCrossSigned(state.Active.CrossSigned(), trusted))
}

// unfinishedCompromise reports whether a key was to be given up as compromised that has been lost before it was.
func (in observed) unfinishedCompromise() bool {
	reported, spec := in.serviceCA.Status.Rotation, in.serviceCA.Spec.Rotation
	if reported == nil {
		return false
	}
	asked := spec.Trigger != "" && spec.Trigger != reported.Trigger && spec.TriggerReason == v1alpha1.TriggerCompromise
	return asked || (reported.Reason == v1alpha1.RotationCompromise && in.reportedPreparing()) || in.compromised()
}

// hasLastKey reports whether the active CA has the key that signed last, as far as the status remembers. It then goes on with the
// certificate that signed last.
func (in observed) hasLastKey(state *rotation.State) bool {
	if state.Active == nil {
		return false
	}
	last := in.withLastCertificate(state.Active)
	if last != nil {
		state.RestoreActive(last)
	}
	if state.Renewed != nil && in.hasSignedBefore(state.Renewed.Root) {
		// It is a former certificate, out of a backup.
		state.Renewed = nil
	}
	status := in.serviceCA.Status
	if status.Active == nil && len(status.Previous) > 0 {
		// Its key was lost, and nobody has signed since.
		return last != nil || status.Previous[0].Fingerprint == pki.Fingerprint(state.Active.Root)
	}
	return last != nil
}

// switchedTrigger returns the trigger of the last rotation that has switched the signer, as far as the status remembers.
func (in observed) switchedTrigger() string {
	if reported := in.serviceCA.Status.Rotation; reported != nil && !in.reportedPreparing() {
		return reported.Trigger
	}
	return ""
}

// reportedPreparing reports whether the status reports a rotation that has not switched the signer yet.
func (in observed) reportedPreparing() bool {
	reported := in.serviceCA.Status.Rotation
	return reported != nil && (reported.Phase == v1alpha1.PhasePublishing || reported.Phase == v1alpha1.PhasePropagating)
}

// longestFromStatus is for how long from now what a CA has signed may live, as far as the status remembers.
func (in observed) longestFromStatus(signer *rotation.Signer) time.Duration {
	status, longest := in.serviceCA.Status, time.Duration(0)
	if signer == nil {
		return 0
	}
	if active := status.Active; active != nil && active.SubjectKeyID == pki.KeyID(signer.Certificate().SubjectKeyId) && active.LongestDurationSeconds != nil {
		longest = time.Duration(*active.LongestDurationSeconds) * time.Second
	}
	for i := range status.Previous {
		if before := &status.Previous[i]; before.Fingerprint == pki.Fingerprint(signer.Root) && before.SignedUntil != nil {
			longest = max(longest, before.SignedUntil.Sub(in.now))
		}
	}
	return longest
}

// compromised reports whether the CAs before are to be distrusted.
func (in observed) compromised() bool {
	reported := in.serviceCA.Status.Rotation
	return in.reportedCompromise() && (reported.Phase == v1alpha1.PhaseReissuing || reported.Phase == v1alpha1.PhaseRetiring)
}

// reportedCompromise reports whether the last rotation that the status reports was for a compromise, whatever its phase.
func (in observed) reportedCompromise() bool {
	reported := in.serviceCA.Status.Rotation
	return reported != nil && reported.Reason == v1alpha1.RotationCompromise
}

// recoveredRoots are the roots of this ServiceCA, as far as its status remembers them, that are published or that targets carry; but for
// that of a CA which was only being prepared.
func (in observed) recoveredRoots() []rotation.Predecessor {
	var predecessors []rotation.Predecessor
	next := in.serviceCA.Status.Next
	for _, encoded := range append([][]byte{in.published}, in.injectedBundles...) {
		bundle, _ := pki.ParseBundle(encoded)
		for _, root := range bundle {
			ok := slices.ContainsFunc(predecessors, func(p rotation.Predecessor) bool { return p.Root.Equal(root) })
			prepared := next != nil && next.Fingerprint == pki.Fingerprint(root) && !in.hasSignedBefore(root)
			if !ok && !prepared && in.now.Before(root.NotAfter) && (in.isPublished(encoded) || in.isKnownRoot(root)) {
				predecessors = append(predecessors, in.predecessor(root))
			}
		}
	}
	return predecessors
}

// isPublished reports whether this is the bundle that was published last. Where no status tells, what stands in our own ConfigMap is.
func (in observed) isPublished(bundle []byte) bool {
	reported := in.serviceCA.Status.TrustBundle
	return reported == nil || reported.Hash == pki.Hash(bundle)
}

// isKnownRoot reports whether a root was in the bundle that was published last.
func (in observed) isKnownRoot(root *x509.Certificate) bool {
	status, fingerprint := in.serviceCA.Status, pki.Fingerprint(root)
	return (status.TrustBundle != nil && slices.Contains(status.TrustBundle.Fingerprints, fingerprint)) ||
		(status.Active != nil && status.Active.Fingerprint == fingerprint) ||
		in.hasSignedBefore(root)
}

// hasSignedBefore reports whether a root is of a CA that has signed, and then another.
func (in observed) hasSignedBefore(root *x509.Certificate) bool {
	fingerprint := pki.Fingerprint(root)
	return slices.ContainsFunc(in.serviceCA.Status.Previous, func(g v1alpha1.CAGeneration) bool { return g.Fingerprint == fingerprint })
}

// extendPredecessors keeps every root for as long as certificates may live that the CA of the status has signed: which roots they lead to, is lost with its
// bridge.
func (in observed) extendPredecessors(state *rotation.State) {
	active := in.serviceCA.Status.Active
	if active == nil {
		return
	}
	for i, p := range state.Previous {
		until := in.signedUntilFor(p.Root)
		if until.After(active.NotAfter.Time) {
			until = active.NotAfter.Time
		}
		state.Previous[i].SignedUntil = latest(p.SignedUntil, until)
	}
}

// signedUntilFor bounds, within the life of a root, the end of every certificate that the CA of the status has signed; zero where it does not say.
func (in observed) signedUntilFor(root *x509.Certificate) time.Time {
	active := in.serviceCA.Status.Active
	if active == nil || active.LongestDurationSeconds == nil {
		return time.Time{}
	}
	longest := time.Duration(*active.LongestDurationSeconds) * time.Second
	if notAfter := in.now.Add(longest + rotation.SigningSlack); notAfter.Before(root.NotAfter) {
		return notAfter
	}
	return root.NotAfter
}

// predecessor is what the status remembers of the CA that a root belongs to: of one that it forgot, that it may have signed until its end.
func (in observed) predecessor(root *x509.Certificate) rotation.Predecessor {
	status, fingerprint := in.serviceCA.Status, pki.Fingerprint(root)
	predecessor := rotation.Predecessor{Root: root, KeyID: pki.KeyID(root.SubjectKeyId), SignedUntil: root.NotAfter, Compromised: in.compromised()}
	unlisted := len(status.Previous) < maxPrevious && !in.hasSignedBefore(root)
	if active := status.Active; active != nil && unlisted && active.LongestDurationSeconds != nil {
		// The one that is not listed is the root of the CA that signed last.
		predecessor.KeyID, predecessor.Compromised, predecessor.SignedUntil = active.SubjectKeyID, false, in.signedUntilFor(root)
	}
	for _, before := range status.Previous {
		if before.Fingerprint == fingerprint && before.SignedUntil != nil {
			predecessor.SignedUntil = before.SignedUntil.Time
		}
	}
	return predecessor
}
