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

// pathTo returns the part of a bridge that leads to the root of a predecessor.
func pathTo(p Predecessor, bridge []*x509.Certificate) []*x509.Certificate {
	return pki.UsefulBridge(bridge, pki.Bundle{p.Root})
}

// shortened returns a bridge up to the first root that it leads to over more than one certificate and that drop reports.
func (s *State) shortened(bridge []*x509.Certificate, drop func(Predecessor) bool) []*x509.Certificate {
	var roots pki.Bundle
	for _, p := range s.Previous {
		roots = append(roots, p.Root)
		if path := pathTo(p, bridge); len(path) > 1 && drop(p) {
			bridge = path[:len(path)-1]
		}
	}
	return pki.UsefulBridge(bridge, roots)
}

// leadsTo reports whether certificates are sent with more than one that leads to the root of a predecessor.
func (s *State) leadsTo(p Predecessor) bool {
	return s.Active != nil && len(pathTo(p, s.Active.Bridge())) > 1
}

// ledUntil keeps the roots that certificates lead to, over more than one, for as long as these may live.
func (s *State) ledUntil(until time.Time) {
	for i, p := range s.Previous {
		if s.leadsTo(p) {
			s.Previous[i].SignedUntil = later(p.SignedUntil, earlier(until, p.Root.NotAfter))
		}
	}
}

// shortBridge returns the bridge that may still be sent.
func (in Input) shortBridge() []*x509.Certificate {
	return in.State.shortened(in.State.Active.Bridge(), func(p Predecessor) bool {
		return p.Compromised || (in.State.Phase == v1alpha1.PhaseStable && in.unused(p))
	})
}

// overlong reports whether the bridge leads to a root that certificates must not lead to any more.
func (in Input) overlong() bool {
	return in.State.Active != nil && len(in.State.Active.Bridge()) > 1 && len(in.shortBridge()) < len(in.State.Active.Bridge())
}
