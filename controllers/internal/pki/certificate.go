// Package pki generates and reads keys, CA certificates, serving certificates and trust bundles. It
// is the only package that handles private keys: an Authority signs, and never returns its key. The
// package knows no cluster and no clock.
package pki

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"k8s.io/client-go/util/cert"
)

// ClockSkew is how long before its issue the notBefore of a certificate is, for clients whose
// clocks are behind.
const ClockSkew = 5 * time.Minute

// maxCertificatesSize limits, in bytes, what is parsed of objects that tenants write. It is enough
// for about a hundred certificates.
const maxCertificatesSize = 256 << 10

// newSerial returns a positive random serial number of 128 bits (RFC 5280 §4.1.2.2 allows 20
// octets).
func newSerial() (*big.Int, error) {
	serial := make([]byte, 16)
	if _, err := rand.Read(serial); err != nil {
		return nil, err
	}
	return new(big.Int).SetBytes(serial), nil
}

// maxKeyIDLength is the length in bytes of the longest hash that is used as a key identifier (RFC
// 7093 §2). Tenants may write longer ones.
const maxKeyIDLength = 64

// KeyID returns a subject or authority key identifier in hexadecimal, as the status shows it. It
// returns the hash of an identifier that is longer than maxKeyIDLength.
func KeyID(id []byte) string {
	if len(id) > maxKeyIDLength {
		return Hash(id)
	}
	return hex.EncodeToString(id)
}

// NameOf returns the name of a CA for messages: its common name or, without one, its whole subject.
func NameOf(ca *x509.Certificate) string {
	return cmp.Or(ca.Subject.CommonName, ca.Subject.String())
}

// Fingerprint returns the SHA-256 hash of a certificate and the chain after it, in DER, in
// hexadecimal. It ignores copies of the certificate in the chain.
func Fingerprint(certificate *x509.Certificate, chain ...*x509.Certificate) string {
	der := slices.Clone(certificate.Raw)
	for _, next := range chain {
		if !next.Equal(certificate) {
			der = append(der, next.Raw...)
		}
	}
	return Hash(der)
}

func encodeCertificates(certificates ...*x509.Certificate) []byte {
	var encoded []byte
	for _, certificate := range certificates {
		encoded = append(encoded, pem.EncodeToMemory(&pem.Block{Type: cert.CertificateBlockType, Bytes: certificate.Raw})...)
	}
	return encoded
}

// parseCertificates reads one or more certificates in PEM. Its errors are predicates: the caller
// puts the name of the input before them.
func parseCertificates(encoded []byte) ([]*x509.Certificate, error) {
	switch {
	case len(encoded) == 0:
		return nil, errors.New("is missing")
	case len(encoded) > maxCertificatesSize:
		return nil, fmt.Errorf("is longer than %d bytes", maxCertificatesSize)
	}
	certificates, err := cert.ParseCertsPEM(encoded)
	if err != nil {
		return nil, fmt.Errorf("holds no readable certificate in PEM: %w", err)
	}
	return certificates, nil
}

// checkKeys returns an error if a certificate in tls.crt has an RSA key longer than MaxRSA:
// verifying with it may take a second, and tenants may write any key.
func checkKeys(certificates []*x509.Certificate) error {
	for _, certificate := range certificates {
		if key, ok := certificate.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > MaxRSA {
			return fmt.Errorf("tls.crt holds an RSA key of %d bits, and clients take no more than %d", key.N.BitLen(), MaxRSA)
		}
	}
	return nil
}

// selfSigned reports whether a certificate is a root: whether its own key signed it. If crypto/x509
// refuses the signature algorithm as too weak, which does not matter in a root, only the names and
// the key identifiers are compared.
func selfSigned(certificate *x509.Certificate) bool {
	if !bytes.Equal(certificate.RawIssuer, certificate.RawSubject) {
		return false
	}
	err := certificate.CheckSignatureFrom(certificate)
	if _, weak := errors.AsType[x509.InsecureAlgorithmError](err); !weak {
		return err == nil
	}
	authority := certificate.AuthorityKeyId
	return len(authority) == 0 || bytes.Equal(authority, certificate.SubjectKeyId)
}
