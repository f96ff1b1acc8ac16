package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"time"
)

// Bundle is a trust bundle: CA certificates, each once, in a stable order.
type Bundle []*x509.Certificate

// NewBundle returns a bundle of the certificates, in their order and without duplicates.
func NewBundle(certificates ...*x509.Certificate) Bundle {
	var bundle Bundle
	for _, certificate := range certificates {
		if !slices.ContainsFunc(bundle, certificate.Equal) {
			bundle = append(bundle, certificate)
		}
	}
	return bundle
}

// ParseBundle reads a bundle in PEM. It returns an error if there is no readable certificate.
func ParseBundle(encoded []byte) (Bundle, error) {
	certificates, err := parseCertificates(encoded)
	if err != nil {
		return nil, fmt.Errorf("the bundle %w", err)
	}
	return NewBundle(certificates...), nil
}

// Encode returns the bundle in PEM.
func (b Bundle) Encode() []byte { return encodeCertificates(b...) }

// Pool returns the bundle as the CertPool that crypto/x509 verifies with.
func (b Bundle) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, certificate := range b {
		pool.AddCert(certificate)
	}
	return pool
}

// Unexpired returns the certificates whose notAfter is after now.
func (b Bundle) Unexpired(now time.Time) Bundle {
	var unexpired Bundle
	for _, certificate := range b {
		if now.Before(certificate.NotAfter) {
			unexpired = append(unexpired, certificate)
		}
	}
	return unexpired
}

// Contains reports whether the bundle has a certificate with this subject key identifier, in the
// form of KeyID.
func (b Bundle) Contains(keyID string) bool {
	return slices.ContainsFunc(b, func(c *x509.Certificate) bool { return KeyID(c.SubjectKeyId) == keyID })
}

// Hash returns the SHA-256 hash of an encoded bundle, in hexadecimal.
func Hash(encoded []byte) string {
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:])
}
