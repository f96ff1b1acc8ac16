package rotation

import (
	"crypto/x509"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// GnuTLS looks for a root only by the last certificate that a server sends: by its issuer, and by its subject. So it refuses a server that
// sends more than one certificate which leads to an old root, as soon as it trusts this root no longer. A single one does no harm: its
// subject is the root that clients have instead. So a root that more than one leads to is not dropped before that has not been sent for as
// long as certificates last, and after a compromise, when there is no time for that, it is not sent at all.

// crossSignedPathTo returns the part of a bridge that leads to the root of a predecessor.
func crossSignedPathTo(p Predecessor, crossSigned []*x509.Certificate) []*x509.Certificate {
	return pki.TrimCrossSigned(crossSigned, pki.Bundle{p.Root})
}

// trimCrossSigned returns a bridge up to the first root that it leads to over more than one certificate and that drop reports.
func (s *State) trimCrossSigned(crossSigned []*x509.Certificate, drop func(Predecessor) bool) []*x509.Certificate {
	var roots pki.Bundle
	for _, p := range s.Previous {
		roots = append(roots, p.Root)
		if path := crossSignedPathTo(p, crossSigned); len(path) > 1 && drop(p) {
			crossSigned = path[:len(path)-1]
		}
	}
	return pki.TrimCrossSigned(crossSigned, roots)
}

// hasLongPathTo reports whether certificates are sent with more than one that leads to the root of a predecessor.
func (s *State) hasLongPathTo(p Predecessor) bool {
	return s.Active != nil && len(crossSignedPathTo(p, s.Active.CrossSigned())) > 1
}

// extendSignedUntil keeps the roots that certificates lead to, over more than one, for as long as these may live.
func (s *State) extendSignedUntil(until time.Time) {
	for i, p := range s.Previous {
		if s.hasLongPathTo(p) {
			s.Previous[i].SignedUntil = latest(p.SignedUntil, earliest(until, p.Root.NotAfter))
		}
	}
}

// trimmedCrossSigned returns the bridge that may still be sent.
func (in Input) trimmedCrossSigned() []*x509.Certificate {
	return in.State.trimCrossSigned(in.State.Active.CrossSigned(), func(p Predecessor) bool {
		return p.Compromised || (in.State.Phase == v1alpha1.PhaseStable && in.isUnused(p))
	})
}

// exceedsTrimmed reports whether the bridge leads to a root that certificates must not lead to any more.
func (in Input) exceedsTrimmed() bool {
	return in.State.Active != nil && len(in.State.Active.CrossSigned()) > 1 && len(in.trimmedCrossSigned()) < len(in.State.Active.CrossSigned())
}
