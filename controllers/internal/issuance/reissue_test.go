package issuance_test

import (
	"bytes"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// TestScheduledTime checks single certificates: each keeps its scheduled time unless the operator
// was not running then.
func TestScheduledTime(t *testing.T) {
	const over = 10 * time.Hour
	for _, tc := range []struct {
		name          string
		started, over time.Duration
		share         float64
		want          time.Duration
	}{
		{"the first", -day, over, 0, 0},
		{"one in the middle", -day, over, 0.5, 5 * time.Hour},
		{"one near the end", -day, over, 0.999, over * 999 / 1000},
		{"a restart before its turn", 4 * time.Hour, over, 0.5, 5 * time.Hour},
		{"a restart at its turn", 5 * time.Hour, over, 0.5, 5 * time.Hour},
		{"a restart after its turn", 6 * time.Hour, over, 0.5, 11 * time.Hour},
		{"a restart long after", 100 * day, over, 0.5, 100*day + 5*time.Hour},
		{"a restart long after, the first", 100 * day, over, 0, 100 * day},
		{"no time is given", -day, 0, 0.5, 0},
		{"no time is given, and it was missed", day, 0, 0.5, day},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reissue := issuance.Reissue{SwitchedAt: now, Spread: tc.over, StartedAt: now.Add(tc.started)}
			if got, want := reissue.ScheduledTime(tc.share), now.Add(tc.want); !got.Equal(want) {
				t.Errorf("turn = %s, want %s", got, want)
			}
		})
	}
}

// TestScheduledTimesSpread checks that the rate of reissues stays even, whenever the operator is
// restarted.
func TestScheduledTimesSpread(t *testing.T) {
	const (
		count = 10_000
		over  = 1000 * time.Second
		rate  = 10
	)
	for _, tc := range []struct {
		name    string
		started time.Duration
		most    int
	}{
		{"never started again", -day, rate},
		{"early", over / 10, 2 * rate},
		{"half way", over / 2, 2 * rate},
		{"late", over * 9 / 10, 2 * rate},
		{"at the end", over, rate},
		{"long after", day, rate},
	} {
		t.Run(tc.name, func(t *testing.T) {
			started := now.Add(tc.started)
			reissue := issuance.Reissue{SwitchedAt: now, Spread: over, StartedAt: started}
			start := now
			if started.After(start) {
				start = started
			}
			perSecond := map[int]int{}
			for i := range count {
				share := float64(i) / count
				at := reissue.ScheduledTime(share)
				if original := now.Add(time.Duration(share * float64(over))); !original.Before(start) && !at.Equal(original) {
					t.Fatalf("the turn of share %v is %s, and was %s", share, at, original)
				}
				if at.Before(start) || !at.Before(start.Add(over)) {
					t.Fatalf("the turn of share %v is %s, want it within %s of %s", share, at, over, start)
				}
				perSecond[int(at.Sub(start)/time.Second)]++
			}
			for second, got := range perSecond {
				// One more is allowed for a scheduled time that lies between two seconds.
				if got > tc.most+1 {
					t.Errorf("%d certificates in second %d, want at most %d", got, second, tc.most)
				}
			}
		})
	}
}

// reissueOver is the time over which the predecessor's certificates are replaced.
const reissueOver = 10 * time.Hour

// takesOver switches the signer to another CA a day later. Clients trust both CAs.
func takesOver(s *fixture) {
	s.t.Helper()
	old := s.ca
	s.now = s.now.Add(day)
	s.ca = newSigner(s.t, s.now)
	crossSigned, err := old.CrossSign(s.ca.Authority, s.ca.CA.Certificate, old.CA.Certificate)
	s.ca.CA.CrossSigned = must(s.t, crossSigned, err)
	s.ca.Authority = s.ca.WithCrossSigned(crossSigned)
	s.trusts(s.ca.CA.Certificate, old.CA.Certificate)
	s.ca.Reissue = issuance.Reissue{SwitchedAt: s.now, Spread: reissueOver, StartedAt: now}
}

func (f *fixture) trusts(roots ...*x509.Certificate) {
	bundle := pki.NewBundle(roots...)
	f.ca.Bundle, f.ca.Roots = bundle.Encode(), bundle.Pool()
}

// takenOver returns a fixture with a certificate of the active CA's predecessor, and the
// predecessor's name.
func takenOver(t *testing.T, edits ...func(*fixture)) (*fixture, string) {
	t.Helper()
	s := newIssuedFixture(t, edits...)
	before := s.ca.CA.Certificate.Subject.CommonName
	takesOver(s)
	return s, before
}

// withoutSigner is the state after a key was lost and before its successor signs.
func withoutSigner(s *fixture) {
	s.ca.CA.Certificate, s.ca.CA.Chain, s.ca.CA.CrossSigned = nil, nil, nil
}

// TestReissueAtScheduledTime checks that the predecessor's certificate serves until its scheduled
// time, and that its replacement is then accepted by both old and new clients.
func TestReissueAtScheduledTime(t *testing.T) {
	s, before := takenOver(t)
	leaf, after := s.leaf(), s.ca.CA.Certificate.Subject.CommonName
	plan := s.expect(issuance.Keep)
	from := s.ca.Reissue.SwitchedAt
	if plan.RenewAt.Before(from) || !plan.RenewAt.Before(from.Add(reissueOver)) {
		t.Fatalf("its turn is %s, want it within %s of %s", plan.RenewAt, reissueOver, from)
	}
	s.now = plan.RenewAt.Add(-1)
	if again := s.expect(issuance.Keep); again.SignedBy != before || !again.NotAfter.Equal(leaf.NotAfter) || !again.RenewAt.Equal(plan.RenewAt) {
		t.Errorf("just before: signed by %s until %s, its turn %s; want %s, %s, %s",
			again.SignedBy, again.NotAfter, again.RenewAt, before, leaf.NotAfter, plan.RenewAt)
	}
	s.now = plan.RenewAt
	due := s.expect(issuance.Issue)
	if want := `it was signed by "` + before + `", and the CA is "` + after + `"`; due.IssueReason != want || due.Renewal || due.SignedBy != before || !due.NotAfter.Equal(leaf.NotAfter) {
		t.Errorf("why %q, renewal %v, signed by %s until %s; want %q", due.IssueReason, due.Renewal, due.SignedBy, due.NotAfter, want)
	}
	s.execute(due)
	if kept := s.expect(issuance.Keep); kept.SignedBy != after {
		t.Errorf("signed by %s, want %s", kept.SignedBy, after)
	}
	roots, err := pki.ParseBundle(s.ca.Bundle)
	for _, root := range must(t, roots, err) {
		if err := s.leaf().VerifyWithRoots(pki.Bundle{root}.Pool(), s.now); err != nil {
			t.Errorf("by %s alone: %v", root.Subject.CommonName, err)
		}
	}
	// Later the old root is dropped. The cross-signed certificate in tls.crt does not matter then.
	s.ca.CA.CrossSigned = nil
	s.trusts(s.ca.CA.Certificate)
	s.expect(issuance.Keep)
}

// TestReissueWaits checks for what the predecessor's certificate waits beyond its scheduled time.
func TestReissueWaits(t *testing.T) {
	const farOff = 1000 * day
	for _, tc := range []struct {
		name string
		edit func(*fixture)
		// renews is whether the certificate is replaced when its age requires it.
		renews bool
	}{
		{"the rotation is paused", func(s *fixture) { s.ca.Reissue.Paused = true }, true},
		{"its turn is far off", func(s *fixture) { s.ca.Reissue.SwitchedAt = s.now.Add(farOff) }, true},
		{"nobody signs", withoutSigner, false},
		{"nobody signs, and the rotation is paused", func(s *fixture) { withoutSigner(s); s.ca.Reissue.Paused = true }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, before := takenOver(t)
			leaf := s.leaf()
			earliest, latest := band(leaf, 90*day, 30*day)
			tc.edit(s)
			for _, at := range []time.Time{s.now, s.now.Add(reissueOver), earliest.Add(-1)} {
				s.now = at
				plan := s.expect(issuance.Keep)
				if plan.SignedBy != before || !plan.NotAfter.Equal(leaf.NotAfter) {
					t.Errorf("signed by %s until %s, want %s until %s", plan.SignedBy, plan.NotAfter, before, leaf.NotAfter)
				}
				if tc.renews != !plan.RenewAt.IsZero() || (tc.renews && (plan.RenewAt.Before(earliest) || plan.RenewAt.After(latest))) {
					t.Errorf("renewed at %s, want it within %s and %s, if at all", plan.RenewAt, earliest, latest)
				}
			}
			for _, at := range []time.Time{latest, leaf.NotAfter.Add(-1)} {
				s.now = at
				if !tc.renews {
					s.expect(issuance.Keep)
				} else if plan := s.expect(issuance.Issue); !plan.Renewal || plan.IssueReason != "the one before it ends "+leaf.NotAfter.Format(time.RFC3339) {
					t.Errorf("renewal %v, because %q; want one for its age", plan.Renewal, plan.IssueReason)
				}
			}
		})
	}
}

// TestReissueRefused checks that, while no CA may sign, a usable certificate is left alone, and
// that the Service reports an unusable one.
func TestReissueRefused(t *testing.T) {
	const lost, expired = "its signing key was lost, and its successor does not sign yet", "has no successor yet"
	ended := func(s *fixture) { s.now = s.leaf().NotAfter }
	for _, tc := range []struct {
		name, message string
		edits         []func(*fixture)
		serves        bool
	}{
		{"there is no certificate", lost, []func(*fixture){withoutSigner, func(s *fixture) { s.secret = nil }}, false},
		{"it has ended", lost, []func(*fixture){withoutSigner, ended}, false},
		{"its key is lost too", lost, []func(*fixture){withoutSigner, data("tls.key", nil)}, false},
		{"its root is not trusted", lost, []func(*fixture){withoutSigner, func(s *fixture) { s.trusts(newSigner(s.t, now).CA.Certificate) }}, false},
		{"the policy wants another", lost, []func(*fixture){withoutSigner, moreNames}, false},
		{"the next CA has expired", expired, []func(*fixture){func(s *fixture) {
			ended := newSigner(s.t, now.Add(-2*day), func(r *pki.RootSpec) { r.Duration = day }).CA
			s.ca.CA.Certificate, s.ca.CA.NotAfter = ended.Certificate, ended.NotAfter
			s.now = s.now.Add(reissueOver)
		}}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, _ := takenOver(t)
			for _, edit := range tc.edits {
				edit(s)
			}
			plan := s.plan()
			if plan.Action != issuance.Refuse || plan.Problem == nil || plan.Problem.Reason != issuance.ReasonServiceCANotReady ||
				!strings.Contains(plan.Problem.Message, tc.message) {
				t.Fatalf("the plan is %s, obstacle %v; want %s: … %s", plan.Action, plan.Problem, issuance.ReasonServiceCANotReady, tc.message)
			}
			if plan.NotAfter.IsZero() == tc.serves {
				t.Errorf("notAfter = %s, and it serves: %v", plan.NotAfter, tc.serves)
			}
		})
	}
}

func moreNames(s *fixture) { s.policy.Spec.Certificate.ExtraDNSNames = []string{"$(service).org"} }

// TestReissueAtOnce checks that a certificate is replaced ahead of its scheduled time when clients
// do not accept it or the policy requires something else.
func TestReissueAtOnce(t *testing.T) {
	for _, tc := range []struct {
		name, reason string
		edit         func(*fixture)
	}{
		{"its root is not trusted any more", "it was signed by", func(s *fixture) { s.trusts(s.ca.CA.Certificate) }},
		{"no root is known", "it was signed by", func(s *fixture) { s.ca.Roots = nil }},
		{"another name", "its names are", moreNames},
		{"another key", "its key is", func(s *fixture) { s.policy.Spec.Certificate.PrivateKey.Algorithm = v1alpha1.Ed25519 }},
		{"another usage", "its key usages", func(s *fixture) {
			s.policy.Spec.Certificate.Usages = append(s.policy.Spec.Certificate.Usages, v1alpha1.UsageClientAuth)
		}},
		{"another Service", "no longer belonged to this Service", func(s *fixture) { s.service.UID = "uid-of-the-next" }},
		{"its key is lost", "tls.key", data(corev1.TLSPrivateKeyKey, nil)},
		{"paused, and another name", "its names are", func(s *fixture) { s.ca.Reissue.Paused = true; moreNames(s) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, _ := takenOver(t)
			s.expect(issuance.Keep)
			tc.edit(s)
			plan := s.expect(issuance.Issue)
			if !strings.Contains(plan.IssueReason, tc.reason) || plan.Renewal || !plan.NotAfter.IsZero() || plan.SignedBy != "" {
				t.Errorf("why %q, renewal %v, notAfter %s, signed by %q; want %q", plan.IssueReason, plan.Renewal, plan.NotAfter, plan.SignedBy, tc.reason)
			}
			s.execute(plan)
			if kept := s.expect(issuance.Keep); kept.SignedBy != s.ca.CA.Certificate.Subject.CommonName {
				t.Errorf("signed by %s", kept.SignedBy)
			}
		})
	}
}

// TestReissueRepairs checks that a new bundle is written without waiting for the new certificate,
// also while no CA signs or the rotation is paused.
func TestReissueRepairs(t *testing.T) {
	include := certificateEdit(func(c *v1alpha1.ServingCertificate) { c.CABundle = v1alpha1.CABundleInclude })
	for name, edit := range map[string]func(*fixture){"its turn is to come": none, "nobody signs": withoutSigner, "paused": func(s *fixture) { s.ca.Reissue.Paused = true }} {
		t.Run(name, func(t *testing.T) {
			s, before := takenOver(t, include)
			edit(s)
			leaf := s.leaf()
			plan := s.expect(issuance.Repair)
			if plan.SignedBy != before || !plan.NotAfter.Equal(leaf.NotAfter) {
				t.Errorf("signed by %s until %s, want %s until %s", plan.SignedBy, plan.NotAfter, before, leaf.NotAfter)
			}
			s.execute(plan)
			s.expect(issuance.Keep)
			if !s.leaf().Equal(leaf.Certificate) || !bytes.Equal(s.secret.Data["ca.crt"], s.ca.Bundle) {
				t.Error("not the bundle, or more than it, was replaced")
			}
		})
	}
}
