package pki_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// Each leaf of a path is verified, or one like it was, with which it stands and falls.
func TestPath(t *testing.T) {
	root := makeCA(t, nil, "root")
	constrained := makeCA(t, &root, "constrained", func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"web.shop.svc"} })
	below := makeCA(t, &constrained, "below")
	type step struct {
		name, want string
		spec       pki.LeafSpec
		roots      []*x509.Certificate
		late       time.Duration
	}
	trusted, other := []*x509.Certificate{root.Certificate}, []*x509.Certificate{makeCA(t, nil, "other").Certificate}
	within := leafSpec(func(s *pki.LeafSpec) { s.DNSNames = []string{"web.shop.svc"} })
	without := leafSpec(func(s *pki.LeafSpec) { s.DNSNames = []string{"db.shop.svc"} })
	forClients := leafSpec(func(s *pki.LeafSpec) { s.Usages = []v1alpha1.CertificateUsage{v1alpha1.UsageClientAuth} })
	for _, tc := range []struct {
		name  string
		ca    handmade
		chain []handmade
		steps []step
	}{
		{"a root", root, nil, []step{
			{"of no client", "unknown authority", within, other, 0},
			{"when it has expired", "expired", within, trusted, 100 * 365 * day},
			{"of the clients", "", within, trusted, 0},
			{"again", "", without, trusted, 0},
			{"for another use", "incompatible key usage", forClients, trusted, 0},
		}},
		{"with name constraints", constrained, nil, []step{
			{"within", "", within, trusted, 0},
			{"without, after it", "not permitted", without, trusted, 0},
		}},
		{"under name constraints", below, []handmade{constrained}, []step{
			{"within", "", within, trusted, 0},
			{"without, after it", "not permitted", without, trusted, 0},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var path pki.Path
			authority := load(t, tc.ca.pair(t, tc.chain...))
			for _, s := range tc.steps {
				pair, err := authority.Issue(now, s.spec, day, nil)
				must(t, pair, err)
				leaf, err := pair.Leaf()
				must(t, leaf, err)
				t.Log(s.name)
				wantError(t, path.Verify(leaf, pki.Bundle(s.roots).Pool(), now.Add(s.late)), s.want)
			}
		})
	}
}
