package serviceca

import (
	"testing"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// TestRestoredCrossSignedToARetiredRoot checks that a backup that is restored after a root was retired
// sends no cross-signed certificates for that root: GnuTLS rejects more than one such certificate.
func TestRestoredCrossSignedToARetiredRoot(t *testing.T) {
	t.Parallel()
	corp, other := generateCA(t, "corp root", nil), generateCA(t, "other root", nil)
	s := newFixture(t, "")
	s.longestDuration, s.serviceCA.Spec.Rotation.PreviousTrust = 30*time.Minute, v1alpha1.TrustUntilUnused
	withSourceSecrets(corp, generateCA(t, "corp CA", corp))(s)
	s.settle()
	s.later(time.Hour)
	withSourceSecrets(other, generateCA(t, "other CA", other))(s)
	if crossSigned := s.rotated().Active.CrossSigned(); len(crossSigned) < 2 {
		t.Fatalf("the bridge has %d certificates, want more than one", len(crossSigned))
	}
	backup := s.secret
	for range 2 {
		s.later(40 * time.Minute)
		s.settle()
	}
	held, err := pki.ParseBundle(s.published)
	if err != nil || len(held) != 1 {
		t.Fatalf("clients have %d roots, want one: %v", len(held), err)
	}
	s.secret = backup
	sent := s.issues(s.settle())
	if err := likeGnuTLS(sent, held, s.now); err != nil {
		t.Error(err)
	}
}

// TestRetiredBeforeACrash checks that no Event is recorded again about a root that was retired
// before the manager stopped, and that is decided about once more.
func TestRetiredBeforeACrash(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	s.longestDuration, s.serviceCA.Spec.Rotation.PreviousTrust = 30*time.Minute, v1alpha1.TrustUntilUnused
	s.settle()
	s.serviceCA.Spec.Rotation.Trigger = "now"
	s.rotated()
	s.later(40 * time.Minute)
	for range 5 {
		published, status := s.published, s.serviceCA.Status
		if plan := s.takesPlace(); len(plan.events) == 0 || plan.events[0].reason != "RootRetired" {
			continue
		}
		s.published, s.serviceCA.Status = published, status
		if plan := s.plan(); plan.secret != nil || len(plan.events) > 0 {
			t.Errorf("it writes %v, and records %v", plan.secret, plan.events)
		}
		return
	}
	t.Fatal("no root is retired")
}

// issues returns the certificate and chain of a server with a new certificate of the active CA.
func (f *fixture) issues(state *rotation.State) pki.Bundle {
	f.Helper()
	pair, err := state.Active.Issue(f.now, pki.LeafSpec{DNSNames: []string{serverName}, Usages: []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth},
		Key: pki.KeySpec{Algorithm: v1alpha1.Ed25519}}, time.Hour, nil)
	if err != nil {
		f.Fatal(err)
	}
	sent, err := pki.ParseBundle(pair.Certificate)
	if err != nil {
		f.Fatal(err)
	}
	return sent
}
