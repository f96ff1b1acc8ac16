package serviceca

import (
	"crypto/x509"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// The reasons of the conditions.
const (
	reasonReady            = "Ready"
	reasonSourceNotThere   = "SourceNotThere"
	reasonSourceInvalid    = "SourceInvalid"
	reasonSigningKeyNotOur = "SigningKeyNotOurs"
	reasonKeyOutside       = "SigningKeyElsewhere"
	reasonKeyRefused       = "SigningKeyRefused"
	reasonBundleNotOurs    = "TrustBundleNotOurs"
	reasonBundleRefused    = "TrustBundleRefused"
	reasonNotYetValid      = "NotYetValid"
	reasonRotationPaused   = "RotationPaused"
	reasonWeakCA           = "WeakCA"
)

// observed is everything that decides what becomes of a CA, but for the evidence.
type observed struct {
	now       time.Time
	serviceCA *v1alpha1.ServiceCA
	// secret is the signing-key Secret, nil when there is none under the wanted name.
	secret *corev1.Secret
	// serviceCAs are all ServiceCAs.
	serviceCAs []v1alpha1.ServiceCA
	// formerSecret is the signing-key Secret of this ServiceCA under a former name, nil when there is none.
	formerSecret *corev1.Secret
	// keyOutside is a Secret of another namespace that holds the key of this CA while ours does not; nil when there is none.
	keyOutside *types.NamespacedName
	// published is what the trust-bundle ConfigMap holds, and carried what targets do, where that has to be known.
	published       []byte
	injectedBundles [][]byte
	// clusterTrustBundle is the ClusterTrustBundle.
	clusterTrustBundle clusterTrustBundle
	// sourceSecret is the Secret of source.secret, nil when there is none.
	sourceSecret *corev1.Secret
	// pendingRequest is what cert-manager was asked for.
	pendingRequest pendingRequest
	// longestDuration is the longest lifetime that a policy asks for.
	longestDuration time.Duration
}

// problem is what stands in the way.
type problem struct {
	reason, message string
	// transient tells that it may go without anybody changing what is there.
	transient bool
}

// changePlan is what follows from what was observed.
type changePlan struct {
	// state is what the signing-key Secret should hold; nil when there is no CA.
	state *rotation.State
	// secret is that Secret where it does not hold it yet; nil when there is nothing to write.
	secret *corev1.Secret
	// blockedBy is what a rotation waits for.
	blockedBy []string
	events    []rotationEvent
	problem   *problem
	// retry is when to look again for what no event tells of; zero when events tell of everything.
	retry time.Duration
	// needsRequest is set where cert-manager must give another CA.
	needsRequest bool
}

const (
	// retryRefused is how often a write that was refused, by a quota perhaps, is tried again.
	retryRefused = 30 * time.Second
	// retryKeyOutside is how often it looks whether a key is still in another namespace: no event tells.
	retryKeyOutside = 30 * time.Second
	// nextStep is when a rotation takes the next step, at the soonest.
	nextStep = 10 * time.Millisecond
	// retryEvidence is how often it looks again for what no event tells of: a Service that is told of a problem, a fight that begins.
	retryEvidence = 30 * time.Second
)

// scheduleRecheck asks for the next step, and for what is waited for.
func (p *changePlan) scheduleRecheck(evidence clusterEvidence) {
	switch {
	case p.state == nil || p.retry != 0:
	case p.secret != nil:
		p.retry = nextStep
	case p.state.TrustChanging && evidence.OutOfDate > 0,
		p.state.Phase != v1alpha1.PhaseStable && (evidence.OutOfDate+evidence.Outstanding+evidence.Requests > 0 || evidence.Restarts.Pending()):
		p.retry = retryEvidence
	case evidence.RequestsUnknown:
		p.retry = retryUnknown
	case evidence.unpublished != "", evidence.unverified > 0, evidence.clusterTrustBundle.rejection != "" && !evidence.clusterTrustBundle.foreign:
		p.retry = retryClusterTrustBundle
	}
}

// asProblem makes a write that the API server refused for good a problem that people are told of; any other error comes back.
func (p *changePlan) asProblem(reason string, err error) error {
	if !apply.IsRejected(err) && !apply.IsNotPermitted(err) {
		return err
	}
	*p = changePlan{problem: &problem{reason: reason, message: err.Error()}, retry: retryRefused}
	return nil
}

// makePlan decides what to do about a CA that was found.
func makePlan(in observed, resolved resolution, evidence clusterEvidence) changePlan {
	plan := changePlan{state: resolved.state, problem: resolved.problem, events: resolved.events}
	if resolved.state == nil {
		plan.needsRequest = in.serviceCA.Spec.Source.CertManager != nil && resolved.problem != nil && in.keyOutside == nil
		if in.keyOutside != nil {
			plan.retry = retryKeyOutside
		}
		return plan
	}
	state := *resolved.state
	state.LongestDuration = max(state.LongestDuration, in.longestDuration)
	plan.revertRenewed(in, &state)
	next := in.successor(&state)
	if plan.problem == nil {
		plan.problem = next.problem
	}
	input := rotation.Input{
		Now: in.now, Spec: in.effectiveRotation(&state), State: &state, Evidence: evidence.Evidence, Cause: next.cause, NoSuccessor: next.unavailableReason,
	}
	decision := rotation.Decide(input)
	plan.blockedBy, plan.needsRequest = decision.BlockedBy, decision.NeedsCA
	err := plan.applyMove(in, input, decision, next, evidence.reissueSpread)
	if err == nil {
		err = plan.buildSecret(in)
	}
	if err != nil {
		return changePlan{problem: &problem{reason: reasonSourceInvalid, message: "spec.certificate: " + err.Error()}}
	}
	if plan.problem == nil {
		plan.problem = weakCAProblem(plan.state)
	}
	return plan
}

// weakCAProblem returns the problem that clients refuse what the active CA signs, or nil. Such a CA goes on signing and stays trusted, for the
// clients that accept it.
func weakCAProblem(state *rotation.State) *problem {
	if state.Active == nil {
		return nil
	}
	err := state.Active.CheckStrength()
	if err == nil {
		return nil
	}
	return &problem{reason: reasonWeakCA, transient: state.Next != nil, message: fmt.Sprintf("%s signs on, but clients refuse its certificates: %v",
		state.Active.Name(), err)}
}

func (p *changePlan) applyMove(in observed, input rotation.Input, decision rotation.Decision, next successor, spread time.Duration) error {
	signer := next.signer
	if decision.Move == rotation.Begin && signer == nil {
		var err error
		if signer, err = in.generateRoot(input.State.Bundle()); err != nil {
			return err
		}
	}
	moved, err := input.Move(decision, signer, spread)
	if err != nil {
		return err
	}
	p.state = moved
	if decision.Move != rotation.NoMove && decision.Move != rotation.RecordPropagated && decision.Move != rotation.TrimCrossSigned {
		p.events = append(p.events, moveEvent(input.State, moved, decision))
	}
	return nil
}

// buildSecret finds out whether the signing-key Secret has to be written.
func (p *changePlan) buildSecret(in observed) error {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: in.serviceCA.SigningKeySecretName()}, Type: corev1.SecretTypeTLS}
	if in.secret != nil {
		secret = in.secret.DeepCopy()
	}
	metav1.SetMetaDataLabel(&secret.ObjectMeta, v1alpha1.LabelServiceCA, in.serviceCA.Name)
	if source := in.serviceCA.Spec.Source; source.Secret == nil {
		// A key that was brought stays as it was.
		if err := p.state.EncodeKeys(pki.EncodingOf(in.serviceCA.Spec.Certificate.PrivateKey)); err != nil {
			return err
		}
	}
	if err := p.state.Write(secret); err != nil {
		return err
	}
	if in.secret == nil || !equality.Semantic.DeepEqual(in.secret.Data, secret.Data) || !maps.Equal(in.secret.Annotations, secret.Annotations) {
		p.secret = secret
	}
	return nil
}

// generateRoot generates a root.
func (in observed) generateRoot(before pki.Bundle) (*rotation.Signer, error) {
	pair, err := pki.GenerateRoot(in.now, pki.RootSpecOf(in.serviceCA.Spec.Certificate), before...)
	if err != nil {
		return nil, err
	}
	authority, err := pki.LoadAuthority(pair)
	if err != nil {
		return nil, err
	}
	return &rotation.Signer{Authority: authority, Root: authority.Certificate(), Source: rotation.SelfSigned}, nil
}

// successor is what the source has to give after the CA that signs, or that is going to.
type successor struct {
	// signer is another CA; nil where one has to be generated.
	signer *rotation.Signer
	// cause is why the source wants the CA replaced; empty when it does not.
	cause v1alpha1.RotationReason
	// unavailableReason says why there is no other CA, and what to do; empty when there is one.
	unavailableReason string
	problem           *problem
}

// blockedSuccessor is a successor that there is not, and everybody is told.
func blockedSuccessor(p *problem) successor {
	return successor{problem: p, unavailableReason: p.message}
}

func (in observed) successor(state *rotation.State) successor {
	current, source := state.Active, in.serviceCA.Spec.Source
	if state.Next != nil {
		current = state.Next
	}
	start := current.Certificate().NotBefore
	switch {
	case state.Renewed != nil && !in.compromiseRequested(state):
		return in.renewedSuccessor(state.Renewed)
	case source.CertManager != nil:
		return in.requestedSuccessor(current)
	case source.Secret != nil:
		return in.sourceSecretSuccessor(state, current)
	case in.now.Before(start):
		return blockedSuccessor(&problem{reason: reasonNotYetValid, transient: true, message: fmt.Sprintf("%s is not valid before %s: correct the clock of this node, or wait",
			current.Name(), start.UTC().Format(time.RFC3339))})
	case current.Source != rotation.SelfSigned:
		return successor{cause: v1alpha1.RotationSourceChanged}
	case !pki.RootSpecOf(in.serviceCA.Spec.Certificate).Matches(current.Certificate()):
		return successor{cause: v1alpha1.RotationSpecChanged}
	}
	return successor{}
}

func (in observed) sourceSecretSuccessor(state *rotation.State, current *rotation.Signer) successor {
	signer, problem := in.sourceSecretSigner()
	switch {
	case problem != nil:
		return blockedSuccessor(problem)
	case sameCA(signer, current):
		return successor{unavailableReason: fmt.Sprintf("the CA comes from Secret %s: put another one there", in.serviceCA.Spec.Source.Secret.Name)}
	case in.compromiseRequested(state) && signer.HasKey(current.Certificate()):
		return successor{unavailableReason: fmt.Sprintf("the CA in Secret %s has the key that was compromised: put one with another key there", in.serviceCA.Spec.Source.Secret.Name)}
	}
	return successor{signer: signer, cause: v1alpha1.RotationSourceChanged}
}

// sameCA reports whether two CAs are alike: their certificates, their chains and their roots.
func sameCA(a, b *rotation.Signer) bool {
	return a.Fingerprint() == b.Fingerprint() && a.Root.Equal(b.Root)
}

// effectiveRotation is the rotation as it is meant for a CA whose lifetime somebody else decided about: one that lives for less than rotateBefore is due
// after two thirds of its life, and not at once for ever.
func (in observed) effectiveRotation(state *rotation.State) v1alpha1.CARotation {
	spec, source := in.serviceCA.Spec.Rotation, in.serviceCA.Spec.Source
	if (source.CertManager == nil && source.Secret == nil) || state == nil || state.Active == nil {
		return spec
	}
	if lifetime := state.Active.NotAfter().Sub(state.Active.Certificate().NotBefore); lifetime <= spec.RotateBefore.Std() {
		spec.RotateBefore = v1alpha1.Duration((lifetime / 3).Truncate(time.Millisecond).String())
	}
	return spec
}

// sourceSecretSigner is the CA in the Secret of source.secret.
func (in observed) sourceSecretSigner() (*rotation.Signer, *problem) {
	name := in.serviceCA.Spec.Source.Secret.Name
	if problem := in.sourceProblem(); problem != nil {
		return nil, problem
	}
	if in.sourceSecret == nil {
		return nil, &problem{reason: reasonSourceNotThere, transient: true, message: fmt.Sprintf(
			"spec.source.secret: there is no Secret %s in the operator's namespace: create it with tls.crt and tls.key", name)}
	}
	signer, err := in.parseSourceSecret()
	if err != nil {
		return nil, &problem{reason: reasonSourceInvalid, message: fmt.Sprintf("spec.source.secret: Secret %s: %v", name, err)}
	}
	return signer, nil
}

func (in observed) parseSourceSecret() (*rotation.Signer, error) {
	pair := pki.Pair{Certificate: in.sourceSecret.Data[corev1.TLSCertKey], PrivateKey: in.sourceSecret.Data[corev1.TLSPrivateKeyKey]}
	authority, err := pki.LoadAuthority(pair)
	if err != nil {
		return nil, err
	}
	if err := in.checkValidity(authority.Certificate()); err != nil {
		return nil, err
	}
	root, err := authority.Root(in.now, pair.Certificate, in.sourceSecret.Data[corev1.ServiceAccountRootCAKey])
	if err != nil {
		return nil, err
	}
	signer := &rotation.Signer{Authority: authority, Root: root, Source: "secret/" + in.sourceSecret.Name}
	err = signer.CheckStrength()
	return signer, err
}

func (in observed) checkValidity(ca *x509.Certificate) error {
	switch {
	case !in.now.Before(ca.NotAfter):
		return fmt.Errorf("the CA in tls.crt expired %s", ca.NotAfter.UTC().Format(time.RFC3339))
	case in.now.Before(ca.NotBefore):
		return fmt.Errorf("the CA in tls.crt is not valid before %s", ca.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}
