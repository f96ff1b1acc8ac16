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

// MaxBridge is how many certificates a bridge has at most, and with that how many generations a client may be behind.
const MaxBridge = 3

// BridgeTo returns what a server sends after a certificate of the next CA and its chain, so that clients verify it that know only the
// root of this CA, or of one before it: the next CA's root signed by this CA's key, what leads from here to the root, and this CA's
// own bridge. Because the root is what is cross-signed, and not the CA below it, each certificate that a server sends has one issuer
// among those after it: OpenSSL takes the first issuer that fits and never tries another. The CA itself is cross-signed only where its
// root cannot be: such clients then verify it only if they try every path. The bridge is empty where a CA allows none below it.
func (a *Authority) BridgeTo(next *Authority, nextRoot, root *x509.Certificate) ([]*x509.Certificate, error) {
	if sameCA(nextRoot, root) && (len(a.bridge) == 0 || next.continues(a.bridge)) {
		return a.bridge, nil
	}
	for _, ca := range []*x509.Certificate{nextRoot, next.certificate} {
		cross, err := a.crossSign(ca)
		if err != nil {
			return nil, fmt.Errorf("cross-sign %s by %s: %w", NameOf(ca), NameOf(a.certificate), err)
		}
		bridge := append([]*x509.Certificate{cross}, a.chain...)
		if len(bridge) <= MaxBridge && next.carries(bridge, root) {
			bridge = append(bridge, a.bridge...)
			return bridge[:min(len(bridge), MaxBridge)], nil
		}
	}
	return nil, nil
}

// sameCA reports whether two certificates have the same subject and the same key: what one has signed verifies by both.
func sameCA(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubject, b.RawSubject) && bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

// continues reports whether a bridge begins at the CA, or at one that its chain leads to.
func (a *Authority) continues(bridge []*x509.Certificate) bool {
	return belongTogether(bridge[0], a.key) ||
		slices.ContainsFunc(a.chain, func(c *x509.Certificate) bool { return c.CheckSignatureFrom(bridge[0]) == nil })
}

// crossSign makes the certificate of a CA once more, issued by this one: valid while both are, with every constraint of the other.
func (a *Authority) crossSign(other *x509.Certificate) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := *other
	template.SerialNumber = serial
	template.SignatureAlgorithm = x509.UnknownSignatureAlgorithm
	// Where both CAs bear one name, CreateCertificate would keep what the other says of its own issuer.
	template.AuthorityKeyId = a.certificate.SubjectKeyId
	if template.NotBefore.Before(a.certificate.NotBefore) {
		template.NotBefore = a.certificate.NotBefore
	}
	if template.NotAfter.After(a.end) {
		template.NotAfter = a.end
	}
	// Where to ask about the other certificate is not where to ask about this one.
	template.OCSPServer, template.IssuingCertificateURL, template.CRLDistributionPoints = nil, nil, nil
	der, err := x509.CreateCertificate(rand.Reader, &template, a.certificate, other.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// carries reports whether a certificate of the CA, sent with its chain and the bridge, verifies by the root. Of validity, only that
// there is a time at which all are valid matters: the newest begin.
func (a *Authority) carries(bridge []*x509.Certificate, root *x509.Certificate) bool {
	begin := root.NotBefore
	for _, certificate := range slices.Concat(a.chain, bridge) {
		if certificate.NotBefore.After(begin) {
			begin = certificate.NotBefore
		}
	}
	above := pathsTo(root, bridge[0], bridge, begin)
	if belongTogether(bridge[0], a.key) {
		return slices.ContainsFunc(above, allowsLeaf)
	}
	return slices.ContainsFunc(pathsTo(bridge[0], a.certificate, a.chain, begin), func(path []*x509.Certificate) bool {
		below := path[:len(path)-1]
		return identifies(below[len(below)-1], bridge[0]) && slices.ContainsFunc(above, func(path []*x509.Certificate) bool {
			return allowsLeaf(slices.Concat(below, path))
		})
	})
}

// identifies reports whether the authority key identifier of a certificate may be that of an issuer with another serial number than the
// first had (RFC 5280 §4.2.1.1). crypto/x509 does not ask for it, but other clients do.
func identifies(certificate, issuer *x509.Certificate) bool {
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

// pathsTo returns the paths from a CA to another that is trusted.
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

// UsefulBridge is the part of a bridge that leads to a root which clients still trust.
func UsefulBridge(bridge []*x509.Certificate, trusted Bundle) []*x509.Certificate {
	for i, certificate := range slices.Backward(bridge) {
		if slices.ContainsFunc(trusted, func(root *x509.Certificate) bool { return certificate.CheckSignatureFrom(root) == nil }) {
			return bridge[:i+1]
		}
	}
	return nil
}

// ParseBridge reads a bridge in PEM; an empty one where there is none that can be read.
func ParseBridge(encoded []byte) []*x509.Certificate {
	bridge, err := parseCertificates(encoded)
	if err != nil {
		return nil
	}
	return bridge
}

// WithBridge returns the same CA, whose certificates are followed by this bridge; by none where it does not continue the CA's chain.
func (a *Authority) WithBridge(bridge []*x509.Certificate) *Authority {
	bridged := *a
	if bridged.bridge = bridge; len(bridge) > 0 && !a.continues(bridge) {
		bridged.bridge = nil
	}
	return &bridged
}

// Bridge leads from the CA to the roots of the generations before it.
func (a *Authority) Bridge() []*x509.Certificate { return a.bridge }

// path returns what a server sends after a certificate of the CA that ends then.
func (a *Authority) path(notAfter time.Time) []*x509.Certificate {
	return slices.Concat(a.chain, lasting(a.bridge, notAfter))
}

// lasting returns as much of a bridge as lasts until then, and its first certificate in any case. GnuTLS does not look beyond more than one
// certificate that has ended.
func lasting(bridge []*x509.Certificate, notAfter time.Time) []*x509.Certificate {
	for i, certificate := range bridge {
		if certificate.NotAfter.Before(notAfter) {
			return bridge[:max(i, 1)]
		}
	}
	return bridge
}

// leadsOn tells whether each certificate was issued to the CA, or to whom one before it names as its issuer, and none is a root. What a
// bridge once led to may be sent long after it has become useless.
func leadsOn(ca *x509.Certificate, before, rest []*x509.Certificate) bool {
	met := [][]byte{ca.RawSubject}
	for _, certificate := range before {
		met = append(met, certificate.RawIssuer)
	}
	for _, certificate := range rest {
		if !certificate.IsCA || selfSigned(certificate) || !slices.ContainsFunc(met, func(name []byte) bool { return bytes.Equal(name, certificate.RawSubject) }) {
			return false
		}
		met = append(met, certificate.RawIssuer)
	}
	return true
}
