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
	reasonKeyElsewhere     = "SigningKeyElsewhere"
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
	// formerly is the signing-key Secret of this ServiceCA under a former name, nil when there is none.
	formerly *corev1.Secret
	// elsewhere is a Secret of another namespace that holds the key of this CA while ours does not; nil when there is none.
	elsewhere *types.NamespacedName
	// published is what the trust-bundle ConfigMap holds, and carried what targets do, where that has to be known.
	published []byte
	carried   [][]byte
	// clusterBundle is the ClusterTrustBundle.
	clusterBundle clusterBundle
	// brought is the Secret of source.secret, nil when there is none.
	brought *corev1.Secret
	// asked is what cert-manager was asked for.
	asked asked
	// longest is the longest lifetime that a policy asks for.
	longest time.Duration
}

// problem is what stands in the way.
type problem struct {
	reason, message string
	// passing tells that it may go without anybody changing what is there.
	passing bool
}

// step is what follows from what was observed.
type step struct {
	// state is what the signing-key Secret should hold; nil when there is no CA.
	state *rotation.State
	// secret is that Secret where it does not hold it yet; nil when there is nothing to write.
	secret *corev1.Secret
	// blockedBy is what a rotation waits for.
	blockedBy []string
	events    []happening
	problem   *problem
	// retry is when to look again for what no event tells of; zero when events tell of everything.
	retry time.Duration
	// wanted is set where cert-manager must give another CA.
	wanted bool
}

const (
	// retryRefused is how often a write that was refused, by a quota perhaps, is tried again.
	retryRefused = 30 * time.Second
	// retryElsewhere is how often it looks whether a key is still in another namespace: no event tells.
	retryElsewhere = 30 * time.Second
	// nextStep is when a rotation takes the next step, at the soonest.
	nextStep = 10 * time.Millisecond
	// retryEvidence is how often it looks again for what no event tells of: a Service that is told of an obstacle, a fight that begins.
	retryEvidence = 30 * time.Second
)

// lookAgain asks for the next step, and for what is waited for.
func (s *step) lookAgain(seen evidence) {
	switch {
	case s.state == nil || s.retry != 0:
	case s.secret != nil:
		s.retry = nextStep
	case s.state.TrustChanging && seen.Behind > 0,
		s.state.Phase != v1alpha1.PhaseStable && (seen.Behind+seen.Outstanding+seen.Requests > 0 || seen.Restarts.Waiting()):
		s.retry = retryEvidence
	case seen.RequestsUnseen:
		s.retry = retryUnseen
	case seen.unpublished != "", seen.unverified > 0, seen.clusterBundle.refused != "" && !seen.clusterBundle.theirs:
		s.retry = retryClusterBundle
	}
}

// refused makes a write that the API server refused for good a problem that people are told of; any other error comes back.
func (s *step) refused(reason string, err error) error {
	if !apply.Refused(err) && !apply.Unpermitted(err) {
		return err
	}
	*s = step{problem: &problem{reason: reason, message: err.Error()}, retry: retryRefused}
	return nil
}

// plan decides what to do about a CA that was found.
func plan(in observed, given found, seen evidence) step {
	decided := step{state: given.state, problem: given.problem, events: given.events}
	if given.state == nil {
		decided.wanted = in.serviceCA.Spec.Source.CertManager != nil && given.problem != nil && in.elsewhere == nil
		if in.elsewhere != nil {
			decided.retry = retryElsewhere
		}
		return decided
	}
	state := *given.state
	state.Longest = max(state.Longest, in.longest)
	decided.putBack(in, &state)
	next := in.successor(&state)
	if decided.problem == nil {
		decided.problem = next.problem
	}
	input := rotation.Input{
		Now: in.now, Spec: in.threshold(&state), State: &state, Evidence: seen.Evidence, Cause: next.cause, NoSuccessor: next.none,
	}
	decision := rotation.Decide(input)
	decided.blockedBy, decided.wanted = decision.BlockedBy, decision.Wanted
	err := decided.move(in, input, decision, next, seen.reissueOver)
	if err == nil {
		err = decided.compare(in)
	}
	if err != nil {
		return step{problem: &problem{reason: reasonSourceInvalid, message: "spec.certificate: " + err.Error()}}
	}
	if decided.problem == nil {
		decided.problem = weak(decided.state)
	}
	return decided
}

// weak returns the problem that clients refuse what the active CA signs, or nil. Such a CA goes on signing and stays trusted, for the
// clients that accept it.
func weak(state *rotation.State) *problem {
	if state.Active == nil {
		return nil
	}
	err := state.Active.CheckStrength()
	if err == nil {
		return nil
	}
	return &problem{reason: reasonWeakCA, passing: state.Next != nil, message: fmt.Sprintf("%s signs on, but clients refuse its certificates: %v",
		state.Active.Name(), err)}
}

func (s *step) move(in observed, input rotation.Input, decision rotation.Decision, next successor, over time.Duration) error {
	signer := next.signer
	if decision.Move == rotation.Begin && signer == nil {
		var err error
		if signer, err = in.mint(input.State.Bundle()); err != nil {
			return err
		}
	}
	moved, err := input.Move(decision, signer, over)
	if err != nil {
		return err
	}
	s.state = moved
	if decision.Move != rotation.Stay && decision.Move != rotation.Announce && decision.Move != rotation.Shorten {
		s.events = append(s.events, tellMove(input.State, moved, decision))
	}
	return nil
}

// compare finds out whether the signing-key Secret has to be written.
func (s *step) compare(in observed) error {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: in.serviceCA.SigningKeySecretName()}, Type: corev1.SecretTypeTLS}
	if in.secret != nil {
		secret = in.secret.DeepCopy()
	}
	metav1.SetMetaDataLabel(&secret.ObjectMeta, v1alpha1.LabelServiceCA, in.serviceCA.Name)
	if source := in.serviceCA.Spec.Source; source.Secret == nil {
		// A key that was brought stays as it was.
		if err := s.state.EncodeKeys(pki.EncodingOf(in.serviceCA.Spec.Certificate.PrivateKey)); err != nil {
			return err
		}
	}
	if err := s.state.Write(secret); err != nil {
		return err
	}
	if in.secret == nil || !equality.Semantic.DeepEqual(in.secret.Data, secret.Data) || !maps.Equal(in.secret.Annotations, secret.Annotations) {
		s.secret = secret
	}
	return nil
}

// mint generates a root.
func (in observed) mint(before pki.Bundle) (*rotation.Signer, error) {
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
	// none says why there is no other CA, and what to do; empty when there is one.
	none    string
	problem *problem
}

// blocked is a successor that there is not, and everybody is told.
func blocked(p *problem) successor { return successor{problem: p, none: p.message} }

func (in observed) successor(state *rotation.State) successor {
	current, source := state.Active, in.serviceCA.Spec.Source
	if state.Next != nil {
		current = state.Next
	}
	begin := current.Certificate().NotBefore
	switch {
	case state.Renewed != nil && !in.compromising(state):
		return in.renewedSuccessor(state.Renewed)
	case source.CertManager != nil:
		return in.requestedSuccessor(current)
	case source.Secret != nil:
		return in.broughtSuccessor(state, current)
	case in.now.Before(begin):
		return blocked(&problem{reason: reasonNotYetValid, passing: true, message: fmt.Sprintf("%s is not valid before %s: correct the clock of this node, or wait",
			current.Name(), begin.UTC().Format(time.RFC3339))})
	case current.Source != rotation.SelfSigned:
		return successor{cause: v1alpha1.RotationSourceChanged}
	case !pki.RootSpecOf(in.serviceCA.Spec.Certificate).Describes(current.Certificate()):
		return successor{cause: v1alpha1.RotationSpecChanged}
	}
	return successor{}
}

func (in observed) broughtSuccessor(state *rotation.State, current *rotation.Signer) successor {
	brought, problem := in.broughtSigner()
	switch {
	case problem != nil:
		return blocked(problem)
	case same(brought, current):
		return successor{none: fmt.Sprintf("the CA comes from Secret %s: put another one there", in.serviceCA.Spec.Source.Secret.Name)}
	case in.compromising(state) && brought.HasKeyOf(current.Certificate()):
		return successor{none: fmt.Sprintf("the CA in Secret %s has the key that was compromised: put one with another key there", in.serviceCA.Spec.Source.Secret.Name)}
	}
	return successor{signer: brought, cause: v1alpha1.RotationSourceChanged}
}

// same tells whether two CAs are alike: their certificates, their chains and their roots.
func same(a, b *rotation.Signer) bool {
	return a.Fingerprint() == b.Fingerprint() && a.Root.Equal(b.Root)
}

// threshold is the rotation as it is meant for a CA whose lifetime somebody else decided about: one that lives for less than rotateBefore is due
// after two thirds of its life, and not at once for ever.
func (in observed) threshold(state *rotation.State) v1alpha1.CARotation {
	spec, source := in.serviceCA.Spec.Rotation, in.serviceCA.Spec.Source
	if (source.CertManager == nil && source.Secret == nil) || state == nil || state.Active == nil {
		return spec
	}
	if lifetime := state.Active.NotAfter().Sub(state.Active.Certificate().NotBefore); lifetime <= spec.RotateBefore.Std() {
		spec.RotateBefore = v1alpha1.Duration((lifetime / 3).Truncate(time.Millisecond).String())
	}
	return spec
}

// broughtSigner is the CA in the Secret of source.secret.
func (in observed) broughtSigner() (*rotation.Signer, *problem) {
	name := in.serviceCA.Spec.Source.Secret.Name
	if problem := in.sourceProblem(); problem != nil {
		return nil, problem
	}
	if in.brought == nil {
		return nil, &problem{reason: reasonSourceNotThere, passing: true, message: fmt.Sprintf(
			"spec.source.secret: there is no Secret %s in the operator's namespace: create it with tls.crt and tls.key", name)}
	}
	signer, err := in.readBrought()
	if err != nil {
		return nil, &problem{reason: reasonSourceInvalid, message: fmt.Sprintf("spec.source.secret: Secret %s: %v", name, err)}
	}
	return signer, nil
}

func (in observed) readBrought() (*rotation.Signer, error) {
	pair := pki.Pair{Certificate: in.brought.Data[corev1.TLSCertKey], PrivateKey: in.brought.Data[corev1.TLSPrivateKeyKey]}
	authority, err := pki.LoadAuthority(pair)
	if err != nil {
		return nil, err
	}
	if err := in.checkValidity(authority.Certificate()); err != nil {
		return nil, err
	}
	root, err := authority.Root(in.now, pair.Certificate, in.brought.Data[corev1.ServiceAccountRootCAKey])
	if err != nil {
		return nil, err
	}
	signer := &rotation.Signer{Authority: authority, Root: root, Source: "secret/" + in.brought.Name}
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
