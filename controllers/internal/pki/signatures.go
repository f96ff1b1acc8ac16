package pki

import (
	"crypto/sha256"
	"crypto/x509"

	"k8s.io/utils/lru"
)

// rememberedSignatures is more than there are certificates in a large cluster.
const rememberedSignatures = 1 << 17

// Signatures remembers which signatures verify: to verify ten thousand takes a second, and they are counted every few. Nil remembers nothing.
type Signatures struct{ verified *lru.Cache }

// NewSignatures remembers none yet.
func NewSignatures() *Signatures { return &Signatures{lru.New(rememberedSignatures)} }

// check tells why a signature is not the CA's; nil when it is.
func (s *Signatures) check(leaf, ca *x509.Certificate) error {
	if s == nil {
		return leaf.CheckSignatureFrom(ca)
	}
	both := pairOf(leaf, ca)
	if _, known := s.verified.Get(both); known {
		return nil
	}
	err := leaf.CheckSignatureFrom(ca)
	if err == nil {
		s.verified.Add(both, nil)
	}
	return err
}

// Made remembers a signature that we have just made.
func (s *Signatures) Made(leaf *Leaf, ca *x509.Certificate) {
	s.verified.Add(pairOf(leaf.Certificate, ca), nil)
}

func pairOf(leaf, ca *x509.Certificate) [sha256.Size]byte {
	hash := sha256.New()
	hash.Write(leaf.Raw)
	hash.Write(ca.Raw)
	return [sha256.Size]byte(hash.Sum(nil))
}
