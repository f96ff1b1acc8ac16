// Package pki makes and reads keys, CA certificates, serving certificates and trust bundles. It is the one package in which
// private keys live: an Authority signs, and never hands its key out. It knows no cluster and no clock.
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

// ClockSkew is how far before its making a certificate begins to be valid, for the clocks that are behind.
const ClockSkew = 5 * time.Minute

// maxCertificatesSize bounds what is read from objects that tenants write: about a hundred certificates.
const maxCertificatesSize = 256 << 10

// newSerial is a positive random number of 128 bits (RFC 5280 §4.1.2.2 allows 20 octets).
func newSerial() (*big.Int, error) {
	serial := make([]byte, 16)
	if _, err := rand.Read(serial); err != nil {
		return nil, err
	}
	return new(big.Int).SetBytes(serial), nil
}

// maxKeyIDLength is as long as the longest hash (RFC 7093 §2); tenants may write any.
const maxKeyIDLength = 64

// KeyID is a subject or authority key identifier in hexadecimal, as the status shows it; where it is longer than any should be, its hash.
func KeyID(id []byte) string {
	if len(id) > maxKeyIDLength {
		return Hash(id)
	}
	return hex.EncodeToString(id)
}

// NameOf is how people know a CA: its common name or, without one, its whole subject.
func NameOf(ca *x509.Certificate) string {
	return cmp.Or(ca.Subject.CommonName, ca.Subject.String())
}

// Fingerprint identifies a certificate, and the chain after it: SHA-256 of what they are in DER, in hexadecimal.
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

// parseCertificates reads one or more certificates in PEM. Its errors continue the name of what was read.
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

// checkKeys tells of a key in tls.crt that is too long: to verify with it may take a second, and tenants may write any.
func checkKeys(certificates []*x509.Certificate) error {
	for _, certificate := range certificates {
		if key, ok := certificate.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > MaxRSA {
			return fmt.Errorf("tls.crt holds an RSA key of %d bits, and clients take no more than %d", key.N.BitLen(), MaxRSA)
		}
	}
	return nil
}

// selfSigned reports whether a certificate is a root. Where it signed itself with what is too weak today, which matters in no
// root, its names must do.
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
