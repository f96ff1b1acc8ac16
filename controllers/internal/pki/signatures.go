package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
)

// maxRecentSignatures is more than there are certificates in a large cluster: it is how many are remembered at least, once there have been as many.
const maxRecentSignatures = 1 << 17

// Signatures remembers which signatures verify: to verify ten thousand takes a second, and they are counted every few. Nil remembers nothing.
type Signatures struct {
	mu sync.Mutex
	// recent becomes before when it is full: entries as small as these are not worth the four times larger ones of a library.
	recent, previous map[signaturePair]struct{}
}

// signaturePair stands for a certificate and who signed it.
type signaturePair [sha256.Size]byte

// NewSignatures remembers none yet.
func NewSignatures() *Signatures { return &Signatures{recent: map[signaturePair]struct{}{}} }

// check tells why a signature is not the CA's; nil when it is.
func (s *Signatures) check(leaf, ca *x509.Certificate) error {
	if s == nil {
		return leaf.CheckSignatureFrom(ca)
	}
	pair := pairOf(leaf, ca)
	if s.contains(pair) {
		return nil
	}
	err := leaf.CheckSignatureFrom(ca)
	if err == nil {
		s.remember(pair)
	}
	return err
}

// AddVerified remembers a signature that we have just made.
func (s *Signatures) AddVerified(leaf *Leaf, ca *x509.Certificate) {
	s.remember(pairOf(leaf.Certificate, ca))
}

// contains reports whether a pair is remembered, and goes on remembering it.
func (s *Signatures) contains(pair signaturePair) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, inRecent := s.recent[pair]
	if _, inPrevious := s.previous[pair]; inPrevious && !inRecent {
		s.add(pair)
		return true
	}
	return inRecent
}

func (s *Signatures) remember(pair signaturePair) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(pair)
}

func (s *Signatures) add(pair signaturePair) {
	if len(s.recent) >= maxRecentSignatures {
		s.recent, s.previous = map[signaturePair]struct{}{}, s.recent
	}
	s.recent[pair] = struct{}{}
}

func pairOf(leaf, ca *x509.Certificate) signaturePair {
	hash := sha256.New()
	hash.Write(leaf.Raw)
	hash.Write(ca.Raw)
	return signaturePair(hash.Sum(nil))
}
