package pki

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/servingcert/operator/api/v1alpha1"
)

// MinRSA and MaxRSA limit the size in bits of an RSA key. OpenSSL at security level 2, the default
// of Debian, Ubuntu and Red Hat, rejects shorter keys. Clients in Go reject longer ones, because
// verifying with them may take a second (CVE-2023-29409).
const (
	MinRSA = 2048
	MaxRSA = 8192
)

// CheckKey returns an error if clients would reject a public key. Every key from outside of the
// operator must pass it.
func CheckKey(public crypto.PublicKey) error {
	switch key := KeySpecOfPublic(public); {
	case key.Algorithm == v1alpha1.RSA && (key.Size < MinRSA || key.Size > MaxRSA):
		return fmt.Errorf("clients accept RSA keys of %d to %d bits, and this one has %d", MinRSA, MaxRSA, key.Size)
	case key.Algorithm == v1alpha1.ECDSA && !slices.Contains([]int{256, 384, 521}, key.Size):
		return fmt.Errorf("an ECDSA key that clients accept is on P-256, P-384 or P-521, and this one is on a curve of %d bits", key.Size)
	case key.Algorithm == "":
		return errors.New("it is of an unknown kind: use ECDSA, RSA or Ed25519")
	}
	return nil
}

// strongSignatures are the signature algorithms of CA certificates that clients accept. With SHA-1,
// OpenSSL refuses to load or to verify a chain from security level 1 on, and crypto/x509 always
// does.
var strongSignatures = []x509.SignatureAlgorithm{
	x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA, x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
	x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519,
}

// CheckStrength returns an error if clients would reject one of these CA certificates for its key
// or its signature. It ignores the signature of a self-signed CA, which no client verifies.
func CheckStrength(cas ...*x509.Certificate) error {
	for _, ca := range cas {
		if err := CheckKey(ca.PublicKey); err != nil {
			return fmt.Errorf("the key of CA %q is too weak: %w; replace the CA by one with another key", NameOf(ca), err)
		}
		if !slices.Contains(strongSignatures, ca.SignatureAlgorithm) && !selfSigned(ca) {
			return fmt.Errorf("CA %q is signed with %s, which clients refuse: have it signed again with SHA-256", NameOf(ca), ca.SignatureAlgorithm)
		}
	}
	return nil
}
