package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"slices"
)

// MaxBridge is how many certificates a bridge has at most, and with that how many generations a client may be behind.
const MaxBridge = 3

// BridgeTo is what a server sends after a certificate that the next CA signed, so that it verifies even for clients that know
// nothing but the root of this one, or of one before it: the next CA signed by this CA's key, what leads from here to the root, and
// this CA's own bridge. It is empty where such clients would not accept it, because a CA allows none below it.
func (a *Authority) BridgeTo(next, root *x509.Certificate) ([]*x509.Certificate, error) {
	if belongTogether(next, a.key) && bytes.Equal(next.RawSubject, a.certificate.RawSubject) {
		// A renewed certificate for the same key: what it signs verifies by both.
		return a.bridge, nil
	}
	cross, err := a.crossSign(next)
	if err != nil {
		return nil, fmt.Errorf("cross-sign %s by %s: %w", NameOf(next), NameOf(a.certificate), err)
	}
	bridge := append([]*x509.Certificate{cross}, a.chain...)
	if len(bridge) > MaxBridge || !carries(bridge, root) {
		return nil, nil
	}
	bridge = append(bridge, a.bridge...)
	return bridge[:min(len(bridge), MaxBridge)], nil
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

// carries tells whether a certificate that the first of these CAs signed verifies by the root. Of validity, only that there is a
// time at which all are valid matters: the newest begin.
func carries(bridge []*x509.Certificate, root *x509.Certificate) bool {
	roots, intermediates, begin := x509.NewCertPool(), x509.NewCertPool(), root.NotBefore
	roots.AddCert(root)
	for _, certificate := range bridge {
		intermediates.AddCert(certificate)
		if certificate.NotBefore.After(begin) {
			begin = certificate.NotBefore
		}
	}
	chains, err := bridge[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: begin, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err == nil && slices.ContainsFunc(chains, allowsLeaf)
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

// WithBridge is the same CA, whose certificates are followed by this bridge; by none where it begins at another CA.
func (a *Authority) WithBridge(bridge []*x509.Certificate) *Authority {
	bridged := *a
	if bridged.bridge = bridge; len(bridge) > 0 && !belongTogether(bridge[0], a.key) {
		bridged.bridge = nil
	}
	return &bridged
}

// Bridge leads from the CA to the roots of the generations before it.
func (a *Authority) Bridge() []*x509.Certificate { return a.bridge }

// path is what a server sends after a certificate of the CA.
func (a *Authority) path() []*x509.Certificate { return slices.Concat(a.chain, a.bridge) }

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
