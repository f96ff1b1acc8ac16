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

// resolution is the present state of a CA, after any recovery.
type resolution struct {
	// state is nil when there is no CA.
	state   *rotation.State
	problem *problem
	events  []rotationEvent
}

// resolve reads the signing-key Secret. When that Secret is missing, broken or older than the
// status, resolve determines from the published bundle and the status what clients trust, and keeps
// all of it.
func resolve(in observed) resolution {
	resolved := in.findState()
	if reported := in.serviceCA.Status.TrustBundle; resolved.state != nil && reported != nil && reported.ChangedAt != nil && reported.ChangedAt.After(resolved.state.TrustChangedAt) {
		// A backup, or a new state after a lost key, does not have this time.
		resolved.state.TrustChangedAt = reported.ChangedAt.Time
	}
	return resolved
}

// findState returns the CA in the signing-key Secret, or the CA that replaces it.
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
		return resolution{state: state, events: []rotationEvent{revertedEvent(in.serviceCA, lost.Error())}}
	}
	for i, p := range state.Previous {
		state.Previous[i] = in.predecessor(p.Root)
	}
	in.extendPredecessors(state)
	return resolution{state: state, events: []rotationEvent{lostEvent(in.serviceCA, state, lost.Error())}}
}

// restoreFromStatus adds to state what the status still records but the Secret has lost, by a
// manual edit or by the restore of an older version.
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

// createState returns a state with a new CA when there is none, or none that may sign. When clients
// trust other CAs, the new one must be published to them before it signs.
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
		// Only the operator's copy of an imported CA is lost, although its certificate may have been
		// renewed.
		state.Phase, state.Active, state.Next = v1alpha1.PhaseReissuing, last, nil
	}
	state.AddPredecessors(in.recoveredRoots()...)
	in.extendPredecessors(state)
	// The status is empty after the ServiceCA was created again, but clients still have the published
	// bundle.
	state.TrustChanging = in.serviceCA.Status.TrustBundle != nil || len(state.Previous) > 0
	switch {
	case copied:
		// A rotation that has not switched the signer has not begun: the CA that signs again is the one
		// that it was to replace.
		state.TrustChanging, state.Trigger, state.Compromise = false, in.switchedTrigger(), in.compromised()
		state.LongestDuration = max(state.LongestDuration, in.longestFromStatus(state.Active))
		if in.secret != nil {
			state.Active.Authority = state.Active.WithCrossSigned(pki.ParseCrossSigned(in.secret.Data[rotation.CrossSignedKey]))
			in.trimCrossSigned(state)
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

// firstSigner returns a CA from the source, or the problem that there is none.
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

// reportedSince returns when the phase in the status began; zero when the status has none. The
// status is always written after the Secret, so an older Secret was restored from a backup.
func (in observed) reportedSince() time.Time {
	if reported := in.serviceCA.Status.Rotation; reported != nil && reported.LastTransitionTime != nil {
		return reported.LastTransitionTime.Time
	}
	return time.Time{}
}

// diverged reports whether the Secret holds other CAs than the status reports.
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

// nextTransitionTime returns the start time of a new phase. It is always later than the one in the
// status.
func (in observed) nextTransitionTime() time.Time {
	now, reportedSince := in.now.Truncate(time.Second), in.reportedSince()
	if !now.After(reportedSince) {
		return reportedSince.Add(time.Second)
	}
	return now
}

// resolveRestored returns the state for a CA from a backup. The CA may sign if clients still trust
// it. If another CA has signed since, the operator replaces the restored CA with a new one, because
// a rotation had already replaced its key.
func (in observed) resolveRestored(state *rotation.State) resolution {
	status := in.serviceCA.Status
	// The CA that was being prepared at the time of the backup may have signed since.
	state.Next = nil
	same := in.hasLastKey(state)
	state.AddPredecessors(in.recoveredRoots()...)
	if status.Next != nil && sameSigner(status.Next, state.Active) {
		// This CA is the one that was being prepared: it signs once it has been published, and not
		// before.
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
	in.trimCrossSigned(state)
	state.LongestDuration = max(state.LongestDuration, in.longestFromStatus(state.Active))
	state.Phase, state.Since, state.Restored = v1alpha1.PhaseReissuing, in.nextTransitionTime(), !same
	if state.Renewed != nil {
		// The rotation to the renewed certificate records its own Event.
		return resolution{state: state}
	}
	return resolution{state: state, events: []rotationEvent{in.restoredEvent(state)}}
}

// trimCrossSigned drops, from the cross-signed certificates of an active CA that comes from a backup,
// those that chain to roots that were retired since: GnuTLS rejects a server that sends more than
// one certificate that chains to a root it does not trust.
func (in observed) trimCrossSigned(state *rotation.State) {
	var trusted pki.Bundle
	for _, p := range state.Previous {
		if in.isKnownRoot(p.Root) {
			trusted = append(trusted, p.Root)
		}
	}
	state.Active.Authority = state.Active.WithCrossSigned(pki.TrimCrossSigned(state.Active.CrossSigned(), trusted))
}

// unfinishedCompromise reports whether a key that was to be replaced because of a compromise was
// lost before that.
func (in observed) unfinishedCompromise() bool {
	reported, spec := in.serviceCA.Status.Rotation, in.serviceCA.Spec.Rotation
	if reported == nil {
		return false
	}
	asked := spec.Trigger != "" && spec.Trigger != reported.Trigger && spec.TriggerReason == v1alpha1.TriggerCompromise
	return asked || (reported.Reason == v1alpha1.RotationCompromise && in.reportedPreparing()) || in.compromised()
}

// hasLastKey reports whether the active CA has the key that signed last, according to the status.
// If so, it restores the certificate that signed last.
func (in observed) hasLastKey(state *rotation.State) bool {
	if state.Active == nil {
		return false
	}
	last := in.withLastCertificate(state.Active)
	if last != nil {
		state.RestoreActive(last)
	}
	if state.Renewed != nil && in.hasSignedBefore(state.Renewed.Root) {
		// It is a former certificate from a backup.
		state.Renewed = nil
	}
	status := in.serviceCA.Status
	if status.Active == nil && len(status.Previous) > 0 {
		// The key of that CA was lost, and no CA has signed since.
		return last != nil || status.Previous[0].Fingerprint == pki.Fingerprint(state.Active.Root)
	}
	return last != nil
}

// switchedTrigger returns the trigger of the last rotation that switched the signer, according to
// the status; empty when there was none.
func (in observed) switchedTrigger() string {
	if reported := in.serviceCA.Status.Rotation; reported != nil && !in.reportedPreparing() {
		return reported.Trigger
	}
	return ""
}

// reportedPreparing reports whether the status has a rotation that has not switched the signer yet.
func (in observed) reportedPreparing() bool {
	reported := in.serviceCA.Status.Rotation
	return reported != nil && (reported.Phase == v1alpha1.PhasePublishing || reported.Phase == v1alpha1.PhasePropagating)
}

// longestFromStatus returns how long from now the certificates issued by signer may be valid,
// according to the status; zero when the status does not record it.
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

// compromised reports whether the predecessors are to be distrusted.
func (in observed) compromised() bool {
	reported := in.serviceCA.Status.Rotation
	return in.reportedCompromise() && (reported.Phase == v1alpha1.PhaseReissuing || reported.Phase == v1alpha1.PhaseRetiring)
}

// reportedCompromise reports whether the last rotation in the status, in any phase, was for a
// compromise.
func (in observed) reportedCompromise() bool {
	reported := in.serviceCA.Status.Rotation
	return reported != nil && reported.Reason == v1alpha1.RotationCompromise
}

// recoveredRoots returns the roots of this ServiceCA that the status records and that are in the
// published bundle or in that of a target. It omits the root of a CA that was only being prepared.
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

// isPublished reports whether bundle is the one that was published last. Without a status, the
// bundle in the operator's own ConfigMap counts as that.
func (in observed) isPublished(bundle []byte) bool {
	reported := in.serviceCA.Status.TrustBundle
	return reported == nil || reported.Hash == pki.Hash(bundle)
}

// isKnownRoot reports whether root was in the bundle that was published last.
func (in observed) isKnownRoot(root *x509.Certificate) bool {
	status, fingerprint := in.serviceCA.Status, pki.Fingerprint(root)
	return (status.TrustBundle != nil && slices.Contains(status.TrustBundle.Fingerprints, fingerprint)) ||
		(status.Active != nil && status.Active.Fingerprint == fingerprint) ||
		in.hasSignedBefore(root)
}

// hasSignedBefore reports whether root belongs to a CA that has signed and has been replaced.
func (in observed) hasSignedBefore(root *x509.Certificate) bool {
	fingerprint := pki.Fingerprint(root)
	return slices.ContainsFunc(in.serviceCA.Status.Previous, func(g v1alpha1.CAGeneration) bool { return g.Fingerprint == fingerprint })
}

// extendPredecessors keeps every root for as long as certificates may be valid that the CA in the
// status has issued: the record of which roots they chain to is lost with the cross-signed
// certificates of that CA.
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

// signedUntilFor returns an upper bound, not after the notAfter of root, for the notAfter of every
// certificate that the CA in the status has issued; zero when the status does not record it.
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

// predecessor returns what the status records about the CA of root. A CA that the status no longer
// lists may have issued certificates that are valid until its notAfter.
func (in observed) predecessor(root *x509.Certificate) rotation.Predecessor {
	status, fingerprint := in.serviceCA.Status, pki.Fingerprint(root)
	predecessor := rotation.Predecessor{Root: root, KeyID: pki.KeyID(root.SubjectKeyId), SignedUntil: root.NotAfter, Compromised: in.compromised()}
	unlisted := len(status.Previous) < maxPrevious && !in.hasSignedBefore(root)
	if active := status.Active; active != nil && unlisted && active.LongestDurationSeconds != nil {
		// The root that is not listed is that of the CA that signed last.
		predecessor.KeyID, predecessor.Compromised, predecessor.SignedUntil = active.SubjectKeyID, false, in.signedUntilFor(root)
	}
	for _, before := range status.Previous {
		if before.Fingerprint == fingerprint && before.SignedUntil != nil {
			predecessor.SignedUntil = before.SignedUntil.Time
		}
	}
	return predecessor
}
