package issuance_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
)

func renewBefore(value v1alpha1.Duration) func(*fixture) {
	return certificateEdit(func(c *v1alpha1.ServingCertificate) { c.RenewBefore = &value })
}

func caLifetime(lifetime time.Duration) func(*fixture) {
	return func(s *fixture) {
		s.ca = newSigner(s.t, s.now, func(r *pki.RootSpec) { r.Duration = lifetime })
	}
}

// band returns the period in which a certificate is renewed. It ends renewBefore ahead of notAfter,
// and is as long as a tenth of the lifetime before that. It never begins before a twentieth of the
// lifetime has passed.
func band(leaf *pki.Leaf, lifetime, renewBefore time.Duration) (earliest, latest time.Time) {
	youngest := leaf.NotAfter.Add(-lifetime * 19 / 20)
	latest = leaf.NotAfter.Add(-renewBefore)
	earliest = latest.Add(-(lifetime - renewBefore) / 10)
	if latest.Before(youngest) {
		latest = youngest
	}
	if earliest.Before(youngest) {
		earliest = youngest
	}
	return earliest, latest
}

// TestRenewal checks the exact instant from which a certificate is renewed.
func TestRenewal(t *testing.T) {
	for _, tc := range []struct {
		name        string
		given       func(*fixture)
		lifetime    time.Duration
		renewBefore time.Duration
	}{
		{"a third by default", none, 90 * day, 30 * day},
		{"as the policy says", renewBefore("1h"), 90 * day, time.Hour},
		{"most of its life", renewBefore("2159h"), 90 * day, 2159 * time.Hour},
		{"a short life", duration("1m"), time.Minute, 20 * time.Second},
		{"just shorter than the CA's", caLifetime(90*day + time.Second), 90 * day, 30 * day},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newIssuedFixture(t, tc.given)
			leaf := s.leaf()
			plan := s.expect(issuance.Keep)
			earliest, latest := band(leaf, tc.lifetime, tc.renewBefore)
			if plan.RenewAt.Before(earliest) || plan.RenewAt.After(latest) {
				t.Fatalf("renewAt = %s, want it within %s and %s", plan.RenewAt, earliest, latest)
			}
			s.now = plan.RenewAt.Add(-time.Nanosecond)
			if before := s.expect(issuance.Keep); !before.RenewAt.Equal(plan.RenewAt) || !before.NotAfter.Equal(leaf.NotAfter) {
				t.Errorf("just before: renewAt %s, notAfter %s", before.RenewAt, before.NotAfter)
			}
			for _, at := range []time.Time{plan.RenewAt, leaf.NotAfter.Add(-time.Nanosecond)} {
				s.now = at
				if due := s.expect(issuance.Issue); !due.Renewal || !due.NotAfter.Equal(leaf.NotAfter) {
					t.Errorf("at %s: renewal %v, notAfter %s; want a renewal of what is still valid", at, due.Renewal, due.NotAfter)
				}
			}
			s.now = leaf.NotAfter
			due := s.expect(issuance.Issue)
			if !due.Renewal || !due.NotAfter.IsZero() {
				t.Errorf("at its end: renewal %v, notAfter %s; want a renewal, and no sound certificate", due.Renewal, due.NotAfter)
			}
			if want := "the one before it ends " + leaf.NotAfter.Format(time.RFC3339); due.IssueReason != want {
				t.Errorf("why = %q, want %q", due.IssueReason, want)
			}
		})
	}
}

// TestNoRenewalAtTheEndOfTheCA checks that a certificate with the notAfter of its CA is not
// renewed: a new one would have the same notAfter, and so would the next, for ever.
func TestNoRenewalAtTheEndOfTheCA(t *testing.T) {
	for _, lifetime := range []time.Duration{time.Minute, 30 * day, 90*day - time.Second, 90 * day} {
		t.Run(lifetime.String(), func(t *testing.T) {
			s := newIssuedFixture(t, caLifetime(lifetime))
			notAfter := s.ca.CA.Certificate.NotAfter
			for part := range 10 {
				s.now = now.Add(lifetime * time.Duration(part) / 10)
				if plan := s.expect(issuance.Keep); !plan.RenewAt.IsZero() || !plan.NotAfter.Equal(notAfter) {
					t.Errorf("at %s: renewAt %s, notAfter %s; want none, %s", s.now, plan.RenewAt, plan.NotAfter, notAfter)
				}
			}
			s.now = notAfter
			plan := s.plan()
			if plan.Action != issuance.Refuse || plan.Problem == nil || plan.Problem.Reason != issuance.ReasonServiceCANotReady || !plan.NotAfter.IsZero() {
				t.Errorf("at the end: the plan is %s, obstacle %v, notAfter %s; want that the Service is told", plan.Action, plan.Problem, plan.NotAfter)
			}
			s.ca = newSigner(t, s.now)
			s.execute(s.expect(issuance.Issue))
			s.expect(issuance.Keep)
		})
	}
}

// TestLastRenewalBeforeTheEndOfTheCA checks that a certificate that expires shortly before its CA
// is renewed once more.
func TestLastRenewalBeforeTheEndOfTheCA(t *testing.T) {
	s := newIssuedFixture(t, caLifetime(91*day))
	s.now = s.expect(issuance.Keep).RenewAt
	s.execute(s.expect(issuance.Issue))
	if plan := s.expect(issuance.Keep); !plan.RenewAt.IsZero() || !plan.NotAfter.Equal(s.ca.CA.Certificate.NotAfter) {
		t.Errorf("renewAt %s, notAfter %s; want none, the end of the CA", plan.RenewAt, plan.NotAfter)
	}
}

// TestRenewalTime checks that the renewal time depends on the certificate and the policy alone.
func TestRenewalTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seconds := rapid.Int64Range(60, 3*365*86400).Draw(t, "duration")
		lifetime := time.Duration(seconds) * time.Second
		s := newFixture(t, caLifetime(lifetime+time.Hour), duration(v1alpha1.Duration(lifetime.String())))
		before := lifetime / 3
		if rapid.Bool().Draw(t, "renewBefore is set") {
			before = time.Duration(rapid.Int64Range(1, seconds-1).Draw(t, "renewBefore")) * time.Second
			renewBefore(v1alpha1.Duration(before.String()))(s)
		}
		s.execute(s.plan())
		plan := s.expect(issuance.Keep)
		earliest, latest := band(s.leaf(), lifetime, before)
		if plan.RenewAt.Before(earliest) || plan.RenewAt.After(latest) {
			t.Errorf("renewAt = %s, want it within %s and %s", plan.RenewAt, earliest, latest)
		}
		s.now = now.Add(time.Duration(rapid.Int64Range(0, 2*int64(lifetime)).Draw(t, "later")))
		if again := s.plan(); !again.RenewAt.Equal(plan.RenewAt) {
			t.Errorf("later renewAt = %s, before %s", again.RenewAt, plan.RenewAt)
		}
	})
}

// TestRenewalsSpread checks that certificates that were issued at one instant are renewed over the
// whole band.
func TestRenewalsSpread(t *testing.T) {
	const count = 400
	s := newIssuedFixture(t)
	var tenths [10]int
	for range count {
		s.secret = nil
		s.execute(s.plan())
		earliest, latest := band(s.leaf(), 90*day, 30*day)
		at := s.expect(issuance.Keep).RenewAt
		tenths[min(9, int(10*at.Sub(earliest)/latest.Sub(earliest)))]++
	}
	for i, got := range tenths {
		// A fair share is 40; fewer than one run in a million lies outside of 10 to 80.
		if got < 10 || got > 80 {
			t.Errorf("%d of %d certificates are renewed in tenth %d: %v", got, count, i, tenths)
		}
	}
}
