package rotation

import (
	"crypto/x509"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// GnuTLS searches for a root only from the last certificate that a server sends: by its issuer and
// by its subject. So once a GnuTLS client no longer trusts an old root, it refuses a server that
// sends more than one cross-signed certificate leading to that root. A single one does no harm: its
// subject is the newer root, which the client has instead. Therefore a root that more than one
// cross-signed certificate leads to is dropped only after these have not been sent for as long as
// certificates live. After a compromise there is no time for that, so they are not sent at all.

// crossSignedPathTo returns the part of a cross-signed chain that leads to the root of a
// predecessor.
func crossSignedPathTo(p Predecessor, crossSigned []*x509.Certificate) []*x509.Certificate {
	return pki.TrimCrossSigned(crossSigned, pki.Bundle{p.Root})
}

// trimCrossSigned cuts a cross-signed chain before the first root that it leads to by more than one
// certificate and for which drop reports true. It also cuts what leads to no predecessor's root.
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

// hasLongPathTo reports whether leaves are sent with more than one cross-signed certificate that
// leads to the root of a predecessor.
func (s *State) hasLongPathTo(p Predecessor) bool {
	return s.Active != nil && len(crossSignedPathTo(p, s.Active.CrossSigned())) > 1
}

// extendSignedUntil extends SignedUntil of the predecessors whose roots more than one cross-signed
// certificate leads to, so that these roots are kept for as long as leaves sent with that chain may
// live.
func (s *State) extendSignedUntil(until time.Time) {
	for i, p := range s.Previous {
		if s.hasLongPathTo(p) {
			s.Previous[i].SignedUntil = latest(p.SignedUntil, earliest(until, p.Root.NotAfter))
		}
	}
}

// trimmedCrossSigned returns the cross-signed chain that may still be sent.
func (in Input) trimmedCrossSigned() []*x509.Certificate {
	return in.State.trimCrossSigned(in.State.Active.CrossSigned(), func(p Predecessor) bool {
		return p.Compromised || (in.State.Phase == v1alpha1.PhaseStable && in.isUnused(p))
	})
}

// exceedsTrimmed reports whether the cross-signed chain leads to a root that leaves must no longer
// lead to.
func (in Input) exceedsTrimmed() bool {
	return in.State.Active != nil && len(in.State.Active.CrossSigned()) > 1 && len(in.trimmedCrossSigned()) < len(in.State.Active.CrossSigned())
}
