package issuance_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
)

func issueAll(s *v1alpha1.ServingCertPolicySpec) { s.Issuance = v1alpha1.IssueAll }

func externalName(s *corev1.Service) {
	s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "db.example.org"}
}

func called(namespace, name string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Namespace, s.Name = namespace, name }
}

// TestDesiredOrNone checks which Services get a certificate, and in which Secret.
func TestDesiredOrNone(t *testing.T) {
	type edits = []func(*corev1.Service)
	for _, tc := range []struct {
		name      string
		service   edits
		annotated string
		all       string
	}{
		{"it does not ask", nil, "", "web-tls"},
		{"it asks", edits{ownAnnotation}, "web-cert", "web-cert"},
		{"it asks as on OpenShift", edits{betaAnnotation}, "web-cert", "web-cert"},
		{"headless", edits{headless}, "", "web-tls"},
		{"of type NodePort", edits{func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }}, "", "web-tls"},
		{"of type LoadBalancer", edits{func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer }}, "", "web-tls"},
		{"ExternalName", edits{externalName}, "", ""},
		{"ExternalName that asks", edits{externalName, ownAnnotation}, "web-cert", "web-cert"},
		{"the API server's", edits{called("default", "kubernetes")}, "", ""},
		{"called kubernetes elsewhere", edits{called("shop", "kubernetes")}, "", "kubernetes-tls"},
		{"in default, called otherwise", edits{called("default", "web")}, "", "web-tls"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			service := newService(tc.service...)
			for policy, secretName := range map[*v1alpha1.ServingCertPolicy]string{newPolicy(): tc.annotated, newPolicy(issueAll): tc.all} {
				desired, ok := resolver.Desired(service, policy)
				if ok != (secretName != "") || desired.SecretName != secretName {
					t.Errorf("%s: Want = %v, Secret %q; want Secret %q", policy.Spec.Issuance, ok, desired.SecretName, secretName)
				}
			}
			if _, ok := resolver.Desired(service, nil); ok {
				t.Error("it gets a certificate without a policy")
			}
		})
	}
}

func TestDesiredSuffix(t *testing.T) {
	desired, _ := resolver.Desired(newService(), newPolicy(issueAll, func(s *v1alpha1.ServingCertPolicySpec) { s.SecretNameSuffix = ".serving" }))
	if desired.SecretName != "web.serving" || desired.Family != issuance.NotAsked {
		t.Errorf("Secret %q, family %q; want web.serving and none", desired.SecretName, desired.Family)
	}
}

// TestDesiredIgnoresOpenShift checks that OpenShift's annotations are ignored on a cluster that
// runs OpenShift's own service CA.
func TestDesiredIgnoresOpenShift(t *testing.T) {
	without := issuance.Resolver{ClusterDomain: "cluster.local"}
	if _, ok := without.Desired(newService(betaAnnotation), newPolicy()); ok {
		t.Error("OpenShift's annotation is answered")
	}
	desired, ok := without.Desired(newService(betaAnnotation), newPolicy(issueAll))
	if !ok || desired.SecretName != "web-tls" || desired.Family != issuance.NotAsked || desired.Leaf.ServiceUID != "" {
		t.Errorf("Want = %v, Secret %q, family %q, UID %q; want web-tls, as if it had not asked",
			ok, desired.SecretName, desired.Family, desired.Leaf.ServiceUID)
	}
}

func TestDesiredDNSNames(t *testing.T) {
	for _, tc := range []struct {
		name    string
		service func(*corev1.Service)
		domains []string
		extra   []string
		want    []string
	}{
		{name: "as everywhere", service: ownAnnotation, want: []string{"web.shop.svc", "web.shop.svc.cluster.local"}},
		{name: "headless", service: headless, want: []string{
			"web.shop.svc", "web.shop.svc.cluster.local", "*.web.shop.svc", "*.web.shop.svc.cluster.local"}},
		{name: "several cluster domains", service: ownAnnotation, domains: []string{"cluster.local", "blue.example.org"}, want: []string{
			"web.shop.svc", "web.shop.svc.cluster.local", "web.shop.svc.blue.example.org"}},
		{name: "another cluster domain, headless", service: headless, domains: []string{"c"}, want: []string{
			"web.shop.svc", "web.shop.svc.c", "*.web.shop.svc", "*.web.shop.svc.c"}},
		{name: "extra names", service: ownAnnotation,
			extra: []string{"$(service).$(namespace).example.org", "*.$(namespace)-$(service).org", "fixed.org", "$(service)$(service).$(other)"},
			want: []string{"web.shop.svc", "web.shop.svc.cluster.local",
				"web.shop.example.org", "*.shop-web.org", "fixed.org", "webweb.$(other)"}},
		{name: "nothing is substituted twice", service: called("shop", "$(namespace)"), extra: []string{"$(service).org"},
			want: []string{"$(namespace).shop.svc", "$(namespace).shop.svc.cluster.local", "$(namespace).org"}},
		{name: "the API server's", service: called("default", "kubernetes"),
			want: []string{"kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			policy := newPolicy(func(s *v1alpha1.ServingCertPolicySpec) {
				s.Certificate.ClusterDomains, s.Certificate.ExtraDNSNames = tc.domains, tc.extra
			})
			desired, ok := resolver.Desired(newService(ownAnnotation, tc.service), policy)
			if diff := cmp.Diff(tc.want, desired.Leaf.DNSNames); diff != "" || !ok {
				t.Errorf("Want = %v (-want +got):\n%s", ok, diff)
			}
		})
	}
}

func TestDesiredCertificate(t *testing.T) {
	renewBefore := v1alpha1.Duration("30m")
	policy := newPolicy(func(s *v1alpha1.ServingCertPolicySpec) {
		s.Certificate.Duration, s.Certificate.RenewBefore = "36h", &renewBefore
		s.Certificate.Usages = []v1alpha1.CertificateUsage{"server auth", "client auth"}
		s.Certificate.PrivateKey = v1alpha1.ServingPrivateKey{PrivateKey: v1alpha1.PrivateKey{Algorithm: v1alpha1.RSA}, RotationPolicy: v1alpha1.RotateNever}
	})
	for _, tc := range []struct {
		name   string
		ask    func(*corev1.Service)
		family issuance.Family
		uid    string
	}{
		{"own", ownAnnotation, issuance.Own, ""},
		{"beta", betaAnnotation, issuance.OpenShift, "uid-of-web"},
		{"alpha", alphaAnnotation, issuance.OpenShiftAlpha, "uid-of-web"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			service := newService(tc.ask)
			got, _ := resolver.Desired(service, policy)
			desired := issuance.Desired{
				SecretRef: issuance.SecretRef{Service: service, Policy: policy, Family: tc.family, SecretName: "web-cert"},
				Duration:  36 * time.Hour, RenewBefore: 30 * time.Minute,
				Leaf: pki.LeafSpec{
					DNSNames:   []string{"web.shop.svc", "web.shop.svc.cluster.local"},
					Usages:     []v1alpha1.CertificateUsage{"server auth", "client auth"},
					Key:        pki.KeySpec{Algorithm: v1alpha1.RSA, Size: 2048},
					Encoding:   v1alpha1.PKCS8,
					ServiceUID: tc.uid,
				},
			}
			if diff := cmp.Diff(desired, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if desired, _ := resolver.Desired(newService(ownAnnotation), newPolicy()); desired.RenewBefore != 0 {
		t.Errorf("by default: renewBefore %s; want 0", desired.RenewBefore)
	}
}

// TestCABundle checks that the bundle is in the Secret if the policy includes it, and never for
// OpenShift's annotations, which promise exactly two keys.
func TestCABundle(t *testing.T) {
	for _, tc := range []struct {
		name string
		ask  func(*corev1.Service)
		mode v1alpha1.CABundleMode
		want bool
	}{
		{"own", ownAnnotation, v1alpha1.CABundleInclude, true},
		{"own, omitted", ownAnnotation, v1alpha1.CABundleOmit, false},
		{"beta", betaAnnotation, v1alpha1.CABundleInclude, false},
		{"alpha", alphaAnnotation, v1alpha1.CABundleInclude, false},
		{"both families", func(s *corev1.Service) { ownAnnotation(s); betaAnnotation(s) }, v1alpha1.CABundleInclude, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newIssuedFixture(t, func(s *fixture) {
				s.service, s.policy.Spec.Certificate.CABundle = newService(tc.ask), tc.mode
			})
			want := map[string]bool{"tls.crt": true, "tls.key": true}
			if tc.want {
				want["ca.crt"] = true
			}
			got := map[string]bool{}
			for key := range s.secret.Data {
				got[key] = true
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			if tc.want && !cmp.Equal(s.secret.Data["ca.crt"], s.ca.Bundle) {
				t.Error("ca.crt is not the bundle")
			}
			s.expect(issuance.Keep)
		})
	}
}
