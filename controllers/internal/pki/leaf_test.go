package pki_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// TestIssue issues a leaf for each kind of key.
func TestIssue(t *testing.T) {
	authority := generateRoot(t, now)
	for _, key := range keySpecs {
		t.Run(key.String(), func(t *testing.T) {
			t.Parallel()
			spec := leafSpec(func(s *pki.LeafSpec) { s.Key = key })
			pair, leaf := issue(t, authority, now, 90*day, spec)
			want := x509.KeyUsageDigitalSignature
			if key.Algorithm == v1alpha1.RSA {
				want |= x509.KeyUsageKeyEncipherment
			}
			if got := keyKind(leaf.PublicKey); got != key {
				t.Errorf("key = %v, want %v", got, key)
			}
			if leaf.KeyUsage != want {
				t.Errorf("key usage = %b, want %b", leaf.KeyUsage, want)
			}
			if !leaf.BasicConstraintsValid || leaf.IsCA {
				t.Errorf("basic constraints: valid %v, CA %v; want true, false", leaf.BasicConstraintsValid, leaf.IsCA)
			}
			if !cmp.Equal(leaf.AuthorityKeyId, authority.Certificate().SubjectKeyId) {
				t.Error("its authority key identifier is not the CA's subject key identifier")
			}
			if len(leaf.SubjectKeyId) != 20 || cmp.Equal(leaf.SubjectKeyId, leaf.AuthorityKeyId) {
				t.Errorf("subject key identifier = %x, want one of 160 bits", leaf.SubjectKeyId)
			}
			if err := pki.CheckPair(pair); err != nil {
				t.Errorf("CheckPair: %v", err)
			}
			if err := leaf.CheckSpec(spec); err != nil {
				t.Errorf("Satisfies: %v", err)
			}
			if err := verify(t, pair.Certificate, authority.Certificate(), now, "web.shop.svc"); err != nil {
				t.Errorf("verify: %v", err)
			}
			if block, rest := pem.Decode(pair.PrivateKey); block.Type != "PRIVATE KEY" || len(rest) > 0 {
				t.Errorf("the key is %q in PEM with %d bytes after it, want PKCS #8 alone", block.Type, len(rest))
			}
		})
	}
}

// TestSubjectKeyID checks that a leaf has a subject key identifier by the method that crypto/x509
// uses for CAs, and that a leaf without one, of an older version, is not reissued for that.
func TestSubjectKeyID(t *testing.T) {
	authority := generateRoot(t, now)
	chain, err := authority.SignPublicKey(leafSpec(), authority.Certificate().PublicKey, now, now.Add(day))
	leaf := parseLeaf(t, must(t, chain, err))
	if !cmp.Equal(leaf.SubjectKeyId, authority.Certificate().SubjectKeyId) {
		t.Errorf("subject key identifier = %x, want %x, that of the CA with the same key", leaf.SubjectKeyId, authority.Certificate().SubjectKeyId)
	}
	ca := makeCA(t, nil, "ca")
	template := *leaf.Certificate
	template.SubjectKeyId = nil
	older := parseLeaf(t, makeCertificate(t, &ca, &template).pem())
	if err := older.CheckSpec(leafSpec()); len(older.SubjectKeyId) > 0 || err != nil {
		t.Errorf("with the subject key identifier %x: %v, want none, and nil", older.SubjectKeyId, err)
	}
}

func TestIssueUsages(t *testing.T) {
	authority := generateRoot(t, now)
	for _, tc := range []struct {
		name   string
		usages []v1alpha1.CertificateUsage
		want   []x509.ExtKeyUsage
	}{
		{"server", []v1alpha1.CertificateUsage{"server auth"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}},
		{"both", []v1alpha1.CertificateUsage{"server auth", "client auth"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}},
		{"the order does not count", []v1alpha1.CertificateUsage{"client auth", "server auth"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, leaf := issue(t, authority, now, day, leafSpec(func(s *pki.LeafSpec) { s.Usages = tc.usages }))
			if diff := cmp.Diff(tc.want, leaf.ExtKeyUsage); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestIssueSubject(t *testing.T) {
	authority := generateRoot(t, now)
	fits, tooLong := strings.Repeat("a", 59)+".n.sv", strings.Repeat("a", 59)+".n.svc"
	for _, tc := range []struct {
		name, want string
		names      []string
	}{
		{"the first name", "web.shop.svc", []string{"web.shop.svc", "a.example.org"}},
		{"64 bytes fit", fits, []string{fits}},
		{"65 bytes do not", "", []string{tooLong, "short.example.org"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pair, leaf := issue(t, authority, now, day, leafSpec(func(s *pki.LeafSpec) { s.DNSNames = tc.names }))
			if leaf.Subject.CommonName != tc.want {
				t.Errorf("common name = %q, want %q", leaf.Subject.CommonName, tc.want)
			}
			if diff := cmp.Diff(tc.names, leaf.DNSNames); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
			if got, want := extension(t, leaf.Certificate, 2, 5, 29, 17).Critical, tc.want == ""; got != want {
				t.Errorf("subject alternative name critical = %v, want %v", got, want)
			}
			if err := verify(t, pair.Certificate, authority.Certificate(), now, tc.names[0]); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestIssueServiceUID(t *testing.T) {
	const uid = "0e6cf9a6-2f5f-4b1f-9a3e-1d1f6f2b8d11"
	authority := generateRoot(t, now)
	_, leaf := issue(t, authority, now, day, leafSpec(func(s *pki.LeafSpec) { s.ServiceUID = uid }))
	got := extension(t, leaf.Certificate, 1, 3, 6, 1, 4, 1, 2312, 17, 100, 2, 1)
	if want := append([]byte{0x13, byte(len(uid))}, uid...); got.Critical || !bytes.Equal(got.Value, want) {
		t.Errorf("extension = %x (critical: %v), want the PrintableString %x, not critical", got.Value, got.Critical, want)
	}
	if _, err := authority.Issue(now, leafSpec(func(s *pki.LeafSpec) { s.ServiceUID = "snow☃man" }), day, nil); err == nil {
		t.Error("a UID that is no PrintableString was accepted")
	}
	_, plain := issue(t, authority, now, day, leafSpec())
	for _, extension := range plain.Extensions {
		if extension.Id.Equal(got.Id) {
			t.Error("a certificate without a Service UID carries the extension")
		}
	}
}

// TestIssueValidity checks that notBefore is before the issue, and that no leaf outlives its CA.
func TestIssueValidity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lifetime := time.Duration(rapid.Int64Range(int64(time.Hour), int64(20*365*day)).Draw(t, "CA lifetime"))
		authority := generateRoot(t, now, func(s *pki.RootSpec) { s.Duration = lifetime })
		notAfter := authority.Certificate().NotAfter
		at := now.Add(time.Duration(rapid.Int64Range(0, int64(notAfter.Sub(now))-1).Draw(t, "CA age")))
		duration := time.Duration(rapid.Int64Range(int64(time.Minute), int64(30*365*day)).Draw(t, "duration"))
		_, leaf := issue(t, authority, at, duration, leafSpec())
		want := at.Add(duration).Truncate(time.Second)
		if want.After(notAfter) {
			want = notAfter
		}
		if !leaf.NotAfter.Equal(want) || !pki.NotAfter(at, duration, authority.NotAfter()).Equal(want) {
			t.Errorf("notAfter = %s, NotAfter() = %s, want %s", leaf.NotAfter, pki.NotAfter(at, duration, authority.NotAfter()), want)
		}
		if want := at.Add(-pki.ClockSkew).Truncate(time.Second); !leaf.NotBefore.Equal(want) {
			t.Errorf("notBefore = %s, want %s", leaf.NotBefore, want)
		}
		if want := at.Truncate(time.Second); !leaf.IssuedAt().Equal(want) {
			t.Errorf("IssuedAt = %s, want %s", leaf.IssuedAt(), want)
		}
	})
}

func TestIssueByExpiredCA(t *testing.T) {
	authority := generateRoot(t, now, func(s *pki.RootSpec) { s.Duration = time.Hour })
	notAfter := authority.Certificate().NotAfter
	for _, at := range []time.Time{notAfter, notAfter.Add(time.Nanosecond), notAfter.Add(365 * day)} {
		if _, err := authority.Issue(at, leafSpec(), day, nil); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("at %s: error = %v, want that the CA has expired", at, err)
		}
	}
	if _, err := authority.Issue(notAfter.Add(-time.Nanosecond), leafSpec(), day, nil); err != nil {
		t.Errorf("just before its end: %v", err)
	}
}

// TestIssueKeepsKey checks that the previous key is kept if and only if it has the algorithm and
// size of the spec, in any PEM encoding.
func TestIssueKeepsKey(t *testing.T) {
	p256 := newECDSA(t, elliptic.P256())
	rsaKey := newRSA(t)
	rsaSpec := pki.KeySpec{Algorithm: v1alpha1.RSA, Size: 2048}
	for _, tc := range []struct {
		name     string
		previous []byte
		public   any
		spec     pki.KeySpec
		kept     bool
	}{
		{"PKCS #8", pkcs8(t, p256), p256.Public(), p256Key, true},
		{"SEC 1", sec1(t, p256), p256.Public(), p256Key, true},
		{"PKCS #1", pkcs1(rsaKey), rsaKey.Public(), rsaSpec, true},
		{"another curve is wanted", pkcs8(t, p256), p256.Public(), pki.KeySpec{Algorithm: v1alpha1.ECDSA, Size: 384}, false},
		{"another algorithm is wanted", pkcs8(t, p256), p256.Public(), ed25519Key, false},
		{"a longer key is wanted", pkcs1(rsaKey), rsaKey.Public(), pki.KeySpec{Algorithm: v1alpha1.RSA, Size: 3072}, false},
		{"not readable", []byte("garbage"), nil, p256Key, false},
		{"empty", []byte{}, nil, p256Key, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			authority := generateRoot(t, now)
			spec := leafSpec(func(s *pki.LeafSpec) { s.Key = tc.spec })
			pair, err := authority.Issue(now, spec, day, pki.ReadKey(tc.previous))
			leaf := parseLeaf(t, must(t, pair, err).Certificate)
			if kept := cmp.Equal(leaf.PublicKey, tc.public); kept != tc.kept {
				t.Errorf("kept = %v, want %v", kept, tc.kept)
			}
			if got := keyKind(leaf.PublicKey); got != tc.spec {
				t.Errorf("key = %v, want %v", got, tc.spec)
			}
			if err := pki.CheckPair(pair); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestKeyEncoding checks that private keys are encoded as by cert-manager, read in any encoding,
// and converted from one to another.
func TestKeyEncoding(t *testing.T) {
	older := map[v1alpha1.KeyAlgorithm]string{v1alpha1.RSA: "RSA PRIVATE KEY", v1alpha1.ECDSA: "EC PRIVATE KEY", v1alpha1.Ed25519: "PRIVATE KEY"}
	authority := generateRoot(t, now)
	for _, key := range keySpecs {
		for encoding, want := range map[v1alpha1.KeyEncoding]string{"": "PRIVATE KEY", v1alpha1.PKCS8: "PRIVATE KEY", v1alpha1.PKCS1: older[key.Algorithm]} {
			t.Run(key.String()+" "+string(encoding), func(t *testing.T) {
				t.Parallel()
				pair, leaf := issue(t, authority, now, day, leafSpec(func(s *pki.LeafSpec) { s.Key, s.Encoding = key, encoding }))
				other := map[string]v1alpha1.KeyEncoding{"PRIVATE KEY": v1alpha1.PKCS1}[want]
				if other == "" {
					other = v1alpha1.PKCS8
				}
				changed, err := pki.EncodeKey(pair.PrivateKey, other)
				back, err2 := pki.EncodeKey(must(t, changed, err), encoding)
				if encoding != "" && !bytes.Equal(must(t, back, err2), pair.PrivateKey) {
					t.Error("the key is another after it was written in another encoding and back")
				}
				// Inspect takes a pair that was just issued from its cache. The second pair
				// differs, and is parsed.
				for _, encoded := range [][]byte{pair.PrivateKey, append([]byte("\n"), pair.PrivateKey...)} {
					block, _ := pem.Decode(encoded)
					parts, keyErr := pki.Inspect(pki.Pair{Certificate: pair.Certificate, PrivateKey: encoded})
					if block.Type != want || keyErr != nil || !pki.ReadKey(encoded).MatchesCertificate(leaf) {
						t.Errorf("the key is %q in PEM: %v; want %q", block.Type, keyErr, want)
					}
					if (parts.Encoding == v1alpha1.PKCS1) != (want != "PRIVATE KEY") {
						t.Errorf("the encoding is %s of %q", parts.Encoding, want)
					}
				}
			})
		}
	}
}

func TestIssueMakesNewKeys(t *testing.T) {
	authority := generateRoot(t, now)
	one, first := issue(t, authority, now, day, leafSpec())
	_, second := issue(t, authority, now, day, leafSpec())
	if cmp.Equal(first.PublicKey, second.PublicKey) {
		t.Error("two certificates share a key, and neither was asked to keep one")
	}
	kept, err := authority.Issue(now, leafSpec(), day, pki.ReadKey(one.PrivateKey))
	if leaf := parseLeaf(t, must(t, kept, err).Certificate); !cmp.Equal(leaf.PublicKey, first.PublicKey) {
		t.Error("its own key was not kept")
	}
	if bytes.Equal(kept.Certificate, one.Certificate) {
		t.Error("the renewed certificate is the old one")
	}
}
