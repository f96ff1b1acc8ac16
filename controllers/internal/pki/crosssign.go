package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// MaxCrossSigned is the maximum number of certificates in a cross-signed chain, and so the number
// of generations that a client's bundle may be out of date.
const MaxCrossSigned = 3

// CrossSign returns the cross-signed chain: the certificates that a server sends after a
// certificate of the next CA and its chain, so that clients verify it that have only the root of
// this CA, or of an earlier one, in their bundle. It consists of the next CA's root signed by this
// CA's key, the chain from this CA to its root, and this CA's own cross-signed chain.
//
// It cross-signs the root, and not the CA below it, so that each certificate that a server sends
// has exactly one issuer among those after it: OpenSSL takes the first issuer that matches and
// never tries another. It cross-signs the CA itself only if its root cannot be; then only clients
// that try every path verify the chain. The result is empty if a CA allows no CA below it.
func (a *Authority) CrossSign(next *Authority, nextRoot, root *x509.Certificate) ([]*x509.Certificate, error) {
	if sameCA(nextRoot, root) && (len(a.crossSigned) == 0 || next.continues(a.crossSigned)) {
		return a.crossSigned, nil
	}
	for _, ca := range []*x509.Certificate{nextRoot, next.certificate} {
		cross, err := a.crossSignOne(ca)
		if err != nil {
			return nil, fmt.Errorf("cross-sign %s by %s: %w", NameOf(ca), NameOf(a.certificate), err)
		}
		crossSigned := append([]*x509.Certificate{cross}, a.chain...)
		if len(crossSigned) <= MaxCrossSigned && next.verifiesThrough(crossSigned, root) {
			crossSigned = append(crossSigned, a.crossSigned...)
			return crossSigned[:min(len(crossSigned), MaxCrossSigned)], nil
		}
	}
	return nil, nil
}

// sameCA reports whether two certificates have the same subject and the same key: a signature of
// one verifies by both.
func sameCA(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubject, b.RawSubject) && bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

// continues reports whether a cross-signed chain starts at the CA, or at a CA that its chain leads
// to.
func (a *Authority) continues(crossSigned []*x509.Certificate) bool {
	return keyMatches(crossSigned[0], a.key) ||
		slices.ContainsFunc(a.chain, func(c *x509.Certificate) bool { return c.CheckSignatureFrom(crossSigned[0]) == nil })
}

// crossSignOne issues the certificate of another CA again, from this CA: valid while both CAs are
// valid, and with every constraint of the other CA.
func (a *Authority) crossSignOne(other *x509.Certificate) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := *other
	template.SerialNumber = serial
	template.SignatureAlgorithm = x509.UnknownSignatureAlgorithm
	// If both CAs have the same name, CreateCertificate would keep the other CA's authority key
	// identifier.
	template.AuthorityKeyId = a.certificate.SubjectKeyId
	if template.NotBefore.Before(a.certificate.NotBefore) {
		template.NotBefore = a.certificate.NotBefore
	}
	if template.NotAfter.After(a.notAfter) {
		template.NotAfter = a.notAfter
	}
	// These addresses are those of the other certificate, and say nothing about this one.
	template.OCSPServer, template.IssuingCertificateURL, template.CRLDistributionPoints = nil, nil, nil
	der, err := x509.CreateCertificate(rand.Reader, &template, a.certificate, other.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// verifiesThrough reports whether a certificate of the CA, sent with its chain and the cross-signed
// chain, verifies by the root. It verifies at the latest notBefore of all, because it requires only
// that there is a time at which all are valid.
func (a *Authority) verifiesThrough(crossSigned []*x509.Certificate, root *x509.Certificate) bool {
	start := root.NotBefore
	for _, certificate := range slices.Concat(a.chain, crossSigned) {
		if certificate.NotBefore.After(start) {
			start = certificate.NotBefore
		}
	}
	above := pathsTo(root, crossSigned[0], crossSigned, start)
	if keyMatches(crossSigned[0], a.key) {
		return slices.ContainsFunc(above, allowsLeaf)
	}
	return slices.ContainsFunc(pathsTo(crossSigned[0], a.certificate, a.chain, start), func(path []*x509.Certificate) bool {
		below := path[:len(path)-1]
		return matchesAuthorityKeyID(below[len(below)-1], crossSigned[0]) && slices.ContainsFunc(above, func(path []*x509.Certificate) bool {
			return allowsLeaf(slices.Concat(below, path))
		})
	})
}

// matchesAuthorityKeyID reports whether the authority key identifier of a certificate still matches
// an issuer whose serial number is not that of the original issuer (RFC 5280 §4.2.1.1). crypto/x509
// does not check it, but other clients do.
func matchesAuthorityKeyID(certificate, issuer *x509.Certificate) bool {
	for _, extension := range certificate.Extensions {
		var authority struct {
			KeyID  []byte        `asn1:"optional,tag:0"`
			Issuer asn1.RawValue `asn1:"optional,tag:1"`
			Serial *big.Int      `asn1:"optional,tag:2"`
		}
		if !extension.Id.Equal(oidAuthorityKeyID) {
			continue
		}
		if _, err := asn1.Unmarshal(extension.Value, &authority); err != nil || authority.Serial != nil {
			return false
		}
	}
	return len(certificate.AuthorityKeyId) == 0 || bytes.Equal(certificate.AuthorityKeyId, issuer.SubjectKeyId)
}

var oidAuthorityKeyID = asn1.ObjectIdentifier{2, 5, 29, 35}

// pathsTo returns the paths from a CA to a trusted CA over the intermediates. It returns none if
// there is an error.
func pathsTo(trusted, from *x509.Certificate, over []*x509.Certificate, at time.Time) [][]*x509.Certificate {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(trusted)
	for _, certificate := range over {
		intermediates.AddCert(certificate)
	}
	paths, _ := from.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return paths
}

// TrimCrossSigned returns the part of a cross-signed chain that leads to a root that clients still
// trust, and nil if no certificate in it does.
func TrimCrossSigned(crossSigned []*x509.Certificate, trusted Bundle) []*x509.Certificate {
	for i, certificate := range slices.Backward(crossSigned) {
		if slices.ContainsFunc(trusted, func(root *x509.Certificate) bool { return certificate.CheckSignatureFrom(root) == nil }) {
			return crossSigned[:i+1]
		}
	}
	return nil
}

// ParseCrossSigned reads a cross-signed chain in PEM. It returns nil if there is none or it is not
// readable.
func ParseCrossSigned(encoded []byte) []*x509.Certificate {
	crossSigned, err := parseCertificates(encoded)
	if err != nil {
		return nil
	}
	return crossSigned
}

// WithCrossSigned returns the same CA with this cross-signed chain, or with none if it does not
// continue the CA's chain.
func (a *Authority) WithCrossSigned(crossSigned []*x509.Certificate) *Authority {
	result := *a
	if result.crossSigned = crossSigned; len(crossSigned) > 0 && !a.continues(crossSigned) {
		result.crossSigned = nil
	}
	return &result
}

// CrossSigned returns the cross-signed chain, which leads from the CA to the roots of earlier
// generations.
func (a *Authority) CrossSigned() []*x509.Certificate { return a.crossSigned }

// sentChain returns what a server sends after a certificate of the CA with this notAfter.
func (a *Authority) sentChain(notAfter time.Time) []*x509.Certificate {
	return slices.Concat(a.chain, validUntil(a.crossSigned, notAfter))
}

// validUntil returns the certificates at the start of a cross-signed chain that do not expire
// before notAfter, and always the first. GnuTLS does not look beyond more than one expired
// certificate.
func validUntil(crossSigned []*x509.Certificate, notAfter time.Time) []*x509.Certificate {
	for i, certificate := range crossSigned {
		if certificate.NotAfter.Before(notAfter) {
			return crossSigned[:max(i, 1)]
		}
	}
	return crossSigned
}

// chainsFrom reports whether each certificate in rest is an intermediate CA whose subject is ca's
// or the issuer of a certificate before it. A server may still send certificates that a
// cross-signed chain once led to, long after they have become useless.
func chainsFrom(ca *x509.Certificate, sent, rest []*x509.Certificate) bool {
	issuers := [][]byte{ca.RawSubject}
	for _, certificate := range sent {
		issuers = append(issuers, certificate.RawIssuer)
	}
	for _, certificate := range rest {
		if !certificate.IsCA || selfSigned(certificate) || !slices.ContainsFunc(issuers, func(name []byte) bool { return bytes.Equal(name, certificate.RawSubject) }) {
			return false
		}
		issuers = append(issuers, certificate.RawIssuer)
	}
	return true
}
