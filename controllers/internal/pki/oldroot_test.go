package pki_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"

	"github.com/servingcert/operator/controllers/internal/pki"
)

// TestOldRoot checks that roots that signed themselves with SHA-1, as those of companies from
// before 2016, are accepted. The self-signature of a root proves nothing, and every client still
// trusts such roots.
func TestOldRoot(t *testing.T) {
	root := withSHA1(t, selfSignedBy(t, newRSA(t)))
	upper := makeCA(t, &root, "upper")
	for _, tc := range []struct {
		name  string
		pair  pki.Pair
		chain int
	}{
		{"signs itself", root.pair(t), 0},
		{"stands above the CA", upper.pair(t), 1},
		{"stands after the CA", upper.pair(t, root), 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			authority := load(t, tc.pair)
			found, err := authority.Root(now, tc.pair.Certificate, root.pem())
			if err != nil || !found.Equal(root.Certificate) {
				t.Fatalf("Root = %v, %v; want the old root", nameOf(found), err)
			}
			pair, _ := issue(t, authority, now, day, leafSpec())
			if sent := len(parseCertificates(t, pair.Certificate)); sent != 1+tc.chain {
				t.Errorf("%d certificates are sent, want %d", sent, 1+tc.chain)
			}
			if err := verify(t, pair.Certificate, root.Certificate, now, "web.shop.svc"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestOldIntermediate checks that a CA signed by another CA with SHA-1 is not taken for a root.
func TestOldIntermediate(t *testing.T) {
	root := selfSignedBy(t, newRSA(t))
	unidentified := *root.Certificate
	unidentified.SubjectKeyId = nil
	for _, tc := range []struct {
		name    string
		issuer  testCA
		subject string
	}{
		{"of another name", testCA{&unidentified, root.key}, "upper"},
		{"of another name, which names the issuer's key", root, "upper"},
		{"of the root's name, with a key of its own", root, "root"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			upper := certify(t, &tc.issuer, caTemplate(tc.subject, func(c *x509.Certificate) {
				c.AuthorityKeyId = tc.issuer.SubjectKeyId
			}), newECDSA(t, elliptic.P256()))
			old := withSHA1(t, testCA{upper.Certificate, root.key})
			if chain := load(t, pki.Pair{Certificate: old.pem(), PrivateKey: pkcs8(t, upper.key)}).Chain(); len(chain) != 1 {
				t.Errorf("the chain has %d certificates, want the intermediate", len(chain))
			}
		})
	}
}

// withSHA1 signs a certificate again by signed.key with SHA-1, which crypto/x509 refuses to do.
func withSHA1(t *testing.T, signed testCA) testCA {
	t.Helper()
	prefix := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1}
	tbs := bytes.Replace(signed.RawTBSCertificate, append(prefix, 11), append(prefix, 5), 1)
	digest := sha1.Sum(tbs)
	signature, err := rsa.SignPKCS1v15(rand.Reader, signed.key.(*rsa.PrivateKey), crypto.SHA1, digest[:])
	der, err := asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		asn1.RawValue{FullBytes: tbs},
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}, Parameters: asn1.NullRawValue},
		asn1.BitString{Bytes: must(t, signature, err), BitLength: 8 * len(signature)},
	})
	certificate, err := x509.ParseCertificate(must(t, der, err))
	must(t, certificate, err)
	if certificate.SignatureAlgorithm != x509.SHA1WithRSA {
		t.Fatalf("signed with %v", certificate.SignatureAlgorithm)
	}
	return testCA{certificate, signed.key}
}
