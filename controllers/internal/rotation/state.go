// Package rotation decides how the trust in a CA moves from one generation to the next, so that every server and every client verify
// each other at each instant: docs/rotation.md draws it. It knows no client and no clock; the time is handed to it.
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

// SigningSlack is how long after the switch a certificate may still be signed by the old key, by a reconciliation that had begun
// before, and how far the clock of the signer may be ahead.
const SigningSlack = pki.ClockSkew + 2*time.Minute

// Signer is a CA that signs, or is going to.
type Signer struct {
	*pki.Authority
	// Root is what clients trust: the CA itself, or the root that it leads to.
	Root *x509.Certificate
	// Source says where the CA came from: SelfSigned or "secret/<name>".
	Source string
}

// Name is how people know the CA.
func (s *Signer) Name() string { return pki.NameOf(s.Certificate()) }

// CheckStrength returns why clients would refuse the CA, one that it sends with it, or its root, or nil.
func (s *Signer) CheckStrength() error {
	return pki.CheckStrength(append([]*x509.Certificate{s.Certificate(), s.Root}, s.Chain()...)...)
}

// Predecessor is a CA that signs no more, and whose root is still trusted.
type Predecessor struct {
	Root *x509.Certificate
	// KeyID is the subject key identifier of the CA that signed, in hexadecimal.
	KeyID string
	// SignedUntil is an upper bound of the end of every certificate that it signed, or that was sent with a bridge to it of more than one
	// certificate, which is not sent any more.
	SignedUntil time.Time
	// Compromised is set when somebody else may have had its key: it is given up as soon as every certificate is reissued.
	Compromised bool
}

// State is everything that is to be known of a CA: what its signing-key Secret holds.
type State struct {
	Phase v1alpha1.CAPhase
	// Since is when the phase began, by the clock of the API server.
	Since time.Time
	// StartedAt and Reason are of the rotation under way, or of the last one.
	StartedAt time.Time
	Reason    v1alpha1.RotationReason
	// Trigger is the last value of spec.rotation.trigger that was acted on.
	Trigger string
	// Compromise is set when the rotation under way was triggered because the key was compromised.
	Compromise bool
	// Restored is set when the CA came back from a backup, after another had taken over.
	Restored bool
	// LongestDuration is the longest lifetime of a certificate that the active CA may have signed: nothing longer is signed before it stands here.
	LongestDuration time.Duration
	// ReissueSpread is the time over which the certificates are reissued after the last switch.
	ReissueSpread time.Duration
	// TrustChangedAt is when every target carried the last change of the bundle that running processes must read: a root that was added, or a
	// compromised one that was dropped. Zero before the first. TrustChanging is set while there is a later one.
	TrustChangedAt time.Time
	TrustChanging  bool
	// Active signs; nil while nobody may, because the key was lost and its successor is not trusted everywhere yet.
	Active *Signer
	// Renewed is the active CA with another certificate for the same key, which somebody put into tls.crt by hand; nil without one.
	Renewed *Signer
	// Next is going to sign; nil outside of the phases Publishing and Propagating.
	Next *Signer
	// Previous are those before.
	Previous []Predecessor
}

// Generations returns the CAs before the active one that were not compromised. Of one that was an intermediate, only its root is
// known: it is left out.
func (s *State) Generations() []*x509.Certificate {
	var generations []*x509.Certificate
	for _, p := range s.Previous {
		if !p.Compromised && p.KeyID == pki.KeyID(p.Root.SubjectKeyId) {
			generations = append(generations, p.Root)
		}
	}
	return generations
}

// IsPreparing reports whether the phase is one in which the next CA is made known.
func (s *State) IsPreparing() bool {
	return s.Phase == v1alpha1.PhasePublishing || s.Phase == v1alpha1.PhasePropagating
}

// Bundle are the roots that clients trust, the newest first: an order that no phase changes.
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

// AddPredecessors adds predecessors whose roots are not in the bundle yet.
func (s *State) AddPredecessors(predecessors ...Predecessor) {
	for _, predecessor := range predecessors {
		if !slices.ContainsFunc(s.Bundle(), predecessor.Root.Equal) {
			s.Previous = append(s.Previous, predecessor)
		}
	}
	s.sortPrevious()
}

// AnyLeafValid reports whether a certificate that another CA than the next signed may still be valid somewhere.
func (s *State) AnyLeafValid(now time.Time) bool {
	// Another CA under the same root may have signed for longer than this one lives.
	if s.Active != nil && now.Before(s.Active.Root.NotAfter) {
		return true
	}
	return slices.ContainsFunc(s.Previous, func(p Predecessor) bool { return now.Before(p.SignedUntil) && now.Before(p.Root.NotAfter) })
}

// NextTransitions are when the clock alone may change what is to be done.
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
		// A later rotation may be under way by then, which is no compromise.
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

// sortPrevious puts the newest first.
func (s *State) sortPrevious() {
	slices.SortStableFunc(s.Previous, func(a, b Predecessor) int {
		return cmp.Or(b.Root.NotBefore.Compare(a.Root.NotBefore), bytes.Compare(a.Root.Raw, b.Root.Raw))
	})
}

// clone is a copy that can be changed; what it points to is not.
func (s *State) clone() *State {
	copied := *s
	copied.Previous = slices.Clone(s.Previous)
	return &copied
}
