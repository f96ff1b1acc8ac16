package pki_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"

	"github.com/servingcert/operator/controllers/internal/pki"
)

// TestParseLeafRefusesLongKeys checks that a certificate with a key that clients reject, and that
// is expensive to verify with, is not parsed, whether it is the leaf or a CA in its chain.
func TestParseLeafRefusesLongKeys(t *testing.T) {
	t.Parallel()
	root := makeCA(t, nil, "root")
	leaf := makeCertificate(t, &root, caTemplate("leaf"))
	withKey := func(bits int) *x509.Certificate {
		key := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), bits-1, 1), E: 65537}
		der, err := x509.CreateCertificate(rand.Reader, caTemplate("long"), root.Certificate, key, root.key)
		certificate, err2 := x509.ParseCertificate(must(t, der, err))
		return must(t, certificate, err2)
	}
	for name, tc := range map[string]struct {
		encoded []byte
		refused bool
	}{
		"long enough":         {pemOf(withKey(8192)), false},
		"too long":            {pemOf(withKey(8193)), true},
		"too long in a chain": {pemOf(leaf.Certificate, withKey(8193)), true},
	} {
		_, err := pki.ParseLeaf(tc.encoded)
		if refused := err != nil && strings.Contains(err.Error(), "8193 bits"); refused != tc.refused || (err != nil) != tc.refused {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := pki.LoadAuthority(pki.Pair{Certificate: pemOf(root.Certificate, withKey(8193)), PrivateKey: pkcs8(t, root.key)})
	if err == nil || !strings.Contains(err.Error(), "8193 bits") {
		t.Errorf("a CA with such a chain: %v", err)
	}
}
