package pki_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/servingcert/operator/controllers/internal/pki"
)

// TestLoadAuthorityKeyForms checks that LoadAuthority reads the key of a provided CA in every form
// that common tools write.
func TestLoadAuthorityKeyForms(t *testing.T) {
	p256, rsaKey := newECDSA(t, elliptic.P256()), newRSA(t)
	noUsage := certify(t, nil, caTemplate("root", func(c *x509.Certificate) { c.KeyUsage = 0 }), p256)
	for _, tc := range []struct {
		name   string
		parent testCA
		key    []byte
	}{
		{"PKCS #8, ECDSA", selfSignedBy(t, p256), pkcs8(t, p256)},
		{"SEC 1", selfSignedBy(t, p256), sec1(t, p256)},
		{"PKCS #8, RSA", selfSignedBy(t, rsaKey), pkcs8(t, rsaKey)},
		{"PKCS #1", selfSignedBy(t, rsaKey), pkcs1(rsaKey)},
		{"without a key usage", noUsage, pkcs8(t, p256)},
		{"certificate and key in one file", selfSignedBy(t, p256), append(selfSignedBy(t, p256).pem(), pkcs8(t, p256)...)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			authority := load(t, pki.Pair{Certificate: tc.parent.pem(), PrivateKey: tc.key})
			pair, _ := issue(t, authority, now, day, leafSpec())
			if err := verify(t, pair.Certificate, tc.parent.Certificate, now, "web.shop.svc"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLoadAuthorityRefuses checks that the error names the part that is wrong, and never contains a
// part of the key.
func TestLoadAuthorityRefuses(t *testing.T) {
	root := makeCA(t, nil, "root")
	sound, other := root.pair(t), makeCA(t, nil, "other").pair(t)
	dropCA := makeCA(t, nil, "leaf", func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
	version1 := makeCA(t, nil, "v1", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid, c.KeyUsage = false, false, 0 })
	noCertSign := makeCA(t, nil, "no sign", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	noKeyID := makeCertificate(t, &root, caTemplate("no SKI", func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = false, false, x509.KeyUsageCertSign
		c.ExtraExtensions = append(c.ExtraExtensions, basicConstraintsCA)
	}))
	nameless := makeCA(t, &root, "", func(c *x509.Certificate) { c.Subject = pkix.Name{} })
	for _, tc := range []struct {
		name, want string
		pair       pki.Pair
	}{
		{"no subject", "has no subject", nameless.pair(t)},
		{"no CA", "no CA", dropCA.pair(t)},
		{"no basic constraints", "no CA", version1.pair(t)},
		{"wrong key usage", "lacks keyCertSign", noCertSign.pair(t)},
		{"no subject key identifier", "no subject key identifier", noKeyID.pair(t)},
		{"mismatched key", "not the private key", pki.Pair{Certificate: sound.Certificate, PrivateKey: other.PrivateKey}},
		{"root before the CA", "not the private key", pki.Pair{
			Certificate: append(root.pem(), noKeyID.pem()...), PrivateKey: pkcs8(t, noKeyID.key)}},
		{"no certificate", "tls.crt is missing", pki.Pair{PrivateKey: sound.PrivateKey}},
		{"garbage for a certificate", "tls.crt holds no readable certificate", pki.Pair{Certificate: []byte("\x00"), PrivateKey: sound.PrivateKey}},
		{"half a certificate", "tls.crt holds no readable certificate", pki.Pair{
			Certificate: sound.Certificate[:len(sound.Certificate)/2], PrivateKey: sound.PrivateKey}},
		{"truncated DER", "tls.crt holds no readable certificate", pki.Pair{
			Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw[:99]}), PrivateKey: sound.PrivateKey}},
		{"no key", "tls.key holds no readable private key", pki.Pair{Certificate: sound.Certificate}},
		{"garbage for a key", "tls.key holds no readable private key", pki.Pair{
			Certificate: sound.Certificate, PrivateKey: bytes.ReplaceAll(sound.PrivateKey, []byte("PRIVATE"), []byte("SECRET"))}},
		{"half a key", "tls.key holds no readable private key", pki.Pair{
			Certificate: sound.Certificate, PrivateKey: sound.PrivateKey[:len(sound.PrivateKey)/2]}},
		{"the two swapped", "tls.crt holds no readable certificate", pki.Pair{
			Certificate: sound.PrivateKey, PrivateKey: sound.Certificate}},
		{"a key that is too long to be one", "tls.key is longer than 8192 bytes", pki.Pair{
			Certificate: sound.Certificate, PrivateKey: slices.Concat(sound.PrivateKey, bytes.Repeat([]byte("\n"), 8192))}},
		{"certificates that are too long", "tls.crt is longer than 262144 bytes", pki.Pair{
			Certificate: bytes.Repeat(sound.Certificate, 1+262144/len(sound.Certificate)), PrivateKey: sound.PrivateKey}},
		{"a key that cannot sign", "cannot sign", pki.Pair{Certificate: sound.Certificate, PrivateKey: x25519(t)}},
		{"nothing", "tls.crt is missing", pki.Pair{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			authority, err := pki.LoadAuthority(tc.pair)
			if err == nil || authority != nil {
				t.Fatal("it was accepted")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %q, want that it says %q", err, tc.want)
			}
			for _, key := range [][]byte{tc.pair.PrivateKey, sound.PrivateKey} {
				quotesNothing(t, err.Error(), key)
			}
		})
	}
}

// quotesNothing fails if a message contains eight consecutive characters of the content of a PEM
// block.
func quotesNothing(t *testing.T, message string, secret []byte) {
	t.Helper()
	for line := range strings.Lines(string(secret)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "-----") {
			continue
		}
		for i := 0; i+8 <= len(line); i++ {
			if strings.Contains(message, line[i:i+8]) {
				t.Fatalf("the message quotes the input: %s", message)
			}
		}
	}
}

// TestIntermediate checks that what a server sends leads to the root, which the client has and the
// server need not send.
func TestIntermediate(t *testing.T) {
	root := makeCA(t, nil, "root")
	upper := makeCA(t, &root, "upper")
	lower := makeCA(t, &upper, "lower")
	for _, tc := range []struct {
		name  string
		pair  pki.Pair
		chain []*x509.Certificate
	}{
		{"self-signed", root.pair(t), nil},
		{"self-signed, with what is not its chain", root.pair(t, upper), nil},
		{"below the root", upper.pair(t), []*x509.Certificate{upper.Certificate}},
		{"below the root, which stands after it", upper.pair(t, root), []*x509.Certificate{upper.Certificate}},
		{"two below", lower.pair(t, upper), []*x509.Certificate{lower.Certificate, upper.Certificate}},
		{"two below, with the root", lower.pair(t, upper, root), []*x509.Certificate{lower.Certificate, upper.Certificate}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			authority := load(t, tc.pair)
			if diff := cmp.Diff(tc.chain, authority.Chain()); diff != "" {
				t.Errorf("chain (-want +got):\n%s", diff)
			}
			pair, leaf := issue(t, authority, now, day, leafSpec())
			if err := verify(t, pair.Certificate, root.Certificate, now, "web.shop.svc"); err != nil {
				t.Errorf("verify against the root alone: %v", err)
			}
			if err := leaf.CheckIssuerAndChain(authority.Certificate(), authority.Chain(), nil, nil); err != nil {
				t.Errorf("SignedBy: %v", err)
			}
			if diff := cmp.Diff(tc.chain, tail(parseCertificates(t, pair.Certificate))); diff != "" {
				t.Errorf("sent after the leaf (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNotAfterOfChain checks that no certificate outlives any CA between it and its root, and that
// other certificates in the chain do not limit it.
func TestNotAfterOfChain(t *testing.T) {
	ends := func(after time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotAfter = now.Add(after).Truncate(time.Second) }
	}
	for _, tc := range []struct {
		name                      string
		root, upper, lower, other time.Duration
		atLatest                  time.Duration
	}{
		{"the CA ends first", 9 * day, 8 * day, 7 * day, 9 * day, 7 * day},
		{"one above it does", 9 * day, 5 * day, 7 * day, 9 * day, 5 * day},
		{"its root does", 4 * day, 8 * day, 7 * day, 9 * day, 4 * day},
		{"a certificate beside it does", 9 * day, 8 * day, 7 * day, 2 * day, 7 * day},
		{"a certificate beside it has", 9 * day, 8 * day, 7 * day, -day, 7 * day},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := makeCA(t, nil, "root", ends(tc.root))
			upper := makeCA(t, &root, "upper", ends(tc.upper))
			lower := makeCA(t, &upper, "lower", ends(tc.lower))
			former := makeCA(t, nil, "former root")
			other := makeCA(t, &former, "beside it", ends(tc.other))
			authority := load(t, lower.pair(t, upper, other))
			found, err := authority.Root(now, root.pem())
			must(t, found, err)
			want := now.Add(tc.atLatest).Truncate(time.Second)
			_, leaf := issue(t, authority, now, 30*day, leafSpec())
			if !authority.NotAfter().Equal(want) || !leaf.NotAfter.Equal(want) {
				t.Errorf("it ends %s, and its leaf %s, want %s", authority.NotAfter(), leaf.NotAfter, want)
			}
		})
	}
}

func tail(certificates []*x509.Certificate) []*x509.Certificate {
	if len(certificates) == 1 {
		return nil
	}
	return certificates[1:]
}

func TestRoot(t *testing.T) {
	root, other := makeCA(t, nil, "root"), makeCA(t, nil, "root")
	upper := makeCA(t, &root, "upper")
	lower := makeCA(t, &upper, "lower")
	leafless := makeCA(t, nil, "leafless", func(c *x509.Certificate) { c.MaxPathLenZero = true })
	clients := makeCA(t, &root, "clients", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
	servers := makeCA(t, &root, "servers", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	below, narrow := makeCA(t, &leafless, "below"), makeCA(t, &root, "narrow", func(c *x509.Certificate) { c.MaxPathLenZero = true })
	belowNarrow := makeCA(t, &narrow, "below narrow")
	old := makeCA(t, nil, "old", func(c *x509.Certificate) { c.NotAfter = now.Add(-1) })
	belowOld := makeCA(t, &old, "below old")
	for _, tc := range []struct {
		name       string
		ca         pki.Pair
		candidates [][]byte
		want       *x509.Certificate
	}{
		{"self-signed needs no candidate", root.pair(t), nil, root.Certificate},
		{"self-signed ignores the candidates", root.pair(t), [][]byte{other.pem()}, root.Certificate},
		{"the root in ca.crt", upper.pair(t), [][]byte{upper.pem(), root.pem()}, root.Certificate},
		{"the root in tls.crt", upper.pair(t, root), [][]byte{upper.pair(t, root).Certificate, nil}, root.Certificate},
		{"among others and garbage", upper.pair(t), [][]byte{[]byte("garbage"), nil, other.pem(), root.pem()}, root.Certificate},
		{"two below", lower.pair(t, upper), [][]byte{lower.pair(t, upper).Certificate, root.pem()}, root.Certificate},
		{"for servers only", servers.pair(t), [][]byte{root.pem()}, root.Certificate},
		{"path length 0 above leaves", narrow.pair(t), [][]byte{root.pem()}, root.Certificate},
		{"no root", upper.pair(t), [][]byte{upper.pem()}, nil},
		{"no candidate", upper.pair(t), nil, nil},
		{"a root of the same name", upper.pair(t), [][]byte{other.pem()}, nil},
		{"a missing link", lower.pair(t), [][]byte{lower.pem(), root.pem()}, nil},
		{"an expired root", belowOld.pair(t), [][]byte{old.pem()}, nil},
		{"a root that allows no intermediate", below.pair(t), [][]byte{leafless.pem()}, nil},
		{"an intermediate that allows no intermediate", belowNarrow.pair(t, narrow), [][]byte{narrow.pem(), root.pem()}, nil},
		{"for clients only", clients.pair(t), [][]byte{root.pem()}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			authority := load(t, tc.ca)
			got, err := authority.Root(now, tc.candidates...)
			if !got.Equal(tc.want) || (err == nil) != (tc.want != nil) {
				t.Errorf("Root = %v, %v; want %v", nameOf(got), err, nameOf(tc.want))
			}
			if pair, _ := issue(t, authority, now, day, leafSpec()); got != nil {
				if err := verify(t, pair.Certificate, got, now, "web.shop.svc"); err != nil {
					t.Errorf("a leaf below it: %v", err)
				}
			}
		})
	}
}

func nameOf(certificate *x509.Certificate) string {
	if certificate == nil {
		return "none"
	}
	return certificate.Subject.CommonName
}

func x25519(t *testing.T) []byte {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	der, err := x509.MarshalPKCS8PrivateKey(must(t, key, err))
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(t, der, err)})
}
