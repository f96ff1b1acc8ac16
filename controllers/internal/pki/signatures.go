package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"slices"

	"k8s.io/utils/lru"
)

// rememberedSignatures is more than there are certificates in a large cluster.
const rememberedSignatures = 1 << 14

// Signatures remembers which signatures verify: to verify ten thousand takes a second, and they are counted every few. Nil remembers nothing.
type Signatures struct{ verified *lru.Cache }

// NewSignatures remembers none yet.
func NewSignatures() *Signatures { return &Signatures{lru.New(rememberedSignatures)} }

// check tells why a signature is not the CA's; nil when it is.
func (s *Signatures) check(leaf, ca *x509.Certificate) error {
	if s == nil {
		return leaf.CheckSignatureFrom(ca)
	}
	both := sha256.Sum256(slices.Concat(leaf.Raw, ca.Raw))
	if _, known := s.verified.Get(both); known {
		return nil
	}
	err := leaf.CheckSignatureFrom(ca)
	if err == nil {
		s.verified.Add(both, nil)
	}
	return err
}
