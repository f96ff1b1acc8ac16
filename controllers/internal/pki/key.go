package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"k8s.io/client-go/util/keyutil"

	"github.com/servingcert/operator/api/v1alpha1"
)

// maxKeySize is in bytes, and is longer than any private key that the API can request. Parsing a
// longer key may take minutes, and tenants write Secrets.
const maxKeySize = 8 << 10

// KeySpec is the algorithm and the size in bits of a private key; the size of an Ed25519 key is 0.
type KeySpec struct {
	Algorithm v1alpha1.KeyAlgorithm
	Size      int
}

// KeySpecOf returns the KeySpec of a PrivateKey of the API: ECDSA by default, and the default size
// of its algorithm (2048 for RSA, 256 for ECDSA).
func KeySpecOf(key v1alpha1.PrivateKey) KeySpec {
	spec := KeySpec{Algorithm: key.Algorithm, Size: int(key.Size)}
	if spec.Algorithm == "" {
		spec.Algorithm = v1alpha1.ECDSA
	}
	if spec.Size == 0 {
		spec.Size = map[v1alpha1.KeyAlgorithm]int{v1alpha1.RSA: 2048, v1alpha1.ECDSA: 256}[spec.Algorithm]
	}
	return spec
}

// String returns the usual short name, such as "ECDSA 256".
func (s KeySpec) String() string {
	if s.Size == 0 {
		return string(s.Algorithm)
	}
	return fmt.Sprintf("%s %d", s.Algorithm, s.Size)
}

// KeySpecOfPublic returns the algorithm and the size of a public key, and the zero KeySpec if its
// type is unknown.
func KeySpecOfPublic(public crypto.PublicKey) KeySpec {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return KeySpec{v1alpha1.RSA, key.N.BitLen()}
	case *ecdsa.PublicKey:
		return KeySpec{v1alpha1.ECDSA, key.Curve.Params().BitSize}
	case ed25519.PublicKey:
		return KeySpec{v1alpha1.Ed25519, 0}
	}
	return KeySpec{}
}

// IsSlow reports whether generating such a key takes a core a tenth of a second or longer.
func (s KeySpec) IsSlow() bool { return s.Algorithm == v1alpha1.RSA }

// Key is a private key; nil is no key.
type Key struct{ signer crypto.Signer }

// NewKey generates a key. It returns an error if the spec is not supported.
func NewKey(spec KeySpec) (*Key, error) {
	signer, err := generateKey(spec)
	if err != nil {
		return nil, err
	}
	return &Key{signer}, nil
}

// ReadKey reads a private key in PEM. It returns nil if it is not readable.
func ReadKey(encoded []byte) *Key {
	signer, err := parseKey(encoded)
	if err != nil {
		return nil
	}
	return &Key{signer}
}

// MatchesCertificate reports whether the key is the leaf's. A nil key matches none.
func (k *Key) MatchesCertificate(leaf *Leaf) bool {
	return k != nil && keyMatches(leaf.Certificate, k.signer)
}

// HasSpec reports whether the key has this algorithm and size. A nil key has none.
func (k *Key) HasSpec(spec KeySpec) bool {
	return k != nil && KeySpecOfPublic(k.signer.Public()) == spec
}

func generateKey(spec KeySpec) (crypto.Signer, error) {
	switch spec {
	case KeySpec{v1alpha1.RSA, 2048}, KeySpec{v1alpha1.RSA, 3072}, KeySpec{v1alpha1.RSA, 4096}:
		return rsa.GenerateKey(rand.Reader, spec.Size)
	case KeySpec{v1alpha1.ECDSA, 256}:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case KeySpec{v1alpha1.ECDSA, 384}:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case KeySpec{v1alpha1.ECDSA, 521}:
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case KeySpec{v1alpha1.Ed25519, 0}:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("there is no %s key", spec)
}

// EncodingOf returns the encoding of a PrivateKey of the API: PKCS #8 by default, and always for
// Ed25519, which has no other.
func EncodingOf(key v1alpha1.PrivateKey) v1alpha1.KeyEncoding {
	if key.Encoding == "" || key.Algorithm == v1alpha1.Ed25519 {
		return v1alpha1.PKCS8
	}
	return key.Encoding
}

// encodingOf returns the encoding of the first private key in PEM, and "" if there is none.
func encodingOf(encoded []byte) v1alpha1.KeyEncoding {
	for block, rest := pem.Decode(encoded); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case keyutil.PrivateKeyBlockType:
			return v1alpha1.PKCS8
		case keyutil.RSAPrivateKeyBlockType, keyutil.ECPrivateKeyBlockType:
			return v1alpha1.PKCS1
		}
	}
	return ""
}

// EncodeKey returns a private key in PEM in the encoding. It returns the input unchanged if it is
// already in that encoding.
func EncodeKey(encoded []byte, encoding v1alpha1.KeyEncoding) ([]byte, error) {
	if encodingOf(encoded) == encoding {
		return encoded, nil
	}
	key, err := parseKey(encoded)
	if err != nil {
		return nil, fmt.Errorf("tls.key %w", err)
	}
	return encodeKey(key, encoding)
}

// encodeKey returns a key in PEM: as PKCS #1 (RSA) or SEC 1 (ECDSA) if the encoding is PKCS1 and
// the algorithm has such an encoding, and as PKCS #8 (RFC 5958) otherwise.
func encodeKey(key crypto.Signer, encoding v1alpha1.KeyEncoding) ([]byte, error) {
	if encoding == v1alpha1.PKCS1 {
		switch key := key.(type) {
		case *rsa.PrivateKey:
			return pem.EncodeToMemory(&pem.Block{Type: keyutil.RSAPrivateKeyBlockType, Bytes: x509.MarshalPKCS1PrivateKey(key)}), nil
		case *ecdsa.PrivateKey:
			der, err := x509.MarshalECPrivateKey(key)
			if err != nil {
				return nil, fmt.Errorf("encode the private key: %w", err)
			}
			return pem.EncodeToMemory(&pem.Block{Type: keyutil.ECPrivateKeyBlockType, Bytes: der}), nil
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyutil.PrivateKeyBlockType, Bytes: der}), nil
}

// parseKey reads a private key in PEM: PKCS #8, PKCS #1 or SEC 1. Its error never quotes the input,
// and the caller puts the name of the input before it.
func parseKey(encoded []byte) (crypto.Signer, error) {
	if len(encoded) > maxKeySize {
		return nil, fmt.Errorf("is longer than %d bytes", maxKeySize)
	}
	parsed, err := keyutil.ParsePrivateKeyPEM(encoded)
	if err != nil && isEncrypted(encoded) {
		return nil, errors.New("holds a private key that is encrypted: store it without a passphrase, as openssl pkey writes it")
	}
	if err != nil {
		return nil, errors.New("holds no readable private key in PEM")
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("holds a private key that cannot sign")
	}
	return key, nil
}

// isEncrypted reports whether the first private key in PEM is encrypted: as PKCS #8 (RFC 5958), or
// in the older format of OpenSSL (RFC 1421).
func isEncrypted(encoded []byte) bool {
	for block, rest := pem.Decode(encoded); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED")
		}
	}
	return false
}

// keyMatches reports whether a private key is that of a certificate.
func keyMatches(certificate *x509.Certificate, key crypto.Signer) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(certificate.PublicKey)
}
