package metrics

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
)

// The certificate of the metrics is created after the server starts, and changes later: each
// handshake uses the current one, or the last valid one.
func TestCertificateIsReadWhenItIsThere(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	served := &certificate{folder: folder}
	serial := func() int64 {
		got, err := served.get(nil)
		if err != nil {
			return 0
		}
		return got.Leaf.SerialNumber.Int64()
	}
	first, second := pair(t, 1), pair(t, 2)
	for _, step := range []struct {
		name string
		put  map[string][]byte
		want int64
	}{
		{"nothing is there", nil, 0},
		{"half of it is there", map[string][]byte{"tls.crt": first[0]}, 0},
		{"it is there", map[string][]byte{"tls.key": first[1]}, 1},
		{"half of the next", map[string][]byte{"tls.crt": second[0]}, 1},
		{"the next", map[string][]byte{"tls.key": second[1]}, 2},
		{"it is spoilt", map[string][]byte{"tls.key": nil}, 2},
	} {
		for name, content := range step.put {
			if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := serial(); got != step.want {
			t.Errorf("%s: certificate %d is served, want %d", step.name, got, step.want)
		}
	}
}

// pair returns a certificate and its private key, in PEM.
func pair(t *testing.T, serial int64) [2][]byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return [2][]byte{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}),
	}
}

// Without a certificate the metrics are served by plain HTTP; with one, only to authorized clients.
func TestServer(t *testing.T) {
	t.Parallel()
	if plain := Server(":8080", ""); plain.SecureServing || plain.FilterProvider != nil || plain.BindAddress != ":8080" {
		t.Errorf("without a certificate: %+v", plain)
	}
	if secure := Server(":8443", "/certificate"); !secure.SecureServing || secure.FilterProvider == nil {
		t.Errorf("with a certificate: %+v", secure)
	}
}
