package csr_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/servingcert/operator/controllers/internal/csr"
)

func encode(tb testing.TB, template x509.CertificateRequest, key any) []byte {
	tb.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func extension(oid asn1.ObjectIdentifier, value ...byte) x509.CertificateRequest {
	return x509.CertificateRequest{Subject: pkix.Name{CommonName: "a.b.svc"}, ExtraExtensions: []pkix.Extension{{Id: oid, Value: value}}}
}

// TestParse checks that a Request has the DNS names, the common name first and each once, and the
// usages of a serving certificate.
func TestParse(t *testing.T) {
	t.Parallel()
	template := x509.CertificateRequest{Subject: pkix.Name{CommonName: "b.c.svc"}, DNSNames: []string{"a.c.svc", "b.c.svc", "a.c.svc"}}
	read, err := csr.Parse(encode(t, template, newKey(t)))
	if err != nil || !slices.Equal(read.DNSNames, []string{"b.c.svc", "a.c.svc"}) || read.Key.String() != "ECDSA 256" || read.Usages != nil {
		t.Errorf("%+v, %v", read, err)
	}
}

// TestParseRejects checks that the error names the part of a request that no serving certificate
// has.
func TestParseRejects(t *testing.T) {
	t.Parallel()
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := x509.CertificateRequest{DNSNames: []string{"a.b.svc"}}
	tampered := encode(t, good, newKey(t))
	block, _ := pem.Decode(tampered)
	block.Bytes[len(block.Bytes)-1] ^= 1
	for message, encoded := range map[string][]byte{
		"one PEM block":                        []byte("?"),
		"longer than":                          make([]byte, 65<<10),
		"must be one PEM block":                append(encode(t, good, newKey(t)), encode(t, good, newKey(t))...),
		"does not verify":                      pem.EncodeToMemory(block),
		"this one has 1024":                    encode(t, good, weak),
		"is on P-256, P-384 or P-521":          encode(t, good, small),
		"names nothing":                        encode(t, x509.CertificateRequest{}, newKey(t)),
		"attribute 2.5.4.10":                   encode(t, x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"o"}}}, newKey(t)),
		"the key usage of":                     encode(t, extension(asn1.ObjectIdentifier{2, 5, 29, 15}, 0x03, 0x02, 0x02, 0x04), newKey(t)),
		"is for a CA":                          encode(t, extension(asn1.ObjectIdentifier{2, 5, 29, 19}, 0x30, 0x03, 0x01, 0x01, 0xff), newKey(t)),
		"extension 1.2.3":                      encode(t, extension(asn1.ObjectIdentifier{1, 2, 3}, 0x05, 0x00), newKey(t)),
		"extended key usage 2.5.29.37.0":       encode(t, extension(asn1.ObjectIdentifier{2, 5, 29, 37}, 0x30, 0x06, 0x06, 0x04, 0x55, 0x1d, 0x25, 0x00), newKey(t)),
		"a subject alternative name of kind 8": encode(t, extension(asn1.ObjectIdentifier{2, 5, 29, 17}, 0x30, 0x04, 0x88, 0x02, 0x2a, 0x03), newKey(t)),
	} {
		if _, err := csr.Parse(encoded); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%q: %v", message, err)
		}
	}
}

// FuzzParse checks that Parse never panics, and returns only requests with names, a supported key
// and supported usages.
func FuzzParse(f *testing.F) {
	f.Add(encode(f, x509.CertificateRequest{DNSNames: []string{"a.b.svc", "*.a.b.svc"}}, newKey(f)))
	f.Add(encode(f, extension(asn1.ObjectIdentifier{2, 5, 29, 19}, 0x30, 0x03, 0x01, 0x01, 0xff), newKey(f)))
	f.Add(encode(f, extension(asn1.ObjectIdentifier{2, 5, 29, 37}, 0x30, 0x00), newKey(f)))
	f.Fuzz(func(t *testing.T, encoded []byte) {
		read, err := csr.Parse(encoded)
		if err != nil {
			return
		}
		if len(read.DNSNames) == 0 || len(read.DNSNames) > 101 || read.Key.Algorithm == "" || read.PublicKey == nil {
			t.Errorf("%+v", read)
		}
		for _, usage := range read.Usages {
			if err := read.AddUsage(string(usage)); err != nil {
				t.Error(err)
			}
		}
	})
}
