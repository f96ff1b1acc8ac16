package pki_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// TestPath checks that Verify returns the right result for every leaf of a path, whether or not it
// has verified a similar leaf before.
func TestPath(t *testing.T) {
	root := makeCA(t, nil, "root")
	constrained := makeCA(t, &root, "constrained", func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"web.shop.svc"} })
	below := makeCA(t, &constrained, "below")
	type step struct {
		name, want string
		spec       pki.LeafSpec
		late       time.Duration
	}
	trusted, other := []*x509.Certificate{root.Certificate}, []*x509.Certificate{makeCA(t, nil, "other").Certificate}
	const ended = 100 * 365 * day
	within := leafSpec(func(s *pki.LeafSpec) { s.DNSNames = []string{"web.shop.svc"} })
	without := leafSpec(func(s *pki.LeafSpec) { s.DNSNames = []string{"db.shop.svc"} })
	forClients := leafSpec(func(s *pki.LeafSpec) { s.Usages = []v1alpha1.CertificateUsage{v1alpha1.UsageClientAuth} })
	for _, tc := range []struct {
		name  string
		ca    testCA
		chain []testCA
		roots []*x509.Certificate
		steps []step
	}{
		{"a root", root, nil, trusted, []step{
			{"when it has expired", "expired", within, ended},
			{"before", "", within, 0},
			{"again", "", without, 0},
			{"for another use", "incompatible key usage", forClients, 0},
			{"when it has expired, again", "expired", within, ended},
		}},
		{"a root of no client", root, nil, other, []step{
			{"once", "unknown authority", within, 0},
			{"again", "unknown authority", within, 0},
		}},
		{"with name constraints", constrained, nil, trusted, []step{
			{"within", "", within, 0},
			{"without, after it", "not permitted", without, 0},
		}},
		{"under name constraints", below, []testCA{constrained}, trusted, []step{
			{"within", "", within, 0},
			{"without, after it", "not permitted", without, 0},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := pki.NewPath(pki.Bundle(tc.roots).Pool())
			authority := load(t, tc.ca.pair(t, tc.chain...))
			for _, s := range tc.steps {
				pair, err := authority.Issue(now, s.spec, day, nil)
				must(t, pair, err)
				leaf, err := pair.Leaf()
				must(t, leaf, err)
				t.Log(s.name)
				wantError(t, path.Verify(leaf, now.Add(s.late)), s.want)
			}
		})
	}
}
