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

// Reasons of the conditions.
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

// observed is the input of every decision about a CA, except for the evidence.
type observed struct {
	now       time.Time
	serviceCA *v1alpha1.ServiceCA
	// secret is the signing-key Secret; nil when there is none under the name in the spec.
	secret *corev1.Secret
	// serviceCAs are all ServiceCAs.
	serviceCAs []v1alpha1.ServiceCA
	// formerSecret is the signing-key Secret of this ServiceCA under a former name; nil when there is
	// none.
	formerSecret *corev1.Secret
	// keyOutside is a Secret of another namespace that holds the key of this CA when the operator's
	// namespace does not; nil when there is none.
	keyOutside *types.NamespacedName
	// published is the bundle in the trust-bundle ConfigMap. injectedBundles are the bundles in the
	// targets, read only when the published one is lost.
	published       []byte
	injectedBundles [][]byte
	// clusterTrustBundle is the observed ClusterTrustBundle.
	clusterTrustBundle clusterTrustBundle
	// sourceSecret is the Secret of source.secret; nil when there is none.
	sourceSecret *corev1.Secret
	// pendingRequest is the CA requested from cert-manager.
	pendingRequest pendingRequest
	// longestDuration is the longest certificate duration in a policy.
	longestDuration time.Duration
}

// problem is what keeps a CA from being ready.
type problem struct {
	reason, message string
	// transient is set when the problem may go away without a change by an administrator.
	transient bool
}

// changePlan is the result of a decision: what to write and what to report.
type changePlan struct {
	// state is what the signing-key Secret should hold; nil when there is no CA.
	state *rotation.State
	// secret is the signing-key Secret to write; nil when it already holds state.
	secret *corev1.Secret
	// blockedBy lists what a rotation waits for.
	blockedBy []string
	events    []rotationEvent
	problem   *problem
	// retry is how long to wait before checking what no event announces; zero when events announce
	// everything.
	retry time.Duration
	// needsRequest is set when cert-manager must sign another CA.
	needsRequest bool
}

const (
	// retryRefused is how often a write that the API server rejected, for example because of a quota,
	// is retried.
	retryRefused = 30 * time.Second
	// retryKeyOutside is how often the operator checks whether a key is still in another namespace: no
	// event announces that it has gone.
	retryKeyOutside = 30 * time.Second
	// nextStep is the shortest wait between two steps of a rotation.
	nextStep = 10 * time.Millisecond
	// retryEvidence is how often the operator checks for what no event announces: a problem reported
	// on a Service, or a new conflict with another writer.
	retryEvidence = 30 * time.Second
)

// scheduleRecheck sets retry for the next step, or for what the rotation waits for.
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

// asProblem replaces the plan by a problem with this reason when the API server rejected a write,
// and returns nil. It returns any other error unchanged.
func (p *changePlan) asProblem(reason string, err error) error {
	if !apply.IsRejected(err) && !apply.IsNotPermitted(err) {
		return err
	}
	*p = changePlan{problem: &problem{reason: reason, message: err.Error()}, retry: retryRefused}
	return nil
}

// makePlan decides the next step for the resolved CA.
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

// weakCAProblem returns the problem that clients reject certificates of the active CA, or nil. Such
// a CA continues to sign and remains trusted, for the clients that accept it.
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

// buildSecret sets the signing-key Secret to write, if it has to change.
func (p *changePlan) buildSecret(in observed) error {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: in.serviceCA.SigningKeySecretName()}, Type: corev1.SecretTypeTLS}
	if in.secret != nil {
		secret = in.secret.DeepCopy()
	}
	metav1.SetMetaDataLabel(&secret.ObjectMeta, v1alpha1.LabelServiceCA, in.serviceCA.Name)
	if source := in.serviceCA.Spec.Source; source.Secret == nil {
		// The encoding of an imported key is not changed.
		if err := p.state.EncodeKeys(pki.EncodingOf(in.serviceCA.Spec.Certificate.PrivateKey)); err != nil {
			return err
		}
	}
	if err := p.state.Write(secret); err != nil {
		return err
	}
	if in.secret == nil || !equality.Semantic.DeepEqual(in.secret.Data, secret.Data) || !maps.Equal(in.secret.Annotations, secret.Annotations) {
		p.secret = secret
		return nil
	}
	// A move that was written before the bundle could be published is decided about once more. Its
	// Event has been recorded.
	p.events = nil
	return nil
}

// generateRoot returns a new self-signed root.
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

// successor is the CA that the source provides to follow the CA that signs, or the one that is
// being prepared.
type successor struct {
	// signer is the next CA; nil when it has to be generated.
	signer *rotation.Signer
	// cause is why the source requires a replacement of the CA; empty when it does not.
	cause v1alpha1.RotationReason
	// unavailableReason is why there is no next CA, and what to do; empty when there is one.
	unavailableReason string
	problem           *problem
}

// blockedSuccessor returns a successor that is not available because of p. The status reports p.
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

// sameCA reports whether two CAs have the same certificate, chain and root.
func sameCA(a, b *rotation.Signer) bool {
	return a.Fingerprint() == b.Fingerprint() && a.Root.Equal(b.Root)
}

// effectiveRotation returns the rotation spec to use for the active CA. The lifetime of a CA from
// cert-manager or from a Secret is not set by the operator: one that is no longer than rotateBefore
// would always be due, so it is due after two thirds of its lifetime instead.
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

// sourceSecretSigner returns the CA in the Secret of source.secret, or the problem with that
// Secret.
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
