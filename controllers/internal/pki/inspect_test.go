package pki_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

func TestParseLeafRefuses(t *testing.T) {
	for _, tc := range []struct{ name, encoded, want string }{
		{"empty", "", "tls.crt is missing"},
		{"garbage", "garbage", "tls.crt holds no readable certificate in PEM"},
		{"a key", string(pkcs8(t, newRSA(t))), "tls.crt holds no readable certificate in PEM"},
		{"no DER inside", "-----BEGIN CERTIFICATE-----\nZ2FyYmFnZQ==\n-----END CERTIFICATE-----\n", "tls.crt holds no readable certificate in PEM"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leaf, err := pki.ParseLeaf([]byte(tc.encoded))
			if leaf != nil || err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("ParseLeaf = %v, %v; want %q", leaf, err, tc.want)
			}
		})
	}
}

func TestParts(t *testing.T) {
	root := makeCA(t, nil, "root")
	upper := makeCA(t, &root, "upper")
	pair, leaf := issue(t, load(t, upper.pair(t)), now, day, leafSpec())
	parts := leaf.Parts()
	encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(parts.Certificate)})
	if diff := cmp.Diff(string(pair.Certificate), string(encoded)+parts.Chain); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if want := pki.KeyID(upper.SubjectKeyId); parts.Signer != want || !parts.IssuedAt.Equal(now.Truncate(time.Second)) || !parts.NotAfter.Equal(leaf.NotAfter) {
		t.Errorf("signed by %s %s, and ends %s; want %s, %s, and %s", parts.Signer, parts.IssuedAt, parts.NotAfter, want, now, leaf.NotAfter)
	}
	again := parseLeaf(t, slices.Concat(pair.PrivateKey, pair.Certificate, []byte("text"))).Parts()
	if again != parts {
		t.Error("with more around it is another one")
	}
	for range 2 {
		together, err := pki.ParseParts(parts.Certificate, parts.Chain)
		if must(t, together, err).Parts() != parts {
			t.Error("put together again it is another one")
		}
	}
	if _, err := pki.ParseParts(parts.Certificate, "no chain"); err == nil {
		t.Error("a chain that cannot be read is one")
	}
	if _, err := pki.ParseParts("garbage", parts.Chain); err == nil {
		t.Error("a certificate that cannot be read is one")
	}
}

// TestInspect checks that the cached parts of a pair equal those parsed from it, and that no other
// pair gets them.
func TestInspect(t *testing.T) {
	root := makeCA(t, nil, "root")
	upper := makeCA(t, &root, "upper")
	authority := load(t, makeCA(t, &upper, "lower").pair(t, upper))
	pair, _ := issue(t, authority, now, day, leafSpec())
	other, _ := issue(t, authority, now, day, leafSpec())
	parts := parseLeaf(t, pair.Certificate).Parts()
	parts.Encoding = v1alpha1.PKCS8
	inspect := func(when, want string, pair pki.Pair) {
		t.Helper()
		gotParts, keyErr := pki.Inspect(pair)
		got := ""
		if keyErr != nil {
			got = keyErr.Error()
		}
		if gotParts != parts || got != want {
			t.Errorf("%s: the parts are what they are: %t; %q, want %q", when, gotParts == parts, got, want)
		}
	}
	encoded := pki.Pair{Certificate: pair.Certificate, PrivateKey: pair.PrivateKey}
	inspect("as made", "", encoded)
	inspect("the key of another", "tls.key is not the private key of tls.crt", pki.Pair{Certificate: pair.Certificate, PrivateKey: other.PrivateKey})
	parts.Encoding = ""
	inspect("no key", "tls.key holds no readable private key in PEM", pki.Pair{Certificate: pair.Certificate})
	parts.Encoding = v1alpha1.PKCS8
	inspect("with text before", "", pki.Pair{Certificate: slices.Concat([]byte("text\n"), pair.Certificate), PrivateKey: pair.PrivateKey})
	for range 200 {
		issue(t, authority, now, day, leafSpec())
	}
	inspect("long after", "", encoded)
	if parts, err := pki.Inspect(pki.Pair{Certificate: pair.PrivateKey, PrivateKey: pair.PrivateKey}); parts != (pki.Parts{}) || err == nil {
		t.Errorf("without a certificate: %v, %v", parts, err)
	}
}

func TestCheckPair(t *testing.T) {
	authority := generateRoot(t, now)
	pair, _ := issue(t, authority, now, day, leafSpec())
	other, _ := issue(t, authority, now, day, leafSpec())
	for _, tc := range []struct {
		name, want string
		pair       pki.Pair
	}{
		{"sound", "", pair},
		{"mismatched", "tls.key is not the private key of tls.crt", pki.Pair{Certificate: pair.Certificate, PrivateKey: other.PrivateKey}},
		{"no key", "tls.key holds no readable private key in PEM", pki.Pair{Certificate: pair.Certificate}},
		{"half a key", "tls.key holds no readable private key in PEM", pki.Pair{Certificate: pair.Certificate, PrivateKey: pair.PrivateKey[:60]}},
		{"no certificate", "tls.crt is missing", pki.Pair{PrivateKey: pair.PrivateKey}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := ""
			if err := pki.CheckPair(tc.pair); err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("CheckPair = %q, want %q", got, tc.want)
			}
			quotesNothing(t, got, pair.PrivateKey)
		})
	}
}

func TestCheckIssuerAndChain(t *testing.T) {
	root := makeCA(t, nil, "root")
	upper := makeCA(t, &root, "upper")
	lower := makeCA(t, &upper, "lower")
	twin := makeCA(t, &upper, "lower")
	forged := makeCA(t, &upper, "lower", func(c *x509.Certificate) { c.SubjectKeyId = lower.SubjectKeyId })
	renamed := makeCA(t, &upper, "renamed", func(c *x509.Certificate) { c.SubjectKeyId = lower.SubjectKeyId })
	pair, _ := issue(t, load(t, lower.pair(t, upper)), now, day, leafSpec())
	sent := parseCertificates(t, pair.Certificate)
	tampered := append(slices.Clip(pemOf(tamperedCopy(t, sent[0]))), pemOf(sent[1:]...)...)
	chain := []*x509.Certificate{lower.Certificate, upper.Certificate}
	for _, tc := range []struct {
		name, want string
		sent       []byte
		ca         testCA
		chain      []*x509.Certificate
	}{
		{"its CA", "", pair.Certificate, lower, chain},
		{"a CA of the same name", `was signed by "lower", and the CA is "lower"`, pair.Certificate, twin, chain},
		{"a CA of another name with the same key identifier", `was signed by "lower", and the CA is "renamed"`, pair.Certificate, renamed, chain},
		{"a CA of the same name and key identifier", "signature", pair.Certificate, forged, chain},
		{"the CA above", `was signed by "lower", and the CA is "upper"`, pair.Certificate, upper, chain},
		{"a tampered signature", "signature", tampered, lower, chain},
		{"no chain after it", "not the CA's chain", pemOf(sent[0]), lower, chain},
		{"a link is missing", "not the CA's chain", pemOf(sent[0], sent[1]), lower, chain},
		{"one too many", "not the CA's chain", pemOf(sent[0], sent[1], sent[2], root.Certificate), lower, chain},
		{"the wrong order", "not the CA's chain", pemOf(sent[0], sent[2], sent[1]), lower, chain},
		{"another's chain where none is wanted", "not the CA's chain", pemOf(sent[0], sent[2]), lower, nil},
		{"what may have been a bridge once", "", pair.Certificate, lower, nil},
		{"the chain has changed", "not the CA's chain", pair.Certificate, lower, []*x509.Certificate{lower.Certificate, twin.Certificate}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			leaf := parseLeaf(t, tc.sent)
			wantError(t, leaf.CheckIssuerAndChain(tc.ca.Certificate, tc.chain, nil, nil), tc.want)
		})
	}
}

// tamperedCopy returns a certificate with one bit of its signature changed. The signature is the
// last field.
func tamperedCopy(t *testing.T, certificate *x509.Certificate) *x509.Certificate {
	t.Helper()
	der := slices.Clone(certificate.Raw)
	der[len(der)-20] ^= 1
	tampered, err := x509.ParseCertificate(der)
	return must(t, tampered, err)
}

// wantError fails unless err contains want, or is nil if want is "".
func wantError(t rapid.TB, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("error = %v, want none", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("error = %v, want %q", err, want)
	}
}

// TestVerifyWithRoots verifies leaves as a client does that trusts some roots and has what the
// server sends.
func TestVerifyWithRoots(t *testing.T) {
	root := makeCA(t, nil, "root")
	constrained := makeCA(t, nil, "constrained", func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"svc.cluster.local"} })
	upper, narrow := makeCA(t, &root, "upper"), makeCA(t, &constrained, "narrow")
	for _, tc := range []struct {
		name, want string
		ca         testCA
		roots      []*x509.Certificate
		late       time.Duration
	}{
		{"its root", "", root, []*x509.Certificate{root.Certificate}, 0},
		{"its root, over an intermediate", "", upper, []*x509.Certificate{root.Certificate}, 0},
		{"one of several", "", upper, []*x509.Certificate{constrained.Certificate, root.Certificate}, 0},
		{"another root", "unknown authority", upper, []*x509.Certificate{constrained.Certificate}, 0},
		{"no root", "unknown authority", upper, nil, 0},
		{"a root that does not permit a name", "is not permitted by any constraint", narrow, []*x509.Certificate{constrained.Certificate}, 0},
		{"at its end", "", upper, []*x509.Certificate{root.Certificate}, day - time.Second},
		{"after its end", "expired", upper, []*x509.Certificate{root.Certificate}, day + time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, leaf := issue(t, load(t, tc.ca.pair(t)), now, day, leafSpec())
			wantError(t, leaf.VerifyWithRoots(pki.Bundle(tc.roots).Pool(), now.Add(tc.late)), tc.want)
		})
	}
}

// TestCheckSpecWanted changes each field of the spec and checks that CheckSpec reports it.
func TestCheckSpecWanted(t *testing.T) {
	const uid = "0e6cf9a6-2f5f-4b1f-9a3e-1d1f6f2b8d11"
	authority := generateRoot(t, now)
	_, leaf := issue(t, authority, now, day, leafSpec(func(s *pki.LeafSpec) { s.ServiceUID = uid }))
	for _, tc := range []struct {
		name, want string
		edit       func(*pki.LeafSpec)
	}{
		{"the same", "", func(*pki.LeafSpec) {}},
		{"a name twice", "", func(s *pki.LeafSpec) { s.DNSNames = append(s.DNSNames, s.DNSNames[1]) }},
		{"one name more", "its names", func(s *pki.LeafSpec) { s.DNSNames = append(s.DNSNames, "*.web.shop.svc") }},
		{"one name less", "its names", func(s *pki.LeafSpec) { s.DNSNames = s.DNSNames[:1] }},
		{"another name", "its names", func(s *pki.LeafSpec) { s.DNSNames[1] = "web.shop.svc.example.org" }},
		{"no name", "its names", func(s *pki.LeafSpec) { s.DNSNames = nil }},
		{"another name first", "its common name", func(s *pki.LeafSpec) { slices.Reverse(s.DNSNames) }},
		{"another algorithm", "its key is ECDSA 256, and the policy wants Ed25519", func(s *pki.LeafSpec) { s.Key = ed25519Key }},
		{"another size", "its key is ECDSA 256, and the policy wants ECDSA 384", func(s *pki.LeafSpec) { s.Key.Size = 384 }},
		{"RSA", "its key is ECDSA 256, and the policy wants RSA 2048", func(s *pki.LeafSpec) { s.Key = pki.KeySpec{Algorithm: v1alpha1.RSA, Size: 2048} }},
		{"one usage more", "its key usages", func(s *pki.LeafSpec) { s.Usages = append(s.Usages, v1alpha1.UsageClientAuth) }},
		{"no usage", "its key usages", func(s *pki.LeafSpec) { s.Usages = nil }},
		{"another UID", "Service UID", func(s *pki.LeafSpec) { s.ServiceUID = strings.Replace(uid, "0", "1", 1) }},
		{"no UID", "Service UID", func(s *pki.LeafSpec) { s.ServiceUID = "" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wanted := leafSpec(func(s *pki.LeafSpec) { s.ServiceUID = uid }, tc.edit)
			wantError(t, leaf.CheckSpec(wanted), tc.want)
		})
	}
}

// TestCheckSpecFound changes each field of the leaf, in ways in which this package issues none, and
// checks that CheckSpec reports it.
func TestCheckSpecFound(t *testing.T) {
	root := makeCA(t, nil, "root")
	for _, tc := range []struct {
		name, want string
		edit       func(*x509.Certificate)
	}{
		{"as it should be", "", func(*x509.Certificate) {}},
		{"names in another order", "", func(c *x509.Certificate) { slices.Reverse(c.DNSNames) }},
		{"a name twice", "", func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, c.DNSNames[0]) }},
		{"usages in another order", "", func(c *x509.Certificate) { slices.Reverse(c.ExtKeyUsage) }},
		{"an unreadable extension without a UID", "", func(c *x509.Certificate) { c.ExtraExtensions = uidExtension(t, []byte{4, 0}) }},
		{"a CA", "it is a CA", func(c *x509.Certificate) { c.IsCA = true }},
		{"an IP address", "its names", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }},
		{"a URI", "its names", func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "td", Path: "/w"}} }},
		{"an address of mail", "its names", func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example.org"} }},
		{"no common name", "its common name", func(c *x509.Certificate) { c.Subject = pkix.Name{} }},
		{"a common name of its own", "its common name", func(c *x509.Certificate) { c.Subject.CommonName = "web" }},
		{"keyEncipherment without RSA", "its key usages", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment }},
		{"no key usage", "its key usages", func(c *x509.Certificate) { c.KeyUsage = 0 }},
		{"any usage", "its key usages", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }},
		{"a usage that nobody knows", "its key usages", func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3, 4}}
		}},
		{"a Service UID", "Service UID", func(c *x509.Certificate) { c.ExtraExtensions = uidExtension(t, []byte{0x13, 1, 'u'}) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := leafSpec(func(s *pki.LeafSpec) { s.Usages = append(s.Usages, v1alpha1.UsageClientAuth) })
			template := caTemplate(spec.DNSNames[0], func(c *x509.Certificate) {
				c.IsCA, c.KeyUsage, c.DNSNames = false, x509.KeyUsageDigitalSignature, slices.Clone(spec.DNSNames)
				c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
			}, tc.edit)
			leaf := parseLeaf(t, makeCertificate(t, &root, template).pem())
			wantError(t, leaf.CheckSpec(spec), tc.want)
		})
	}
}

func uidExtension(t *testing.T, value []byte) []pkix.Extension {
	t.Helper()
	return []pkix.Extension{{Id: []int{1, 3, 6, 1, 4, 1, 2312, 17, 100, 2, 1}, Value: value}}
}
