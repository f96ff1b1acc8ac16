package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
)

// maxRecentSignatures is the number of signatures that are always remembered, once there have been
// as many. It is more than the number of certificates in a large cluster.
const maxRecentSignatures = 1 << 17

// Signatures remembers which signatures verify: verifying ten thousand takes a second, and the
// operator counts certificates every few seconds. A nil Signatures remembers nothing.
type Signatures struct {
	mu sync.Mutex
	// recent becomes previous when it is full. The LRU cache of a library would need entries that
	// are four times larger.
	recent, previous map[signaturePair]struct{}
}

// signaturePair is the hash of a certificate and its signer.
type signaturePair [sha256.Size]byte

// NewSignatures returns a Signatures that remembers nothing yet.
func NewSignatures() *Signatures { return &Signatures{recent: map[signaturePair]struct{}{}} }

// check returns an error if ca did not sign leaf.
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

// AddVerified remembers the signature of a leaf that the operator has just issued.
func (s *Signatures) AddVerified(leaf *Leaf, ca *x509.Certificate) {
	s.remember(pairOf(leaf.Certificate, ca))
}

// contains reports whether a pair is remembered, and keeps it from being forgotten.
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
