// Package pki makes and reads keys, CA certificates, serving certificates and trust bundles. It is the one package in which
// private keys live: an Authority signs, and never hands its key out. It knows no cluster and no clock.
package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"k8s.io/client-go/util/cert"
)

// ClockSkew is how far before its making a certificate begins to be valid, for the clocks that are behind.
const ClockSkew = 5 * time.Minute

// newSerial is a positive random number of 128 bits (RFC 5280 §4.1.2.2 allows 20 octets).
func newSerial() (*big.Int, error) {
	serial := make([]byte, 16)
	if _, err := rand.Read(serial); err != nil {
		return nil, err
	}
	return new(big.Int).SetBytes(serial), nil
}

// KeyID is a subject or authority key identifier in hexadecimal, as the status shows it.
func KeyID(id []byte) string { return hex.EncodeToString(id) }

func encodeCertificates(certificates ...*x509.Certificate) []byte {
	var encoded []byte
	for _, certificate := range certificates {
		encoded = append(encoded, pem.EncodeToMemory(&pem.Block{Type: cert.CertificateBlockType, Bytes: certificate.Raw})...)
	}
	return encoded
}

// parseCertificates reads one or more certificates in PEM. Its errors continue the name of what was read.
func parseCertificates(encoded []byte) ([]*x509.Certificate, error) {
	if len(encoded) == 0 {
		return nil, fmt.Errorf("is missing")
	}
	certificates, err := cert.ParseCertsPEM(encoded)
	if err != nil {
		return nil, fmt.Errorf("holds no readable certificate in PEM: %w", err)
	}
	return certificates, nil
}

// selfSigned tells whether a certificate is a root. Where it signed itself with what is too weak today, which matters in no
// root, its names must do.
func selfSigned(certificate *x509.Certificate) bool {
	err := certificate.CheckSignatureFrom(certificate)
	if _, weak := errors.AsType[x509.InsecureAlgorithmError](err); !weak {
		return err == nil
	}
	authority := certificate.AuthorityKeyId
	return bytes.Equal(certificate.RawIssuer, certificate.RawSubject) &&
		(len(authority) == 0 || bytes.Equal(authority, certificate.SubjectKeyId))
}
