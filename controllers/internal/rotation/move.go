package rotation

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// Move is the state after a decision. next is the CA that a rotation begins with, and over the time for reissuing every certificate.
func (in Input) Move(decided Decision, next *Signer, over time.Duration) (*State, error) {
	state := in.State.clone()
	switch decided.Move {
	case Begin:
		return in.begin(decided.Reason, next)
	case Propagate:
		state.enter(v1alpha1.PhasePropagating, in.Now)
		state.announce(state.Since)
	case Switch:
		state.switchSigner(in.Now, in.Evidence.Signed, over)
	case Retire:
		state.enter(v1alpha1.PhaseRetiring, in.Now)
	case Settle:
		state.enter(v1alpha1.PhaseStable, in.Now)
	case Forget:
		in.forget(state)
	case Shorten:
		state.ledUntil(in.Now.Add(state.Longest + SigningSlack))
		state.Active = state.Active.withBridge(in.shortBridge())
	case Announce:
		state.announce(in.Now)
	case Stay:
	}
	return state, nil
}

// forget drops the roots that nobody needs any more, and what leads to them.
func (in Input) forget(state *State) {
	forgettable := in.forgettable()
	state.Previous = slices.DeleteFunc(state.Previous, func(p Predecessor) bool {
		dropped := forgettable[string(p.Root.Raw)]
		state.TrustChanging = state.TrustChanging || (dropped && p.Compromised && in.Now.Before(p.Root.NotAfter))
		return dropped
	})
	state.Active = state.bridged(state.Active)
}

// announce notes that every target carries a change that processes must read.
func (s *State) announce(now time.Time) {
	if s.TrustChanging {
		s.TrustChangedAt, s.TrustChanging = later(now.Truncate(time.Second), s.TrustChangedAt), false
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// enter begins a phase, always later than the one before it began.
func (s *State) enter(phase v1alpha1.CAPhase, now time.Time) {
	if now = now.Truncate(time.Second); !now.After(s.Since) {
		now = s.Since.Add(time.Second)
	}
	s.Phase, s.Since = phase, now
}

// begin prepares the next CA; the bridge to it is made here, while both keys exist.
func (in Input) begin(reason v1alpha1.RotationReason, next *Signer) (*State, error) {
	state := in.State.clone()
	prepared := *next
	if state.Active != nil {
		bridge, err := state.Active.BridgeTo(next.Authority, next.Root, state.Active.Root)
		if err != nil {
			return nil, err
		}
		prepared = *next.withBridge(bridge)
	}
	if state.Next == nil {
		// Where the next CA has ended before it signed, the rotation goes on with another, for the same reason.
		state.Compromise = false
	}
	if in.triggered() {
		state.Trigger = in.Spec.Trigger
		state.Compromise = state.Compromise || in.Spec.TriggerReason == v1alpha1.TriggerCompromise
	}
	// Though its root is known already: a rotation that was begun before, and lost, may have published it.
	state.TrustChanging = state.TrustChanging || state.Active == nil || !state.Active.Root.Equal(next.Root)
	state.Next, state.Renewed, state.Reason, state.Restored = &prepared, nil, reason, false
	state.enter(v1alpha1.PhasePublishing, in.Now)
	state.StartedAt = state.Since
	return state, nil
}

// switchSigner lets the next CA sign. What the one before may have signed ends, at the latest, the longest duration from now.
func (s *State) switchSigner(now, signed time.Time, over time.Duration) {
	until := later(now.Add(s.Longest+SigningSlack), signed)
	s.ledUntil(until)
	if before := s.Active; before != nil && !before.Root.Equal(s.Next.Root) {
		s.Previous = append(s.Previous, Predecessor{
			Root: before.Root, KeyID: pki.KeyID(before.Certificate().SubjectKeyId), SignedUntil: earlier(until, before.Root.NotAfter),
		})
		s.sortPrevious()
	}
	if s.Compromise {
		// Whoever had one key, may have had what stood beside it at any time.
		for i := range s.Previous {
			s.Previous[i].Compromised = true
		}
	}
	s.Previous = slices.DeleteFunc(s.Previous, func(p Predecessor) bool { return p.Root.Equal(s.Next.Root) })
	s.Active, s.Next, s.ReissueOver = s.bridged(s.Next), nil, over
	s.enter(v1alpha1.PhaseReissuing, now)
}

// SignedUntil is when every certificate has ended that the active CA, or one before it under the same root, may have signed until now.
func (s *State) SignedUntil(now time.Time) time.Time {
	return earlier(now.Add(s.Longest+SigningSlack), s.Active.Root.NotAfter)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// bridged is a CA with as much of its bridge as leads to roots that are trusted.
func (s *State) bridged(signer *Signer) *Signer {
	return signer.withBridge(s.shortened(signer.Bridge(), func(p Predecessor) bool { return p.Compromised }))
}

func (s *Signer) withBridge(bridge []*x509.Certificate) *Signer {
	bridged := *s
	bridged.Authority = s.WithBridge(bridge)
	return &bridged
}
