package pki_test

import (
	"bytes"
	"crypto/x509"
	"slices"
	"strings"
	"testing"

	"github.com/servingcert/operator/controllers/internal/pki"
)

// FuzzParseLeaf checks that any content of a Secret is either parsed or rejected, and that no
// method of a parsed leaf panics.
func FuzzParseLeaf(f *testing.F) {
	root := makeCA(f, nil, "root")
	upper := makeCA(f, &root, "upper")
	pair, _ := issue(f, load(f, upper.pair(f)), now, day, leafSpec())
	for _, seed := range [][]byte{
		pair.Certificate, root.pem(), pair.PrivateKey, nil, []byte("garbage"),
		append([]byte("text\n"), pair.Certificate...), pair.Certificate[:len(pair.Certificate)-30],
		bytes.Replace(pair.Certificate, []byte("\n"), []byte("\nHeader: x\n\n"), 1),
		[]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, encoded []byte) {
		leaf, err := pki.ParseLeaf(encoded)
		if (leaf == nil) == (err == nil) {
			t.Fatalf("ParseLeaf = %v, %v", leaf, err)
		}
		if err != nil {
			return
		}
		if leaf.Certificate == nil {
			t.Fatal("a leaf without a certificate")
		}
		if leaf.CheckIssuerAndChain(upper.Certificate, []*x509.Certificate{upper.Certificate}, nil, nil) == nil && !bytes.Equal(leaf.RawIssuer, upper.RawSubject) {
			t.Error("signed by a CA that it does not name")
		}
		if leaf.CheckSpec(leafSpec()) == nil && len(leaf.DNSNames) == 0 {
			t.Error("satisfied without a name")
		}
		if pki.CheckPair(pki.Pair{Certificate: encoded, PrivateKey: pair.PrivateKey}) == nil && keyKind(leaf.PublicKey) != p256Key {
			t.Error("an ECDSA key belongs to another kind of certificate")
		}
	})
}

// keyErrors are all errors that may be reported about a key.
var keyErrors = []string{
	"tls.key holds no readable private key in PEM",
	"tls.key holds a private key that is encrypted: store it without a passphrase, as openssl pkey writes it",
	"tls.key holds a private key that cannot sign",
	"tls.key is longer than 8192 bytes",
	"tls.key is not the private key of the certificate in tls.crt",
}

// FuzzLoadAuthority checks that a CA that loads issues certificates that its key verifies, and that
// any other input is rejected with an error that quotes no key.
func FuzzLoadAuthority(f *testing.F) {
	root := makeCA(f, nil, "root")
	upper := makeCA(f, &root, "upper")
	other := makeCA(f, nil, "other")
	for _, seed := range []pki.Pair{
		root.pair(f), upper.pair(f, root), {Certificate: root.pem(), PrivateKey: other.pair(f).PrivateKey},
		{Certificate: root.pair(f).PrivateKey, PrivateKey: root.pem()}, {}, {Certificate: []byte("x"), PrivateKey: []byte("y")},
		{Certificate: root.pem(), PrivateKey: []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\n\n-----END ENCRYPTED PRIVATE KEY-----\n")},
		{Certificate: root.pem()[:100], PrivateKey: root.pair(f).PrivateKey}, {Certificate: root.pem(), PrivateKey: root.pair(f).PrivateKey[:80]},
	} {
		f.Add(seed.Certificate, seed.PrivateKey)
	}
	f.Fuzz(func(t *testing.T, encoded, key []byte) {
		authority, err := pki.LoadAuthority(pki.Pair{Certificate: encoded, PrivateKey: key})
		if (authority == nil) == (err == nil) {
			t.Fatalf("LoadAuthority = %v, %v", authority, err)
		}
		if err != nil {
			if strings.HasPrefix(err.Error(), "tls.key") && !slices.Contains(keyErrors, err.Error()) {
				t.Errorf("the error depends on what the key holds: %v", err)
			}
			return
		}
		ca := authority.Certificate()
		if !ca.IsCA || len(ca.SubjectKeyId) == 0 {
			t.Error("it was loaded, and is no CA with a subject key identifier")
		}
		at := ca.NotAfter.Add(-1)
		pair, err := authority.Issue(at, leafSpec(), day, nil)
		if err != nil {
			return
		}
		if err := parseLeaf(t, pair.Certificate).CheckIssuerAndChain(ca, authority.Chain(), nil, nil); err != nil {
			t.Errorf("SignedBy: %v", err)
		}
	})
}
