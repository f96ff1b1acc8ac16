package issuance_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// TestGrant checks that a request gets only names that are offered, only usages that every policy
// of these names allows, and the shortest of the policies' lifetimes.
func TestGrant(t *testing.T) {
	t.Parallel()
	server, client := v1alpha1.UsageServerAuth, v1alpha1.UsageClientAuth
	offers := issuance.Offers{
		{DNSNames: []string{"web.shop.svc", "web.shop.svc.cluster.local"}, Usages: []v1alpha1.CertificateUsage{server, client}, Duration: time.Hour, Policy: "long"},
		{DNSNames: []string{"db.shop.svc", "*.db.shop.svc"}, Usages: []v1alpha1.CertificateUsage{server}, Duration: time.Minute, Policy: "short"},
	}
	for name, tc := range map[string]struct {
		names   []string
		usages  []v1alpha1.CertificateUsage
		want    issuance.Terms
		message string
	}{
		"one name": {[]string{"web.shop.svc"}, nil, issuance.Terms{Usages: []v1alpha1.CertificateUsage{server, client}, Duration: time.Hour, Policy: "long"}, ""},
		"of two policies": {[]string{"web.shop.svc", "db.shop.svc"}, nil, issuance.Terms{
			Usages: []v1alpha1.CertificateUsage{server}, Duration: time.Minute, Policy: "long"}, ""},
		"fewer usages": {[]string{"web.shop.svc"}, []v1alpha1.CertificateUsage{client}, issuance.Terms{
			Usages: []v1alpha1.CertificateUsage{client}, Duration: time.Hour, Policy: "long"}, ""},
		"a wildcard that is offered":       {[]string{"*.db.shop.svc"}, nil, issuance.Terms{Usages: []v1alpha1.CertificateUsage{server}, Duration: time.Minute, Policy: "short"}, ""},
		"a wildcard over what is offered":  {[]string{"*.web.shop.svc"}, nil, issuance.Terms{}, "NameNotOffered"},
		"a name under a wildcard":          {[]string{"one.db.shop.svc"}, nil, issuance.Terms{}, "NameNotOffered"},
		"another case":                     {[]string{"Web.shop.svc"}, nil, issuance.Terms{}, "NameNotOffered"},
		"one good and one of others":       {[]string{"web.shop.svc", "web.kube-system.svc"}, nil, issuance.Terms{}, "web.kube-system.svc"},
		"a short name":                     {[]string{"web"}, nil, issuance.Terms{}, `"web" is a short name of web.shop.svc: ask for that, or add "$(service)" to spec.certificate.extraDNSNames of policy long`},
		"a short name with its namespace":  {[]string{"db.shop"}, nil, issuance.Terms{}, `add "$(service).$(namespace)" to spec.certificate.extraDNSNames of policy short`},
		"a short name of another":          {[]string{"we"}, nil, issuance.Terms{}, "is no name of a Service here"},
		"a name with control characters":   {[]string{"web\x1b[31m\u202e.shop"}, nil, issuance.Terms{}, `"web\x1b[31m\u202e.shop" is no name of a Service here`},
		"nothing":                          {nil, nil, issuance.Terms{}, "no name is asked for"},
		"a usage that one does not allow":  {[]string{"web.shop.svc", "db.shop.svc"}, []v1alpha1.CertificateUsage{client}, issuance.Terms{}, "UsageNotOffered"},
		"a usage that nobody has heard of": {[]string{"web.shop.svc"}, []v1alpha1.CertificateUsage{"code signing"}, issuance.Terms{}, "UsageNotOffered"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, problem := offers.Grant(tc.names, tc.usages)
			switch {
			case tc.message == "" && problem != nil:
				t.Fatalf("refused: %s", problem)
			case tc.message == "":
				if tc.want.DNSNames = tc.names; !cmp.Equal(tc.want, got) {
					t.Errorf("-want +got:\n%s", cmp.Diff(tc.want, got))
				}
			case problem == nil || !strings.Contains(problem.String(), tc.message):
				t.Errorf("got %+v and %v, want it refused, saying %q", got, problem, tc.message)
			}
		})
	}
}

// TestCombineManyOffers checks that the names of many Services are combined without duplicates.
func TestCombineManyOffers(t *testing.T) {
	t.Parallel()
	const services = 1000
	offers := issuance.Offers{{DNSNames: []string{"same.shop.svc"}}, {DNSNames: []string{"same.shop.svc"}}}
	for i := range services {
		host := fmt.Sprintf("web-%05d.shop.svc", i)
		offers = append(offers, issuance.Terms{DNSNames: []string{host, host + ".cluster.local"}})
	}
	if all, ok := offers.Combine(); !ok || len(all.DNSNames) != 1+2*services {
		t.Errorf("there are %d names, want %d", len(all.DNSNames), 1+2*services)
	}
}

// TestCouldExist checks that a name is refused at once only if it can never belong to a Service: a
// Service may be created a moment later.
func TestCouldExist(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		namespace, names string
		want             bool
	}{
		{"shop", "web.shop.svc", true},
		{"shop", "web.shop.svc web.shop.svc.cluster.local *.web.shop.svc", true},
		{"", "web.anywhere.svc", true},
		{"shop", "web.shop.svc web.kube-system.svc", false},
		{"shop", "*.shop.svc", false},
		{"shop", "shop.svc", false},
		{"shop", ".shop.svc", false},
		{"", "*.svc", false},
		{"", "kubernetes.default.svc", false},
		{"shop", "example.org", false},
		{"shop", "web.shop.svcs", false},
		{"shop", "web.shop.svc.shop.svc", false},
		{"shop", "web.shop", false},
	} {
		if got := issuance.CouldExist(tc.namespace, strings.Fields(tc.names), nil); got != tc.want {
			t.Errorf("%q in %q: %t, want %t", tc.names, tc.namespace, got, tc.want)
		}
	}
}

// TestCouldExistByPattern checks that a name that a Service could get by extraDNSNames is not
// refused at once.
func TestCouldExistByPattern(t *testing.T) {
	t.Parallel()
	patterns := []string{"$(service)", "$(service).$(namespace)", "$(service).example.org", "fixed.example.com"}
	for _, tc := range []struct {
		namespace, names string
		want             bool
	}{
		{"shop", "web db.shop web.shop.svc one.example.org fixed.example.com", true},
		{"", "db.other", true},
		{"shop", "db.other", false},
		{"shop", "*.example.org", false},
		{"shop", "two.one.example.org", false},
		{"shop", ".example.org", false},
		{"shop", "other.example.com", false},
	} {
		if got := issuance.CouldExist(tc.namespace, strings.Fields(tc.names), patterns); got != tc.want {
			t.Errorf("%q in %q: %t, want %t", tc.names, tc.namespace, got, tc.want)
		}
	}
}
