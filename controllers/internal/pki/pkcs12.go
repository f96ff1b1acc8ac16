package pki

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"

	"software.sslmate.com/src/go-pkcs12"
)

// Truststore returns a bundle in PEM as PKCS #12 (RFC 7292), for Java. It returns the same bytes
// for the same bundle and password. Without a password the result is neither encrypted nor
// authenticated, a form that Java 18 and later and OpenSSL read.
func Truststore(bundle []byte, password string) ([]byte, error) {
	roots, err := ParseBundle(bundle)
	if err != nil {
		return nil, err
	}
	// The salts and IVs need not be secret: they only prevent an attacker from computing the keys
	// of all passwords in advance.
	return encoder(password, []byte("truststore"), bundle).EncodeTrustStore(roots, password)
}

// Keystore returns a certificate with its chain and its private key as PKCS #12. It returns the
// same bytes for the same pair and password.
func Keystore(pair Pair, password string) ([]byte, error) {
	leaf, err := pair.Leaf()
	if err != nil {
		return nil, err
	}
	key, err := parseKey(pair.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("tls.key %w", err)
	}
	// The salts and IVs must not depend on the password: they are in clear text, and would let an
	// attacker test a guessed password at less cost than with the file's own key derivation.
	return encoder(password, pair.PrivateKey, pair.Certificate).Encode(key, leaf.Certificate, leaf.chain, password)
}

func encoder(password string, seed, context []byte) *pkcs12.Encoder {
	if password == "" {
		return pkcs12.Passwordless
	}
	return pkcs12.Modern2023.WithRand(&deterministicReader{seed: seed, context: context})
}

// deterministicReader is a stream of pseudorandom bytes that depend only on a seed and its context:
// HMAC-SHA-256 in counter mode (NIST SP 800-108).
type deterministicReader struct {
	seed, context []byte
	counter       uint32
	remaining     []byte
}

var _ io.Reader = (*deterministicReader)(nil)

// Read implements io.Reader.
func (s *deterministicReader) Read(into []byte) (int, error) {
	for n := 0; n < len(into); {
		if len(s.remaining) == 0 {
			s.counter++
			mac := hmac.New(sha256.New, s.seed)
			mac.Write(binary.BigEndian.AppendUint32(nil, s.counter))
			mac.Write(s.context)
			s.remaining = mac.Sum(nil)
		}
		copied := copy(into[n:], s.remaining)
		n, s.remaining = n+copied, s.remaining[copied:]
	}
	return len(into), nil
}
