package pki_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// now is in the far future and not a whole second, so that a stray time.Now() or a missing
// truncation makes a test fail.
var now = time.Date(2071, time.March, 14, 15, 9, 26, 535897932, time.UTC)

const day = 24 * time.Hour

var (
	ed25519Key = pki.KeySpec{Algorithm: v1alpha1.Ed25519}
	p256Key    = pki.KeySpec{Algorithm: v1alpha1.ECDSA, Size: 256}
)

// keySpecs are all kinds of keys that the API accepts.
var keySpecs = []pki.KeySpec{
	{Algorithm: v1alpha1.RSA, Size: 2048},
	{Algorithm: v1alpha1.RSA, Size: 3072},
	{Algorithm: v1alpha1.RSA, Size: 4096},
	{Algorithm: v1alpha1.ECDSA, Size: 256},
	{Algorithm: v1alpha1.ECDSA, Size: 384},
	{Algorithm: v1alpha1.ECDSA, Size: 521},
	{Algorithm: v1alpha1.Ed25519},
}

func rootSpec(edits ...func(*pki.RootSpec)) pki.RootSpec {
	spec := pki.RootSpec{CommonName: "test-signer", Duration: 790 * day, Key: p256Key}
	for _, edit := range edits {
		edit(&spec)
	}
	return spec
}

func leafSpec(edits ...func(*pki.LeafSpec)) pki.LeafSpec {
	spec := pki.LeafSpec{
		DNSNames: []string{"web.shop.svc", "web.shop.svc.cluster.local"},
		Usages:   []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth},
		Key:      p256Key,
	}
	for _, edit := range edits {
		edit(&spec)
	}
	return spec
}

func must[T any](t rapid.TB, value T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func generateRoot(t rapid.TB, at time.Time, edits ...func(*pki.RootSpec)) *pki.Authority {
	t.Helper()
	pair, err := pki.GenerateRoot(at, rootSpec(edits...))
	return load(t, must(t, pair, err))
}

func load(t rapid.TB, pair pki.Pair) *pki.Authority {
	t.Helper()
	authority, err := pki.LoadAuthority(pair)
	return must(t, authority, err)
}

func issue(t rapid.TB, authority *pki.Authority, at time.Time, duration time.Duration, spec pki.LeafSpec) (pki.Pair, *pki.Leaf) {
	t.Helper()
	pair, err := authority.Issue(at, spec, duration, nil)
	must(t, pair, err)
	return pair, parseLeaf(t, pair.Certificate)
}

func parseLeaf(t rapid.TB, encoded []byte) *pki.Leaf {
	t.Helper()
	leaf, err := pki.ParseLeaf(encoded)
	return must(t, leaf, err)
}

// testCA is a certificate that the package under test did not create, with its key.
type testCA struct {
	*x509.Certificate
	key crypto.Signer
}

func (h testCA) pem() []byte { return pemOf(h.Certificate) }

// pair returns the certificate, followed by a chain, and its key as PKCS #8.
func (h testCA) pair(t rapid.TB, chain ...testCA) pki.Pair {
	t.Helper()
	certificates := h.pem()
	for _, c := range chain {
		certificates = append(certificates, c.pem()...)
	}
	return pki.Pair{Certificate: certificates, PrivateKey: pkcs8(t, h.key)}
}

// makeCertificate generates a key and issues a certificate for it, signed by parent, or self-signed
// if parent is nil.
func makeCertificate(t rapid.TB, parent *testCA, template *x509.Certificate) testCA {
	t.Helper()
	return certify(t, parent, template, newECDSA(t, elliptic.P256()))
}

func certify(t rapid.TB, parent *testCA, template *x509.Certificate, key crypto.Signer) testCA {
	t.Helper()
	signer, issuer := key, template
	if parent != nil {
		signer, issuer = parent.key, parent.Certificate
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), signer)
	must(t, der, err)
	certificate, err := x509.ParseCertificate(der)
	return testCA{must(t, certificate, err), key}
}

func caTemplate(name string, edits ...func(*x509.Certificate)) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-day), NotAfter: now.Add(1000 * day),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	for _, edit := range edits {
		edit(template)
	}
	return template
}

func makeCA(t rapid.TB, parent *testCA, name string, edits ...func(*x509.Certificate)) testCA {
	t.Helper()
	return makeCertificate(t, parent, caTemplate(name, edits...))
}

// selfSignedBy returns a root with a key of any kind.
func selfSignedBy(t rapid.TB, key crypto.Signer) testCA {
	t.Helper()
	return certify(t, nil, caTemplate("root"), key)
}

// basicConstraintsCA is the extension CA:TRUE. A template with IsCA instead would get a subject key
// identifier.
var basicConstraintsCA = pkix.Extension{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}

func pemOf(certificates ...*x509.Certificate) []byte {
	var encoded []byte
	for _, certificate := range certificates {
		encoded = append(encoded, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})...)
	}
	return encoded
}

func pkcs8(t rapid.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(t, der, err)})
}

func newECDSA(t rapid.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	return must(t, key, err)
}

func poolOf(certificates ...*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, certificate := range certificates {
		pool.AddCert(certificate)
	}
	return pool
}

// verify verifies what a server sends, the leaf and its chain, as a client that trusts one root
// does.
func verify(t rapid.TB, sent []byte, root *x509.Certificate, at time.Time, host string) error {
	t.Helper()
	certificates := parseCertificates(t, sent)
	_, err := certificates[0].Verify(x509.VerifyOptions{
		Roots: poolOf(root), Intermediates: poolOf(certificates[1:]...), CurrentTime: at, DNSName: host,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}

func parseCertificates(t rapid.TB, encoded []byte) []*x509.Certificate {
	t.Helper()
	var certificates []*x509.Certificate
	for block, rest := pem.Decode(encoded); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		certificates = append(certificates, must(t, certificate, err))
	}
	if len(certificates) == 0 {
		t.Fatal("no certificate in PEM")
	}
	return certificates
}

func extension(t *testing.T, certificate *x509.Certificate, oid ...int) pkix.Extension {
	t.Helper()
	for _, extension := range certificate.Extensions {
		if extension.Id.Equal(oid) {
			return extension
		}
	}
	t.Fatalf("extension %v is missing", oid)
	return pkix.Extension{}
}

func newRSA(t rapid.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	return must(t, key, err)
}

func pkcs1(key *rsa.PrivateKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
}

// sec1 returns a key in PEM as openssl writes it: its parameters, then the key.
func sec1(t rapid.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	parameters := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}})
	return append(parameters, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(t, der, err)})...)
}
