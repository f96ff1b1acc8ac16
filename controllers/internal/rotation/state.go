// Package rotation decides how trust in a CA moves from one generation to the next, so that at
// every instant all servers and clients can verify each other: docs/rotation.md shows how. It uses
// no Kubernetes client and no clock; callers pass in the time.
package rotation

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"slices"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// SelfSigned is the source of a CA that the operator generated.
const SelfSigned = "selfSigned"

// SigningSlack is how long after the switch the old key may still sign a certificate, in a
// reconciliation that had begun before, plus how far the signer's clock may be ahead.
const SigningSlack = pki.ClockSkew + 2*time.Minute

// Signer is a CA that signs, or is going to.
type Signer struct {
	*pki.Authority
	// Root is what clients trust: the CA itself, or the root that it leads to.
	Root *x509.Certificate
	// Source says where the CA came from: SelfSigned, "secret/<name>", or
	// "certManager/<group>/<kind>/<name>" for an issuer of cert-manager.
	Source string
}

// Name returns the CA's name for users.
func (s *Signer) Name() string { return pki.NameOf(s.Certificate()) }

// CheckStrength returns why clients would refuse the CA, a certificate of its chain, or its root;
// nil when they would not.
func (s *Signer) CheckStrength() error {
	return pki.CheckStrength(append([]*x509.Certificate{s.Certificate(), s.Root}, s.Chain()...)...)
}

// Predecessor is a CA that no longer signs and whose root is still trusted.
type Predecessor struct {
	Root *x509.Certificate
	// KeyID is the subject key identifier of the CA that signed, in hexadecimal.
	KeyID string
	// SignedUntil is an upper bound of the notAfter of every certificate that the CA signed, or
	// that was sent with a cross-signed chain of more than one certificate to its root. Such a
	// chain is not sent any more.
	SignedUntil time.Time
	// Compromised is set when an attacker may have had the CA's key. The CA is distrusted as soon
	// as every certificate is reissued.
	Compromised bool
}

// State is everything about a CA that its signing-key Secret holds.
type State struct {
	Phase v1alpha1.CAPhase
	// Since is when the phase began, by the clock of the API server.
	Since time.Time
	// StartedAt and Reason are those of the current rotation, or of the last one.
	StartedAt time.Time
	Reason    v1alpha1.RotationReason
	// Trigger is the last value of spec.rotation.trigger that was acted on.
	Trigger string
	// Compromise is set when the current rotation was triggered because the key was compromised.
	Compromise bool
	// Restored is set when the CA was restored from a backup after another CA had taken over.
	Restored bool
	// LongestDuration is the longest lifetime of a certificate that the active CA may have signed.
	// It is raised before anything longer is signed.
	LongestDuration time.Duration
	// ReissueSpread is the time over which certificates are reissued after the last switch.
	ReissueSpread time.Duration
	// TrustChangedAt is when every target carried the last change of the bundle that running
	// processes must read: an added root, or a dropped compromised root. It is zero before the
	// first change. TrustChanging is set while a later change has not reached every target.
	TrustChangedAt time.Time
	TrustChanging  bool
	// Active is the CA that signs; nil while no CA may sign, because the key was lost and its
	// successor is not trusted everywhere yet.
	Active *Signer
	// Renewed is the active CA with a different certificate for the same key, which an
	// administrator put into tls.crt; nil without one.
	Renewed *Signer
	// Next is going to sign; nil except in the phases Publishing and Propagating.
	Next *Signer
	// Previous are the predecessors.
	Previous []Predecessor
}

// Generations returns the certificates of the predecessors that were not compromised. It leaves out
// a predecessor that was an intermediate, because only its root is known.
func (s *State) Generations() []*x509.Certificate {
	var generations []*x509.Certificate
	for _, p := range s.Previous {
		if !p.Compromised && p.KeyID == pki.KeyID(p.Root.SubjectKeyId) {
			generations = append(generations, p.Root)
		}
	}
	return generations
}

// IsPreparing reports whether the phase is one that publishes the next CA.
func (s *State) IsPreparing() bool {
	return s.Phase == v1alpha1.PhasePublishing || s.Phase == v1alpha1.PhasePropagating
}

// Bundle returns the roots that clients trust, the newest first. No phase changes this order.
func (s *State) Bundle() pki.Bundle {
	var roots []*x509.Certificate
	for _, signer := range []*Signer{s.Active, s.Next} {
		if signer != nil {
			roots = append(roots, signer.Root)
		}
	}
	for _, previous := range s.Previous {
		roots = append(roots, previous.Root)
	}
	bundle := pki.NewBundle(roots...)
	slices.SortStableFunc(bundle, func(a, b *x509.Certificate) int {
		return cmp.Or(b.NotBefore.Compare(a.NotBefore), bytes.Compare(a.Raw, b.Raw))
	})
	return bundle
}

// isSignerRoot reports whether a root belongs to a CA that signs or is going to.
func (s *State) isSignerRoot(root *x509.Certificate) bool {
	return (s.Active != nil && s.Active.Root.Equal(root)) || (s.Next != nil && s.Next.Root.Equal(root))
}

// AddPredecessors adds those predecessors whose roots are not in the bundle yet.
func (s *State) AddPredecessors(predecessors ...Predecessor) {
	for _, predecessor := range predecessors {
		if !slices.ContainsFunc(s.Bundle(), predecessor.Root.Equal) {
			s.Previous = append(s.Previous, predecessor)
		}
	}
	s.sortPrevious()
}

// AnyLeafValid reports whether a certificate signed by a CA other than the next one may still be
// valid.
func (s *State) AnyLeafValid(now time.Time) bool {
	// A predecessor under the same root may have signed for longer than this CA lives.
	if s.Active != nil && now.Before(s.Active.Root.NotAfter) {
		return true
	}
	return slices.ContainsFunc(s.Previous, func(p Predecessor) bool { return now.Before(p.SignedUntil) && now.Before(p.Root.NotAfter) })
}

// NextTransitions returns the times when the clock alone may change the decision.
func (s *State) NextTransitions(spec v1alpha1.CARotation) []time.Time {
	var times []time.Time
	if s.IsPreparing() || s.Phase == v1alpha1.PhaseRetiring {
		times = append(times, s.Since.Add(spec.Propagation.Minimum.Std()))
	}
	if s.Phase == v1alpha1.PhasePropagating {
		times = append(times, s.clientsDeadline(spec))
	}
	if s.Compromise {
		times = append(times, s.Since.Add(s.ReissueSpread+ReissueTimeout))
	}
	if slices.ContainsFunc(s.Previous, func(p Predecessor) bool { return p.Compromised }) {
		// A later rotation, not for a compromise, may be in progress by then.
		times = append(times, s.Since.Add(RestartTimeout), s.requestsDeadline())
	}
	for _, signer := range []*Signer{s.Active, s.Next, s.Renewed} {
		if signer != nil {
			times = append(times, signer.Certificate().NotBefore, signer.NotAfter().Add(-spec.RotateBefore.Std()), signer.NotAfter())
		}
	}
	for _, previous := range s.Previous {
		times = append(times, previous.SignedUntil, previous.Root.NotAfter)
	}
	return times
}

// sortPrevious sorts the predecessors, the newest first.
func (s *State) sortPrevious() {
	slices.SortStableFunc(s.Previous, func(a, b Predecessor) int {
		return cmp.Or(b.Root.NotBefore.Compare(a.Root.NotBefore), bytes.Compare(a.Root.Raw, b.Root.Raw))
	})
}

// clone returns a copy that can be modified, but not what its pointers refer to.
func (s *State) clone() *State {
	copied := *s
	copied.Previous = slices.Clone(s.Previous)
	return &copied
}
