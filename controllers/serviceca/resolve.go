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

// found is the CA as it was found, and what became of it meanwhile.
type found struct {
	// state is nil when there is no CA.
	state   *rotation.State
	problem *problem
	events  []happening
}

// resolve reads the signing-key Secret. Where that is gone, broken or older than what has happened, it finds out from the published
// bundle and from the status what clients trust, and gives up nothing of it.
func resolve(in observed) found {
	given := in.find()
	if told := in.serviceCA.Status.TrustBundle; given.state != nil && told != nil && told.ChangedAt != nil && told.ChangedAt.After(given.state.TrustChangedAt) {
		// A backup, or a key that was lost, does not know when.
		given.state.TrustChangedAt = told.ChangedAt.Time
	}
	return given
}

// find is the CA in the signing-key Secret, or what takes its place.
func (in observed) find() found {
	secret := in.secret
	if secret == nil {
		secret = in.formerly
	}
	if secret == nil {
		return in.begin(v1alpha1.RotationSigningKeyLost, "its Secret is gone")
	}
	if problem := in.signingKeyProblem(secret); problem != nil {
		return found{problem: problem}
	}
	state, lost := rotation.Read(in.now, secret)
	if state == nil {
		return in.begin(v1alpha1.RotationSigningKeyLost, fmt.Sprintf("Secret %s: %v", secret.Name, lost))
	}
	if told := in.toldSince(); state.Since.Before(told) || (state.Since.Equal(told) && in.foreign(state)) {
		return in.restored(state)
	}
	in.remind(state)
	switch {
	case lost == nil:
		return found{state: state}
	case state.Active != nil:
		return found{state: state, events: []happening{tellPutBack(in.serviceCA, lost.Error())}}
	}
	for i, p := range state.Previous {
		state.Previous[i] = in.predecessor(p.Root)
	}
	in.keep(state)
	return found{state: state, events: []happening{tellLost(in.serviceCA, state, lost.Error())}}
}

// remind adds to a state what somebody may have taken from it by hand, or by restoring what was before, where the status still knows it.
func (in observed) remind(state *rotation.State) {
	if told := in.toldSince(); told.IsZero() || !state.Since.After(told) {
		state.Know(in.recovered()...)
		state.Longest = max(state.Longest, in.rememberedLongest(state.Active))
	}
}

func keyElsewhere(ca *v1alpha1.ServiceCA, elsewhere *types.NamespacedName) *problem {
	return &problem{reason: reasonKeyElsewhere, message: fmt.Sprintf("the signing key is in Secret %s, and not in Secret %s of the operator's namespace: "+
		"move it there, or delete that Secret if the key is to be replaced", elsewhere, ca.SigningKeySecretName())}
}

// begin makes a CA where there is none, or none that may sign. Where clients trust others, it must be known to them before it signs.
func (in observed) begin(reason v1alpha1.RotationReason, why string) found {
	next, problem := in.first()
	if problem != nil {
		return found{problem: problem}
	}
	state := &rotation.State{
		Phase: v1alpha1.PhasePublishing, Since: in.stamp(), StartedAt: in.stamp(), Reason: reason,
		Trigger: in.serviceCA.Spec.Rotation.Trigger, Longest: in.longest, Next: next,
	}
	state.Compromise = in.unfinishedCompromise()
	last := in.withLastCertificate(next)
	copied := in.serviceCA.Status.Active != nil && last != nil && in.knows(last.Root)
	if copied {
		// Only our copy of a CA that was brought is lost, though its certificate may have been renewed.
		state.Phase, state.Active, state.Next = v1alpha1.PhaseReissuing, last, nil
	}
	state.Know(in.recovered()...)
	in.keep(state)
	// Without a status, as after the ServiceCA was made again, clients hold what is still published.
	state.TrustChanging = in.serviceCA.Status.TrustBundle != nil || len(state.Previous) > 0
	switch {
	case copied:
		// A rotation that has not switched the signer has not begun: the CA that signs again is the one that it was to replace.
		state.TrustChanging, state.Trigger, state.Compromise = false, in.switchedTrigger(), in.compromised()
		state.Longest = max(state.Longest, in.rememberedLongest(state.Active))
		if in.secret != nil {
			state.Active.Authority = state.Active.WithBridge(pki.ParseBridge(in.secret.Data[rotation.BridgeKey]))
			in.shortenBridge(state)
		}
		return found{state: state, events: []happening{tellCopied(state, why)}}
	case !state.Alive(in.now):
		state.Phase, state.Reason, state.StartedAt = v1alpha1.PhaseStable, "", time.Time{}
		state.Active, state.Next = state.Next, nil
	case in.serviceCA.Spec.Rotation.Mode == v1alpha1.RotationPaused:
		return found{problem: pausedWithoutKey(why)}
	}
	return found{state: state, events: []happening{tellLost(in.serviceCA, state, why)}}
}

func pausedWithoutKey(why string) *problem {
	return &problem{reason: reasonRotationPaused, message: fmt.Sprintf(
		"the signing key is lost (%s), and spec.rotation.mode Paused keeps a new one from being made: set it to Automatic, or restore the key", why)}
}

// first is a CA of the source's.
func (in observed) first() (*rotation.Signer, *problem) {
	source := in.serviceCA.Spec.Source
	switch {
	case in.elsewhere != nil:
		return nil, keyElsewhere(in.serviceCA, in.elsewhere)
	case source.CertManager != nil:
		return in.requested()
	case source.Secret != nil:
		return in.broughtSigner()
	}
	var before pki.Bundle
	for _, p := range in.recovered() {
		before = append(before, p.Root)
	}
	signer, err := in.mint(before)
	if err != nil {
		return nil, &problem{reason: reasonSourceInvalid, message: "spec.certificate: " + err.Error()}
	}
	return signer, nil
}

// toldSince is when the phase began that the status reports. A status is always written after the Secret: an older Secret is one that
// somebody has restored.
func (in observed) toldSince() time.Time {
	if told := in.serviceCA.Status.Rotation; told != nil && told.LastTransitionTime != nil {
		return told.LastTransitionTime.Time
	}
	return time.Time{}
}

// foreign tells whether a Secret holds another CA than was reported of it.
func (in observed) foreign(state *rotation.State) bool {
	status := in.serviceCA.Status
	return status.TrustBundle != nil && (!sameSigner(status.Active, state.Active) || !sameSigner(status.Next, state.Next))
}

func sameSigner(told *v1alpha1.CAGeneration, active *rotation.Signer) bool {
	if told == nil || active == nil {
		return told == nil && active == nil
	}
	return told.Fingerprint == active.Fingerprint()
}

// stamp is the time of a new phase, always later than what the status reports.
func (in observed) stamp() time.Time {
	now, told := in.now.Truncate(time.Second), in.toldSince()
	if !now.After(told) {
		return told.Add(time.Second)
	}
	return now
}

// restored goes on with a CA from a backup. It may sign where clients still trust it; where another has signed meanwhile, it is
// replaced by a new one, for its key had been given up.
func (in observed) restored(state *rotation.State) found {
	status := in.serviceCA.Status
	// What was being prepared then may have signed since.
	state.Next = nil
	same := in.signedLast(state)
	state.Know(in.recovered()...)
	if status.Next != nil && sameSigner(status.Next, state.Active) {
		// It is the one that was being prepared: it signs when it is known, and not before.
		state.Next, state.Active, state.Phase, state.Since = state.Active, nil, v1alpha1.PhasePublishing, in.stamp()
		state.Reason, state.StartedAt, state.Compromise = v1alpha1.RotationSigningKeyLost, state.Since, in.unfinishedCompromise()
		state.TrustChanging = true
		return found{state: state}
	}
	in.keep(state)
	if !same && (state.Active == nil || !in.knows(state.Active.Root) || in.toldCompromise()) {
		return in.begin(v1alpha1.RotationSigningKeyRestored, "the backup that was restored holds a key that may not sign any more")
	}
	if same && status.Rotation != nil && !in.toldPreparing() {
		state.Trigger = status.Rotation.Trigger
	}
	in.shortenBridge(state)
	state.Longest = max(state.Longest, in.rememberedLongest(state.Active))
	state.Phase, state.Since, state.Restored = v1alpha1.PhaseReissuing, in.stamp(), !same
	if state.Renewed != nil {
		// The rotation to it says so.
		return found{state: state}
	}
	return found{state: state, events: []happening{in.tellRestored(state)}}
}

// shortenBridge drops from the bridge of the active CA, which comes from a backup, what leads to roots that were retired since: GnuTLS
// refuses a server that sends more than one certificate which leads to a root that it does not trust.
func (in observed) shortenBridge(state *rotation.State) {
	var trusted pki.Bundle
	for _, p := range state.Previous {
		if in.knows(p.Root) {
			trusted = append(trusted, p.Root)
		}
	}
	state.Active.Authority = state.Active.WithBridge(pki.UsefulBridge(state.Active.Bridge(), trusted))
}

// unfinishedCompromise tells whether a key was to be given up as compromised that has been lost before it was.
func (in observed) unfinishedCompromise() bool {
	told, spec := in.serviceCA.Status.Rotation, in.serviceCA.Spec.Rotation
	if told == nil {
		return false
	}
	asked := spec.Trigger != "" && spec.Trigger != told.Trigger && spec.TriggerReason == v1alpha1.TriggerCompromise
	return asked || (told.Reason == v1alpha1.RotationCompromise && in.toldPreparing()) || in.compromised()
}

// signedLast reports whether the active CA has the key that signed last, as far as the status remembers. It then goes on with the
// certificate that signed last.
func (in observed) signedLast(state *rotation.State) bool {
	if state.Active == nil {
		return false
	}
	last := in.withLastCertificate(state.Active)
	if last != nil {
		state.Reinstate(last)
	}
	if state.Renewed != nil && in.signedBefore(state.Renewed.Root) {
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
	if told := in.serviceCA.Status.Rotation; told != nil && !in.toldPreparing() {
		return told.Trigger
	}
	return ""
}

// toldPreparing tells whether the status reports a rotation that has not switched the signer yet.
func (in observed) toldPreparing() bool {
	told := in.serviceCA.Status.Rotation
	return told != nil && (told.Phase == v1alpha1.PhasePublishing || told.Phase == v1alpha1.PhasePropagating)
}

// rememberedLongest is for how long from now what a CA has signed may live, as far as the status remembers.
func (in observed) rememberedLongest(signer *rotation.Signer) time.Duration {
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

// compromised tells whether the CAs before are to be distrusted.
func (in observed) compromised() bool {
	told := in.serviceCA.Status.Rotation
	return in.toldCompromise() && (told.Phase == v1alpha1.PhaseReissuing || told.Phase == v1alpha1.PhaseRetiring)
}

// toldCompromise reports whether the last rotation that the status reports was for a compromise, whatever its phase.
func (in observed) toldCompromise() bool {
	told := in.serviceCA.Status.Rotation
	return told != nil && told.Reason == v1alpha1.RotationCompromise
}

// recovered are the roots of this ServiceCA, as far as its status remembers them, that are published or that targets carry; but for
// that of a CA which was only being prepared.
func (in observed) recovered() []rotation.Predecessor {
	var found []rotation.Predecessor
	next := in.serviceCA.Status.Next
	for _, encoded := range append([][]byte{in.published}, in.carried...) {
		bundle, _ := pki.ParseBundle(encoded)
		for _, root := range bundle {
			known := slices.ContainsFunc(found, func(p rotation.Predecessor) bool { return p.Root.Equal(root) })
			prepared := next != nil && next.Fingerprint == pki.Fingerprint(root) && !in.signedBefore(root)
			if !known && !prepared && in.now.Before(root.NotAfter) && (in.isPublished(encoded) || in.knows(root)) {
				found = append(found, in.predecessor(root))
			}
		}
	}
	return found
}

// isPublished tells whether this is the bundle that was published last. Where no status tells, what stands in our own ConfigMap is.
func (in observed) isPublished(bundle []byte) bool {
	told := in.serviceCA.Status.TrustBundle
	return told == nil || told.Hash == pki.Hash(bundle)
}

// knows tells whether a root was in the bundle that was published last.
func (in observed) knows(root *x509.Certificate) bool {
	status, fingerprint := in.serviceCA.Status, pki.Fingerprint(root)
	return (status.TrustBundle != nil && slices.Contains(status.TrustBundle.Fingerprints, fingerprint)) ||
		(status.Active != nil && status.Active.Fingerprint == fingerprint) ||
		in.signedBefore(root)
}

// signedBefore tells whether a root is of a CA that has signed, and then another.
func (in observed) signedBefore(root *x509.Certificate) bool {
	fingerprint := pki.Fingerprint(root)
	return slices.ContainsFunc(in.serviceCA.Status.Previous, func(g v1alpha1.CAGeneration) bool { return g.Fingerprint == fingerprint })
}

// keep keeps every root for as long as certificates may live that the CA of the status has signed: which roots they lead to, is lost with its
// bridge.
func (in observed) keep(state *rotation.State) {
	active := in.serviceCA.Status.Active
	if active == nil {
		return
	}
	for i, p := range state.Previous {
		until := in.ledUntil(p.Root)
		if until.After(active.NotAfter.Time) {
			until = active.NotAfter.Time
		}
		state.Previous[i].SignedUntil = latest(p.SignedUntil, until)
	}
}

// ledUntil bounds, within the life of a root, the end of every certificate that the CA of the status has signed; zero where it does not say.
func (in observed) ledUntil(root *x509.Certificate) time.Time {
	active := in.serviceCA.Status.Active
	if active == nil || active.LongestDurationSeconds == nil {
		return time.Time{}
	}
	longest := time.Duration(*active.LongestDurationSeconds) * time.Second
	if end := in.now.Add(longest + rotation.SigningSlack); end.Before(root.NotAfter) {
		return end
	}
	return root.NotAfter
}

// predecessor is what the status remembers of the CA that a root belongs to: of one that it forgot, that it may have signed until its end.
func (in observed) predecessor(root *x509.Certificate) rotation.Predecessor {
	status, fingerprint := in.serviceCA.Status, pki.Fingerprint(root)
	made := rotation.Predecessor{Root: root, KeyID: pki.KeyID(root.SubjectKeyId), SignedUntil: root.NotAfter, Compromised: in.compromised()}
	unlisted := len(status.Previous) < maxPrevious && !in.signedBefore(root)
	if active := status.Active; active != nil && unlisted && active.LongestDurationSeconds != nil {
		// The one that is not listed is the root of the CA that signed last.
		made.KeyID, made.Compromised, made.SignedUntil = active.SubjectKeyID, false, in.ledUntil(root)
	}
	for _, before := range status.Previous {
		if before.Fingerprint == fingerprint && before.SignedUntil != nil {
			made.SignedUntil = before.SignedUntil.Time
		}
	}
	return made
}
