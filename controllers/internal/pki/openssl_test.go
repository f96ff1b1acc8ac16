package pki_test

import (
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// TestOpenSSLAgrees checks that OpenSSL accepts and rejects the same certificates as Go.
func TestOpenSSLAgrees(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Log("there is no openssl here")
		return
	}
	root := makeCA(t, nil, "root")
	upper := makeCA(t, &root, "upper")
	excluding := makeCA(t, nil, "excluding", func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"db.shop.svc"} })
	rsa := func(s *pki.RootSpec) { s.Key = pki.KeySpec{Algorithm: v1alpha1.RSA, Size: 2048} }
	ed25519 := func(s *pki.RootSpec) { s.Key = ed25519Key }
	constrained := func(s *pki.RootSpec) { s.PermittedDNSDomains = []string{"svc"} }
	long := strings.Repeat("a", 63) + ".shop.svc"
	for _, tc := range []struct {
		name      string
		authority *pki.Authority
		root      *x509.Certificate
		dnsNames  []string
		accepted  bool
	}{
		{"RSA", generateRoot(t, now, rsa), nil, []string{"web.shop.svc"}, true},
		{"ECDSA", generateRoot(t, now), nil, []string{"web.shop.svc"}, true},
		{"Ed25519", generateRoot(t, now, ed25519), nil, []string{"web.shop.svc"}, true},
		{"an intermediate", load(t, upper.pair(t, root)), root.Certificate, []string{"web.shop.svc"}, true},
		{"a name that fits no subject", generateRoot(t, now), nil, []string{long}, true},
		{"a permitted wildcard", generateRoot(t, now, constrained), nil, []string{"web.shop.svc", "*.web.shop.svc"}, true},
		{"not permitted", generateRoot(t, now, constrained), nil, []string{"web.shop.svc.cluster.local"}, false},
		{"excluded", load(t, excluding.pair(t)), nil, []string{"a.db.shop.svc"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.root == nil {
				tc.root = tc.authority.Certificate()
			}
			pair, _ := issue(t, tc.authority, now, day, leafSpec(func(s *pki.LeafSpec) { s.DNSNames = tc.dnsNames }))
			rootFile, sentFile := filepath.Join(t.TempDir(), "root.pem"), filepath.Join(t.TempDir(), "tls.crt")
			writeFile(t, rootFile, pemOf(tc.root))
			writeFile(t, sentFile, pair.Certificate)
			output, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-purpose", "sslserver",
				"-attime", strconv.FormatInt(now.Unix(), 10), "-CAfile", rootFile, "-no-CApath", "-no-CAstore",
				"-verify_hostname", tc.dnsNames[0], "-untrusted", sentFile, sentFile).CombinedOutput()
			if (err == nil) != tc.accepted {
				t.Errorf("accepted = %v, want %v: %s", err == nil, tc.accepted, output)
			}
			if !tc.accepted && !strings.Contains(string(output), "subtree violation") {
				t.Errorf("openssl refuses for another reason: %s", output)
			}
			for _, name := range tc.dnsNames {
				if err := pki.CheckNameConstraints(tc.authority.Certificate(), name); (err == nil) != tc.accepted {
					t.Errorf("Permits: %v, and openssl says %s", err, output)
				}
			}
		})
	}
}

func writeFile(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
