package serviceca

import (
	"testing"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// A backup that is restored after a root was retired sends no bridge to that: GnuTLS would refuse what is sent with more than one certificate.
func TestRestoredBridgeToARetiredRoot(t *testing.T) {
	t.Parallel()
	corp, other := mint(t, "corp root", nil), mint(t, "other root", nil)
	s := newScene(t, "")
	s.longest, s.serviceCA.Spec.Rotation.PreviousTrust = 30*time.Minute, v1alpha1.TrustUntilUnused
	bringing(corp, mint(t, "corp CA", corp))(s)
	s.sound()
	s.later(time.Hour)
	bringing(other, mint(t, "other CA", other))(s)
	if bridge := s.rotated().Active.Bridge(); len(bridge) < 2 {
		t.Fatalf("the bridge has %d certificates, want more than one", len(bridge))
	}
	backup := s.secret
	for range 2 {
		s.later(40 * time.Minute)
		s.sound()
	}
	held, err := pki.ParseBundle(s.published)
	if err != nil || len(held) != 1 {
		t.Fatalf("clients have %d roots, want one: %v", len(held), err)
	}
	s.secret = backup
	sent := s.issues(s.sound())
	if err := likeGnuTLS(sent, held, s.now); err != nil {
		t.Error(err)
	}
}

// issues returns what a server sends that gets a certificate of the active CA.
func (s *scene) issues(state *rotation.State) pki.Bundle {
	s.Helper()
	pair, err := state.Active.Issue(s.now, pki.LeafSpec{DNSNames: []string{serverName}, Usages: []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth},
		Key: pki.KeySpec{Algorithm: v1alpha1.Ed25519}}, time.Hour, nil)
	if err != nil {
		s.Fatal(err)
	}
	sent, err := pki.ParseBundle(pair.Certificate)
	if err != nil {
		s.Fatal(err)
	}
	return sent
}
