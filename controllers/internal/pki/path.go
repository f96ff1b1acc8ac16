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

// Path caches that certificates of a CA verify by the roots of a bundle, and until when: the path
// from the CA to a root is the same for all of them. A certificate differs only in its signature,
// which crypto/x509 verifies when it creates the certificate, and in its names, which matter only
// if a CA on the path has name constraints.
type Path struct {
	roots      *x509.CertPool
	validUntil sync.Map
}

// NewPath returns a Path from one CA to these roots.
func NewPath(roots *x509.CertPool) *Path { return &Path{roots: roots} }

// Verify returns the error with which a client with the roots would reject a leaf that this path's
// CA has just issued. Call it with leaves of one CA only. It caches nothing if a CA on the path has
// name constraints.
func (p *Path) Verify(leaf *Leaf, now time.Time) error {
	usages := fmt.Sprint(leaf.ExtKeyUsage)
	cached, _ := p.validUntil.Load(usages)
	if until, sound := cached.(time.Time); sound && now.Before(until) {
		return nil
	}
	paths, err := leaf.paths(p.roots, now)
	if err != nil {
		return err
	}
	var issuers []*x509.Certificate
	for _, path := range paths {
		issuers = append(issuers, path[1:]...)
	}
	if !slices.ContainsFunc(issuers, hasNameConstraints) {
		p.validUntil.Store(usages, slices.MinFunc(issuers, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }).NotAfter)
	}
	return nil
}

// hasNameConstraints reports whether a CA has name constraints (RFC 5280 §4.2.1.10).
func hasNameConstraints(certificate *x509.Certificate) bool {
	return slices.ContainsFunc(certificate.Extensions, func(extension pkix.Extension) bool { return extension.Id.Equal(oidNameConstraints) })
}

var oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}
