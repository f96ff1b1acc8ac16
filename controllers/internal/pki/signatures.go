package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
)

// rememberedSignatures is more than there are certificates in a large cluster: it is how many are remembered at least, once there have been as many.
const rememberedSignatures = 1 << 17

// Signatures remembers which signatures verify: to verify ten thousand takes a second, and they are counted every few. Nil remembers nothing.
type Signatures struct {
	mu sync.Mutex
	// recent becomes before when it is full: entries as small as these are not worth the four times larger ones of a library.
	recent, before map[pair]struct{}
}

// pair stands for a certificate and who signed it.
type pair [sha256.Size]byte

// NewSignatures remembers none yet.
func NewSignatures() *Signatures { return &Signatures{recent: map[pair]struct{}{}} }

// check tells why a signature is not the CA's; nil when it is.
func (s *Signatures) check(leaf, ca *x509.Certificate) error {
	if s == nil {
		return leaf.CheckSignatureFrom(ca)
	}
	both := pairOf(leaf, ca)
	if s.knows(both) {
		return nil
	}
	err := leaf.CheckSignatureFrom(ca)
	if err == nil {
		s.remember(both)
	}
	return err
}

// Made remembers a signature that we have just made.
func (s *Signatures) Made(leaf *Leaf, ca *x509.Certificate) { s.remember(pairOf(leaf.Certificate, ca)) }

// knows tells whether a pair is remembered, and goes on remembering it.
func (s *Signatures) knows(both pair) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, recent := s.recent[both]
	if _, before := s.before[both]; before && !recent {
		s.add(both)
		return true
	}
	return recent
}

func (s *Signatures) remember(both pair) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(both)
}

func (s *Signatures) add(both pair) {
	if len(s.recent) >= rememberedSignatures {
		s.recent, s.before = map[pair]struct{}{}, s.recent
	}
	s.recent[both] = struct{}{}
}

func pairOf(leaf, ca *x509.Certificate) pair {
	hash := sha256.New()
	hash.Write(leaf.Raw)
	hash.Write(ca.Raw)
	return pair(hash.Sum(nil))
}
