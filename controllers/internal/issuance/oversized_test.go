package issuance_test

import (
	"bytes"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/servingcert/operator/controllers/internal/issuance"
)

// TestOversizedSecretIsNotParsed checks that oversized keys are not parsed: a tenant's key may be
// as large as a Secret, and reading an RSA key of that size takes minutes.
func TestOversizedSecretIsNotParsed(t *testing.T) {
	t.Parallel()
	block := func(kind string, size int) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes.Repeat([]byte{0x30}, size)})
	}
	for name, tc := range map[string]struct {
		corrupt func(s *fixture)
		reason  string
	}{
		"a key in PKCS #1": {func(s *fixture) { s.secret.Data["tls.key"] = block("RSA PRIVATE KEY", 700<<10) }, "tls.key is longer than 8192 bytes"},
		"a key in PKCS #8": {func(s *fixture) { s.secret.Data["tls.key"] = block("PRIVATE KEY", 8<<10) }, "tls.key is longer than 8192 bytes"},
		"a sound key, and much after it": {func(s *fixture) {
			s.secret.Data["tls.key"] = append(s.secret.Data["tls.key"], block("PRIVATE KEY", 8<<10)...)
		}, "tls.key is longer than 8192 bytes"},
		"a certificate": {func(s *fixture) { s.secret.Data["tls.crt"] = block("CERTIFICATE", 256<<10) }, "tls.crt is longer than 262144 bytes"},
		"a sound certificate, and many after it": {func(s *fixture) {
			s.secret.Data["tls.crt"] = bytes.Repeat(s.secret.Data["tls.crt"], 1000)
		}, "tls.crt is longer than 262144 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newIssuedFixture(t)
			tc.corrupt(s)
			digest := s.digest()
			if got := digest.StringData["tls.key"]; got != tc.reason {
				t.Errorf("the digest says %q, want %q", got, tc.reason)
			}
			if _, err := issuance.Leaf(digest); strings.HasPrefix(tc.reason, "tls.crt") && (err == nil || err.Error() != tc.reason) {
				t.Errorf("its certificate is read: %v, want %s", err, tc.reason)
			}
			if size := digest.Size(); size > 2<<10 {
				t.Errorf("the digest takes %d bytes", size)
			}
			if notAfter := issuance.NotAfter(digest); !notAfter.IsZero() {
				t.Errorf("it is said to end %s", notAfter)
			}
			s.execute(s.expect(issuance.Issue))
			s.expect(issuance.Keep)
		})
	}
}
