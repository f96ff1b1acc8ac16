package pki_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// keyKind returns the algorithm and the size of a public key, without the package under test.
func keyKind(public any) pki.KeySpec {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return pki.KeySpec{Algorithm: v1alpha1.RSA, Size: key.N.BitLen()}
	case *ecdsa.PublicKey:
		return pki.KeySpec{Algorithm: v1alpha1.ECDSA, Size: key.Params().BitSize}
	case ed25519.PublicKey:
		return pki.KeySpec{Algorithm: v1alpha1.Ed25519}
	}
	return pki.KeySpec{}
}

func signatureOf(spec pki.KeySpec) x509.SignatureAlgorithm {
	switch {
	case spec.Algorithm == v1alpha1.RSA:
		return x509.SHA256WithRSA
	case spec.Size == 256:
		return x509.ECDSAWithSHA256
	case spec.Size == 384:
		return x509.ECDSAWithSHA384
	case spec.Size == 521:
		return x509.ECDSAWithSHA512
	}
	return x509.PureEd25519
}

// TestGenerateRoot generates a CA for each kind of key, and issues a certificate from it.
func TestGenerateRoot(t *testing.T) {
	for _, key := range keySpecs {
		t.Run(key.String(), func(t *testing.T) {
			t.Parallel()
			authority := generateRoot(t, now, func(s *pki.RootSpec) { s.Key = key })
			root := authority.Certificate()
			if got := keyKind(root.PublicKey); got != key {
				t.Errorf("key = %v, want %v", got, key)
			}
			if want := signatureOf(key); root.SignatureAlgorithm != want {
				t.Errorf("signature = %v, want %v", root.SignatureAlgorithm, want)
			}
			if !root.BasicConstraintsValid || !root.IsCA || root.MaxPathLen != pki.MaxCrossSigned {
				t.Errorf("basic constraints: valid %v, CA %v, path length %d (zero: %v)",
					root.BasicConstraintsValid, root.IsCA, root.MaxPathLen, root.MaxPathLenZero)
			}
			if want := x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature; root.KeyUsage != want {
				t.Errorf("key usage = %b, want %b", root.KeyUsage, want)
			}
			if len(root.SubjectKeyId) == 0 {
				t.Error("no subject key identifier")
			}
			if err := root.CheckSignatureFrom(root); err != nil {
				t.Errorf("its own signature: %v", err)
			}
			for _, oid := range [][]int{{2, 5, 29, 19}, {2, 5, 29, 15}} {
				if !extension(t, root, oid...).Critical {
					t.Errorf("extension %v is not critical", oid)
				}
			}
			pair, leaf := issue(t, authority, now, day, leafSpec())
			if want := signatureOf(key); leaf.SignatureAlgorithm != want {
				t.Errorf("signature below it = %v, want %v", leaf.SignatureAlgorithm, want)
			}
			if err := verify(t, pair.Certificate, root, now, "web.shop.svc.cluster.local"); err != nil {
				t.Errorf("verify: %v", err)
			}
		})
	}
}

func TestGenerateRootValidity(t *testing.T) {
	for _, at := range []time.Time{
		time.Date(1999, time.December, 31, 23, 59, 59, 1, time.UTC),
		time.Date(2049, time.December, 31, 23, 59, 59, 999999999, time.UTC),
		now,
		time.Date(2071, time.July, 1, 3, 0, 0, 0, time.FixedZone("west of here", -7*3600)),
	} {
		t.Run(at.Format(time.RFC3339Nano), func(t *testing.T) {
			root := generateRoot(t, at).Certificate()
			if want := at.Add(-pki.ClockSkew).Truncate(time.Second); !root.NotBefore.Equal(want) {
				t.Errorf("notBefore = %s, want %s", root.NotBefore, want)
			}
			if want := at.Add(790 * day).Truncate(time.Second); !root.NotAfter.Equal(want) {
				t.Errorf("notAfter = %s, want %s", root.NotAfter, want)
			}
			if want := fmt.Sprintf("test-signer@%d", at.Unix()); root.Subject.CommonName != want {
				t.Errorf("common name = %q, want %q", root.Subject.CommonName, want)
			}
		})
	}
}

// TestGenerationsDiffer checks that each generation has its own subject and an unpredictable serial
// number. OpenShift's CAs all have the same subject and predictable serial numbers.
func TestGenerationsDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := now.Add(time.Duration(rapid.Int64Range(0, int64(100*365*day)).Draw(t, "age")))
		later := at.Add(time.Duration(rapid.Int64Range(int64(time.Second), int64(790*day)).Draw(t, "later")))
		old, young := generateRoot(t, at).Certificate(), generateRoot(t, later).Certificate()
		if old.Subject.String() == young.Subject.String() {
			t.Errorf("both are %s", old.Subject)
		}
		if cmp.Equal(old.SubjectKeyId, young.SubjectKeyId) {
			t.Error("both have one key")
		}
	})
}

func TestSerials(t *testing.T) {
	const count = 200
	authority := generateRoot(t, now)
	visited, widest := map[string]bool{authority.Certificate().SerialNumber.String(): true}, 0
	for range count {
		_, leaf := issue(t, authority, now, day, leafSpec())
		serial := leaf.SerialNumber
		if serial.Sign() <= 0 || serial.BitLen() > 128 {
			t.Errorf("serial %s is not a positive number of at most 128 bits", serial)
		}
		visited[serial.String()], widest = true, max(widest, serial.BitLen())
	}
	if len(visited) != count+1 {
		t.Errorf("%d different serials of %d", len(visited), count+1)
	}
	if widest < 120 {
		t.Errorf("the widest serial has %d bits of 128", widest)
	}
}

func TestGenerateRootNameConstraints(t *testing.T) {
	for _, tc := range []struct {
		name    string
		domains []string
	}{
		{"none", nil},
		{"one", []string{"svc"}},
		{"several", []string{"svc", "svc.cluster.local", "example.org"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := generateRoot(t, now, func(s *pki.RootSpec) { s.PermittedDNSDomains = tc.domains }).Certificate()
			if diff := cmp.Diff(tc.domains, root.PermittedDNSDomains); diff != "" {
				t.Errorf("permitted (-want +got):\n%s", diff)
			}
			if want := len(tc.domains) > 0; root.PermittedDNSDomainsCritical != want {
				t.Errorf("critical = %v, want %v", root.PermittedDNSDomainsCritical, want)
			}
		})
	}
}

func TestGenerateRootRefuses(t *testing.T) {
	for _, key := range []pki.KeySpec{
		{}, {Algorithm: v1alpha1.RSA}, {Algorithm: v1alpha1.RSA, Size: 1024}, {Algorithm: v1alpha1.ECDSA, Size: 2048},
		{Algorithm: v1alpha1.Ed25519, Size: 256}, {Algorithm: "DSA", Size: 2048},
	} {
		t.Run(fmt.Sprintf("%q", key.String()), func(t *testing.T) {
			pair, err := pki.GenerateRoot(now, rootSpec(func(s *pki.RootSpec) { s.Key = key }))
			if err == nil || pair.Certificate != nil || pair.PrivateKey != nil {
				t.Errorf("GenerateRoot = %d bytes, %v; want an error", len(pair.Certificate), err)
			}
		})
	}
}

func TestKeySpecOf(t *testing.T) {
	for _, tc := range []struct {
		key  v1alpha1.PrivateKey
		want pki.KeySpec
		text string
	}{
		{v1alpha1.PrivateKey{}, p256Key, "ECDSA 256"},
		{v1alpha1.PrivateKey{Algorithm: v1alpha1.ECDSA}, p256Key, "ECDSA 256"},
		{v1alpha1.PrivateKey{Size: 384}, pki.KeySpec{Algorithm: v1alpha1.ECDSA, Size: 384}, "ECDSA 384"},
		{v1alpha1.PrivateKey{Algorithm: v1alpha1.RSA}, pki.KeySpec{Algorithm: v1alpha1.RSA, Size: 2048}, "RSA 2048"},
		{v1alpha1.PrivateKey{Algorithm: v1alpha1.RSA, Size: 4096}, pki.KeySpec{Algorithm: v1alpha1.RSA, Size: 4096}, "RSA 4096"},
		{v1alpha1.PrivateKey{Algorithm: v1alpha1.Ed25519}, ed25519Key, "Ed25519"},
	} {
		if got := pki.KeySpecOf(tc.key); got != tc.want || got.String() != tc.text {
			t.Errorf("KeySpecOf(%+v) = %+v %q, want %+v %q", tc.key, got, got, tc.want, tc.text)
		}
	}
}

func TestRootSpecOf(t *testing.T) {
	got := pki.RootSpecOf(v1alpha1.CACertificate{
		CommonName: "signer", Duration: "18960h",
		PrivateKey:          v1alpha1.PrivateKey{Algorithm: v1alpha1.RSA},
		PermittedDNSDomains: []string{"svc"},
		PermittedUsages:     []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth},
	})
	want := pki.RootSpec{
		CommonName: "signer", Duration: 790 * day,
		Key: pki.KeySpec{Algorithm: v1alpha1.RSA, Size: 2048}, PermittedDNSDomains: []string{"svc"},
		PermittedUsages: []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth}, Encoding: v1alpha1.PKCS8,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
