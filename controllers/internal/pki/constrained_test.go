package pki_test

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// compromised returns the CA of a spec with its key in the hands of an attacker, who signs any
// certificate with it.
func compromised(t *testing.T, edits ...func(*pki.RootSpec)) testCA {
	t.Helper()
	pair, err := pki.GenerateRoot(now, rootSpec(edits...))
	certificate := parseCertificates(t, must(t, pair, err).Certificate)[0]
	block, _ := pem.Decode(pair.PrivateKey)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	signer, _ := must(t, key, err).(crypto.Signer)
	return testCA{certificate, signer}
}

// TestConstrainedCAVerifiesServicesOnly checks that from a CA with permitted domains and usages, Go
// and OpenSSL accept only serving certificates for names in these domains, also when its successor
// has cross-signed it, and that both accept every certificate from a CA without constraints.
func TestConstrainedCAVerifiesServicesOnly(t *testing.T) {
	constrained := func(s *pki.RootSpec) {
		s.PermittedDNSDomains, s.PermittedUsages = []string{"svc"}, []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth}
	}
	free, bound := compromised(t), compromised(t, constrained)
	for name, tc := range map[string]struct {
		edit     func(*x509.Certificate)
		usage    x509.ExtKeyUsage
		accepted bool
	}{
		"a name of a Service": {func(*x509.Certificate) {}, x509.ExtKeyUsageServerAuth, true},
		"another name":        {func(c *x509.Certificate) { c.DNSNames = []string{"example.org"} }, x509.ExtKeyUsageServerAuth, false},
		"an IPv4 address":     {func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }, x509.ExtKeyUsageServerAuth, false},
		"an IPv6 address":     {func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("fd00::1")} }, x509.ExtKeyUsageServerAuth, false},
		"a URI": {func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/shop/sa/web"}}
		}, x509.ExtKeyUsageServerAuth, false},
		"a mail address": {func(c *x509.Certificate) { c.EmailAddresses = []string{"root@example.org"} }, x509.ExtKeyUsageServerAuth, false},
		"client auth":    {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, x509.ExtKeyUsageClientAuth, false},
	} {
		t.Run(name, func(t *testing.T) {
			template := &x509.Certificate{
				SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web.shop.svc"}, DNSNames: []string{"web.shop.svc"},
				NotBefore: now, NotAfter: now.Add(day), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
				KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: []byte("leaf"),
			}
			tc.edit(template)
			verifies(t, free, nil, makeCertificate(t, &free, template), tc.usage, true)
			verifies(t, bound, nil, makeCertificate(t, &bound, template), tc.usage, tc.accepted)
			// Clients with only the root of an unconstrained predecessor get the constrained CA
			// cross-signed by that predecessor.
			cross := crossSigned(t, free, bound)
			verifies(t, free, cross, makeCertificate(t, &bound, template), tc.usage, tc.accepted)
		})
	}
}

// verifies fails unless both Go and OpenSSL accept a leaf for a usage, or both reject it.
func verifies(t *testing.T, root testCA, between *x509.Certificate, leaf testCA, usage x509.ExtKeyUsage, accepted bool) {
	t.Helper()
	sent := leaf.pem()
	options := x509.VerifyOptions{Roots: poolOf(root.Certificate), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}
	if between != nil {
		sent, options.Intermediates = append(sent, pemOf(between)...), poolOf(between)
	}
	if _, err := leaf.Verify(options); (err == nil) != accepted {
		t.Errorf("Go accepts it: %v, want %v (%v)", err == nil, accepted, err)
	}
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Log("there is no openssl here")
		return
	}
	rootFile, sentFile := filepath.Join(t.TempDir(), "root.pem"), filepath.Join(t.TempDir(), "tls.crt")
	writeFile(t, rootFile, root.pem())
	writeFile(t, sentFile, sent)
	purpose := map[x509.ExtKeyUsage]string{x509.ExtKeyUsageServerAuth: "sslserver", x509.ExtKeyUsageClientAuth: "sslclient"}[usage]
	output, err := exec.CommandContext(t.Context(), openssl, "verify", "-purpose", purpose, "-attime", strconv.FormatInt(now.Unix()+1, 10),
		"-CAfile", rootFile, "-no-CApath", "-no-CAstore", "-untrusted", sentFile, sentFile).CombinedOutput()
	if (err == nil) != accepted {
		t.Errorf("OpenSSL accepts it: %v, want %v: %s", err == nil, accepted, output)
	}
	if message := string(output); !accepted && !strings.Contains(message, "subtree violation") && !strings.Contains(message, "purpose") {
		t.Errorf("OpenSSL refuses it for another reason: %s", message)
	}
}

// TestRootSpecMatches checks that a change of the key, the domains or the usages requires another
// CA, and that the fewer exclusions of an older version of the operator do not.
func TestRootSpecMatches(t *testing.T) {
	spec := rootSpec(func(s *pki.RootSpec) {
		s.PermittedDNSDomains, s.PermittedUsages = []string{"svc", "example.org"}, []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth}
	})
	pair, err := pki.GenerateRoot(now, spec)
	made := parseCertificates(t, must(t, pair, err).Certificate)[0]
	older := makeCA(t, nil, "older", func(c *x509.Certificate) {
		c.PermittedDNSDomains, c.ExtKeyUsage = []string{"example.org", "svc"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}).Certificate
	for name, tc := range map[string]struct {
		edit func(*pki.RootSpec)
		want bool
	}{
		"the same":      {func(*pki.RootSpec) {}, true},
		"another order": {func(s *pki.RootSpec) { s.PermittedDNSDomains = []string{"example.org", "svc"} }, true},
		"another name":  {func(s *pki.RootSpec) { s.CommonName, s.Duration = "other", day }, true},
		"another key":   {func(s *pki.RootSpec) { s.Key = ed25519Key }, false},
		"fewer domains": {func(s *pki.RootSpec) { s.PermittedDNSDomains = []string{"svc"} }, false},
		"no domains":    {func(s *pki.RootSpec) { s.PermittedDNSDomains = nil }, false},
		"any usage":     {func(s *pki.RootSpec) { s.PermittedUsages = nil }, false},
		"more usages":   {func(s *pki.RootSpec) { s.PermittedUsages = []v1alpha1.CertificateUsage{"server auth", "client auth"} }, false},
	} {
		wanted := spec
		tc.edit(&wanted)
		if got := wanted.Matches(made); got != tc.want {
			t.Errorf("%s: describes the CA: %v, want %v", name, got, tc.want)
		}
		if got := wanted.Matches(older); got != tc.want {
			t.Errorf("%s: describes a CA of an older version: %v, want %v", name, got, tc.want)
		}
	}
}
