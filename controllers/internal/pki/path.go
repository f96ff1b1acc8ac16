package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Path remembers that what a CA signs verifies by the roots of a bundle: the path between them is the same for all of it. What differs is the
// signature, which the library verifies that makes it, and the names, which matter where a CA on the path has name constraints.
type Path struct{ sound sync.Map }

// Verify tells why a client with these roots would not verify a leaf that the CA of this path has just made; nil when it would.
func (p *Path) Verify(made *Leaf, roots *x509.CertPool, now time.Time) error {
	usages := fmt.Sprint(made.ExtKeyUsage)
	if _, sound := p.sound.Load(usages); sound {
		return nil
	}
	chains, err := made.paths(roots, now)
	if err == nil && !slices.ContainsFunc(slices.Concat(chains...), constrained) {
		p.sound.Store(usages, nil)
	}
	return err
}

// constrained tells whether a CA has name constraints (RFC 5280 §4.2.1.10).
func constrained(certificate *x509.Certificate) bool {
	return slices.ContainsFunc(certificate.Extensions, func(extension pkix.Extension) bool { return extension.Id.Equal(oidNameConstraints) })
}

var oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}
