package pki_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/servingcert/operator/controllers/internal/pki"
)

func rsaOf(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	return must(t, key, err)
}

// TestCheckStrength checks that CheckStrength rejects every CA that OpenSSL rejects at security
// level 2, the default of Debian, Ubuntu and Red Hat.
func TestCheckStrength(t *testing.T) {
	strong := selfSignedBy(t, newRSA(t))
	weakRoot := selfSignedBy(t, rsaOf(t, 1024))
	below := func(parent testCA, key crypto.Signer) testCA {
		return certify(t, &parent, caTemplate("upper"), key)
	}
	upper := below(strong, newRSA(t))
	sha1 := testCA{withSHA1(t, testCA{upper.Certificate, strong.key}).Certificate, upper.key}
	for _, tc := range []struct {
		name     string
		message  string
		verifies bool
		chain    []testCA
	}{
		{"RSA 2048", "", true, []testCA{strong}},
		{"RSA 1024", "clients accept RSA keys of 2048 to 8192 bits, and this one has 1024", false, []testCA{weakRoot}},
		{"P-256", "", true, []testCA{selfSignedBy(t, newECDSA(t, elliptic.P256()))}},
		{"P-521", "", true, []testCA{selfSignedBy(t, newECDSA(t, elliptic.P521()))}},
		// OpenSSL accepts P-224, but TLS 1.3 and web browsers do not support the curve.
		{"P-224", "P-256, P-384 or P-521, and this one is on a curve of 224 bits", true, []testCA{selfSignedBy(t, newECDSA(t, elliptic.P224()))}},
		{"a root that signed itself with SHA-1", "", true, []testCA{withSHA1(t, selfSignedBy(t, newRSA(t)))}},
		{"an intermediate", "", true, []testCA{below(strong, newRSA(t)), strong}},
		{"an intermediate signed with SHA-1", `CA "upper" is signed with SHA1-RSA`, false, []testCA{sha1, strong}},
		{"a weak root", `the key of CA "root" is too weak`, false, []testCA{below(weakRoot, newRSA(t)), weakRoot}},
		{"a weak intermediate", `the key of CA "upper" is too weak`, false, []testCA{below(strong, rsaOf(t, 1024)), strong}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var cas []*x509.Certificate
			for _, ca := range tc.chain {
				cas = append(cas, ca.Certificate)
			}
			err := pki.CheckStrength(cas...)
			if (err != nil) != (tc.message != "") || (err != nil && !strings.Contains(err.Error(), tc.message)) {
				t.Errorf("CheckStrength = %v, want %q", err, tc.message)
			}
			opensslVerifies(t, tc.chain, tc.verifies)
		})
	}
	if err := pki.CheckKey("no key"); err == nil || !strings.Contains(err.Error(), "unknown kind") {
		t.Errorf("CheckKey of what is no key = %v", err)
	}
}

// opensslVerifies fails unless OpenSSL at security level 2 verifies what the first of these CAs
// signs, or, if want is false, rejects it.
func opensslVerifies(t *testing.T, chain []testCA, want bool) {
	t.Helper()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Log("there is no openssl here")
		return
	}
	key := newECDSA(t, elliptic.P256())
	leaf := certify(t, &chain[0], &x509.Certificate{
		SerialNumber: chain[0].SerialNumber, DNSNames: []string{"web.shop.svc"}, NotBefore: now.Add(-day), NotAfter: now.Add(day),
	}, key)
	root, sent := filepath.Join(t.TempDir(), "root.pem"), filepath.Join(t.TempDir(), "tls.crt")
	encoded := leaf.pem()
	for _, ca := range chain[:len(chain)-1] {
		encoded = append(encoded, ca.pem()...)
	}
	writeFile(t, root, chain[len(chain)-1].pem())
	writeFile(t, sent, encoded)
	output, err := exec.CommandContext(t.Context(), openssl, "verify", "-auth_level", "2", "-attime", strconv.FormatInt(now.Unix(), 10),
		"-CAfile", root, "-no-CApath", "-no-CAstore", "-untrusted", sent, sent).CombinedOutput()
	if (err == nil) != want || (err != nil && !strings.Contains(string(output), "too weak")) {
		t.Errorf("OpenSSL verifies: %v, want %v: %s", err == nil, want, output)
	}
}

// TestEncryptedKey checks that the error for a private key with a passphrase says that it is
// encrypted, and not that it is unreadable.
func TestEncryptedKey(t *testing.T) {
	const (
		pkcs8Key = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"
		oldKey   = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIIB\n-----END RSA PRIVATE KEY-----\n"
		params   = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
	)
	ca := makeCA(t, nil, "root")
	for name, key := range map[string]string{"PKCS #8": pkcs8Key, "as before": oldKey, "after parameters": params + oldKey} {
		_, err := pki.LoadAuthority(pki.Pair{Certificate: ca.pem(), PrivateKey: []byte(key)})
		if err == nil || !strings.Contains(err.Error(), "tls.key holds a private key that is encrypted") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
