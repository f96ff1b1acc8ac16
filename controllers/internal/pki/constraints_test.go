package pki_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/servingcert/operator/controllers/internal/pki"
)

// TestNameConstraintsAreEnforced checks that no client accepts a name outside of the CA's permitted
// domains.
func TestNameConstraintsAreEnforced(t *testing.T) {
	authority := generateRoot(t, now, func(s *pki.RootSpec) { s.PermittedDNSDomains = []string{"svc", "svc.cluster.local"} })
	for _, tc := range []struct {
		name      string
		permitted bool
	}{
		{"web.shop.svc", true},
		{"*.web.shop.svc", true},
		{"web.shop.svc.cluster.local", true},
		{"svc", true},
		{"web.shopsvc", false},
		{"cluster.local", false},
		{"kubernetes.default.cluster.local", false},
		{"bank.example.org", false},
		{"*.example.org", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pair, _ := issue(t, authority, now, day, leafSpec(func(s *pki.LeafSpec) { s.DNSNames = []string{tc.name} }))
			host := strings.Replace(tc.name, "*", "pod-0", 1)
			if err := verify(t, pair.Certificate, authority.Certificate(), now, host); (err == nil) != tc.permitted {
				t.Errorf("verify: %v, want permitted = %v", err, tc.permitted)
			}
			if err := pki.CheckNameConstraints(authority.Certificate(), tc.name); (err == nil) != tc.permitted {
				t.Errorf("Permits: %v, want permitted = %v", err, tc.permitted)
			}
		})
	}
}

// TestOneNameOutsideFailsAll checks that clients reject a certificate as a whole if one of its
// names is not permitted.
func TestOneNameOutsideFailsAll(t *testing.T) {
	authority := generateRoot(t, now, func(s *pki.RootSpec) { s.PermittedDNSDomains = []string{"svc"} })
	pair, _ := issue(t, authority, now, day, leafSpec(func(s *pki.LeafSpec) { s.DNSNames = []string{"web.shop.svc", "web.example.org"} }))
	if err := verify(t, pair.Certificate, authority.Certificate(), now, "web.shop.svc"); err == nil {
		t.Error("a certificate with a name outside was accepted")
	}
}

// TestCheckNameConstraintsAgreesWithVerify checks that CheckNameConstraints predicts what clients
// do, for any name constraints that a provided CA may have.
func TestCheckNameConstraintsAgreesWithVerify(t *testing.T) {
	label := rapid.SampledFrom([]string{"a", "b", "ab", "svc"})
	domain := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(label, 1, 3).Draw(t, "labels"), ".")
	})
	constraint := rapid.Custom(func(t *rapid.T) string {
		form := rapid.SampledFrom([]string{"plain", "plain", "plain", "upper case", "subdomains only", "everything"}).Draw(t, "form")
		switch drawn := domain.Draw(t, "domain"); form {
		case "upper case":
			return strings.ToUpper(drawn)
		case "subdomains only":
			return "." + drawn
		case "everything":
			return ""
		default:
			return drawn
		}
	})
	name := rapid.Custom(func(t *rapid.T) string {
		return rapid.SampledFrom([]string{"", "*."}).Draw(t, "wildcard") + domain.Draw(t, "name")
	})
	rapid.Check(t, func(t *rapid.T) {
		ca := makeCA(t, nil, "corp", func(c *x509.Certificate) {
			c.PermittedDNSDomainsCritical = true
			c.PermittedDNSDomains = rapid.SliceOfN(constraint, 0, 3).Draw(t, "permitted")
			c.ExcludedDNSDomains = rapid.SliceOfN(constraint, 0, 2).Draw(t, "excluded")
		})
		authority := load(t, ca.pair(t))
		for _, drawn := range rapid.SliceOfNDistinct(name, 1, 6, rapid.ID).Draw(t, "names") {
			pair, _ := issue(t, authority, now, day, leafSpec(func(s *pki.LeafSpec) { s.DNSNames = []string{drawn} }))
			permits, verified := pki.CheckNameConstraints(ca.Certificate, drawn), verify(t, pair.Certificate, ca.Certificate, now, "")
			if (permits == nil) != (verified == nil) {
				t.Errorf("%s: Permits says %v, a client %v", drawn, permits, verified)
			}
		}
	})
}

func TestCheckNameConstraintsError(t *testing.T) {
	ca := makeCA(t, nil, "corp", func(c *x509.Certificate) {
		c.PermittedDNSDomains, c.ExcludedDNSDomains = []string{"svc", "example.org"}, []string{"secret.svc"}
	})
	for _, tc := range []struct{ name, want string }{
		{"web.secret.svc", `the CA "corp" excludes web.secret.svc by its name constraints`},
		{"web.example.com", `the CA "corp" permits only names in svc, example.org, and not web.example.com`},
	} {
		if err := pki.CheckNameConstraints(ca.Certificate, tc.name); err == nil || err.Error() != tc.want {
			t.Errorf("Permits(%s) = %v, want %s", tc.name, err, tc.want)
		}
	}
}

// TestValidityIsThatOfTheClock checks that the validity depends on the time that the caller passes,
// and not on the system clock.
func TestValidityIsThatOfTheClock(t *testing.T) {
	authority := generateRoot(t, now)
	pair, leaf := issue(t, authority, now, day, leafSpec())
	for _, tc := range []struct {
		at time.Time
		ok bool
	}{
		{leaf.NotBefore.Add(-time.Second), false}, {leaf.NotBefore, true}, {leaf.NotAfter, true}, {leaf.NotAfter.Add(time.Second), false},
	} {
		if err := verify(t, pair.Certificate, authority.Certificate(), tc.at, "web.shop.svc"); (err == nil) != tc.ok {
			t.Errorf("at %s: %v, want ok = %v", tc.at, err, tc.ok)
		}
	}
}
