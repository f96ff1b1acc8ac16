package rotation

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// Move returns the state after a decision. next is the CA that a rotation begins with; spread is
// the time over which certificates are reissued.
func (in Input) Move(decision Decision, next *Signer, spread time.Duration) (*State, error) {
	state := in.State.clone()
	switch decision.Move {
	case Begin:
		return in.startRotation(decision.Reason, next)
	case Propagate:
		state.enterPhase(v1alpha1.PhasePropagating, in.Now)
		state.recordPropagated(state.Since)
	case Switch:
		state.switchSigner(in.Now, in.Evidence.LatestNotAfter, spread)
	case Retire:
		state.enterPhase(v1alpha1.PhaseRetiring, in.Now)
	case Complete:
		state.enterPhase(v1alpha1.PhaseStable, in.Now)
	case DropRoots:
		in.dropRoots(state)
	case TrimCrossSigned:
		state.extendSignedUntil(in.Now.Add(state.LongestDuration + SigningSlack))
		state.Active = state.Active.withCrossSigned(in.trimmedCrossSigned())
	case RecordPropagated:
		state.recordPropagated(in.Now)
	case NoMove:
	}
	return state, nil
}

// dropRoots drops the roots that are not needed any more, and the cross-signed certificates that
// lead to them.
func (in Input) dropRoots(state *State) {
	droppable := in.droppableRoots()
	state.Previous = slices.DeleteFunc(state.Previous, func(p Predecessor) bool {
		dropped := droppable[string(p.Root.Raw)]
		state.TrustChanging = state.TrustChanging || (dropped && p.Compromised && in.Now.Before(p.Root.NotAfter))
		return dropped
	})
	state.Active = state.withTrustedChain(state.Active)
}

// recordPropagated records that every target carries a change that processes must read.
func (s *State) recordPropagated(now time.Time) {
	if s.TrustChanging {
		s.TrustChangedAt, s.TrustChanging = latest(now.Truncate(time.Second), s.TrustChangedAt), false
	}
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// enterPhase enters a phase. Its start is always later than that of the phase before.
func (s *State) enterPhase(phase v1alpha1.CAPhase, now time.Time) {
	if now = now.Truncate(time.Second); !now.After(s.Since) {
		now = s.Since.Add(time.Second)
	}
	s.Phase, s.Since = phase, now
}

// startRotation prepares the next CA. It makes the cross-signed chain to it now, while both keys
// exist.
func (in Input) startRotation(reason v1alpha1.RotationReason, next *Signer) (*State, error) {
	state := in.State.clone()
	prepared := *next
	if state.Active != nil {
		crossSigned, err := state.Active.CrossSign(next.Authority, next.Root, state.Active.Root)
		if err != nil {
			return nil, err
		}
		prepared = *next.withCrossSigned(crossSigned)
	}
	if state.Next == nil {
		// If the next CA expired before it signed, the rotation continues with another one for the
		// same reason.
		state.Compromise = false
	}
	if in.triggered() {
		state.Trigger = in.Spec.Trigger
		state.Compromise = state.Compromise || in.Spec.TriggerReason == v1alpha1.TriggerCompromise
	}
	// The root may be in the bundle already: an earlier rotation that was lost may have published
	// it. It still counts as a change.
	state.TrustChanging = state.TrustChanging || state.Active == nil || !state.Active.Root.Equal(next.Root)
	state.Next, state.Renewed, state.Reason, state.Restored = &prepared, nil, reason, false
	state.enterPhase(v1alpha1.PhasePublishing, in.Now)
	state.StartedAt = state.Since
	return state, nil
}

// switchSigner lets the next CA sign. What its predecessor may have signed expires at the latest
// LongestDuration and SigningSlack from now, or at latestNotAfter if that is later.
func (s *State) switchSigner(now, latestNotAfter time.Time, spread time.Duration) {
	until := latest(now.Add(s.LongestDuration+SigningSlack), latestNotAfter)
	s.extendSignedUntil(until)
	if before := s.Active; before != nil && !before.Root.Equal(s.Next.Root) {
		s.Previous = append(s.Previous, Predecessor{
			Root: before.Root, KeyID: pki.KeyID(before.Certificate().SubjectKeyId), SignedUntil: earliest(until, before.Root.NotAfter),
		})
		s.sortPrevious()
	}
	if s.Compromise {
		// An attacker who had one key may at any time have had the keys beside it.
		for i := range s.Previous {
			s.Previous[i].Compromised = true
		}
	}
	s.Previous = slices.DeleteFunc(s.Previous, func(p Predecessor) bool { return p.Root.Equal(s.Next.Root) })
	s.Active, s.Next, s.ReissueSpread = s.withTrustedChain(s.Next), nil, spread
	s.enterPhase(v1alpha1.PhaseReissuing, now)
}

// SignedUntil returns an upper bound of the notAfter of every certificate that the active CA, or a
// predecessor under the same root, may have signed until now.
func (s *State) SignedUntil(now time.Time) time.Time {
	return earliest(now.Add(s.LongestDuration+SigningSlack), s.Active.Root.NotAfter)
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// withTrustedChain returns a CA with the part of its cross-signed chain that leads to trusted
// roots.
func (s *State) withTrustedChain(signer *Signer) *Signer {
	return signer.withCrossSigned(s.trimCrossSigned(signer.CrossSigned(), func(p Predecessor) bool { return p.Compromised }))
}

func (s *Signer) withCrossSigned(crossSigned []*x509.Certificate) *Signer {
	result := *s
	result.Authority = s.WithCrossSigned(crossSigned)
	return &result
}
