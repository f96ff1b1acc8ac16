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

// TestWantWhether tells which Services get a certificate, in which Secret.
func TestWantWhether(t *testing.T) {
	type edits = []func(*corev1.Service)
	for _, tc := range []struct {
		name      string
		service   edits
		annotated string
		all       string
	}{
		{"it does not ask", nil, "", "web-tls"},
		{"it asks", edits{asksOwn}, "web-cert", "web-cert"},
		{"it asks as on OpenShift", edits{asksBeta}, "web-cert", "web-cert"},
		{"headless", edits{headless}, "", "web-tls"},
		{"of type NodePort", edits{func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }}, "", "web-tls"},
		{"of type LoadBalancer", edits{func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer }}, "", "web-tls"},
		{"ExternalName", edits{externalName}, "", ""},
		{"ExternalName that asks", edits{externalName, asksOwn}, "web-cert", "web-cert"},
		{"the API server's", edits{called("default", "kubernetes")}, "", ""},
		{"called kubernetes elsewhere", edits{called("shop", "kubernetes")}, "", "kubernetes-tls"},
		{"in default, called otherwise", edits{called("default", "web")}, "", "web-tls"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			service := newService(tc.service...)
			for policy, secretName := range map[*v1alpha1.ServingCertPolicy]string{newPolicy(): tc.annotated, newPolicy(issueAll): tc.all} {
				want, ok := rules.Want(service, policy)
				if ok != (secretName != "") || want.SecretName != secretName {
					t.Errorf("%s: Want = %v, Secret %q; want Secret %q", policy.Spec.Issuance, ok, want.SecretName, secretName)
				}
			}
			if _, ok := rules.Want(service, nil); ok {
				t.Error("it gets a certificate without a policy")
			}
		})
	}
}

func TestWantSuffix(t *testing.T) {
	want, _ := rules.Want(newService(), newPolicy(issueAll, func(s *v1alpha1.ServingCertPolicySpec) { s.SecretNameSuffix = ".serving" }))
	if want.SecretName != "web.serving" || want.Family != issuance.NotAsked {
		t.Errorf("Secret %q, family %q; want web.serving and none", want.SecretName, want.Family)
	}
}

// TestWantIgnoresOpenShift: on a cluster that runs OpenShift's own service CA nobody else answers.
func TestWantIgnoresOpenShift(t *testing.T) {
	without := issuance.Rules{ClusterDomain: "cluster.local"}
	if _, ok := without.Want(newService(asksBeta), newPolicy()); ok {
		t.Error("OpenShift's annotation is answered")
	}
	want, ok := without.Want(newService(asksBeta), newPolicy(issueAll))
	if !ok || want.SecretName != "web-tls" || want.Family != issuance.NotAsked || want.Leaf.ServiceUID != "" {
		t.Errorf("Want = %v, Secret %q, family %q, UID %q; want web-tls, as if it had not asked",
			ok, want.SecretName, want.Family, want.Leaf.ServiceUID)
	}
}

func TestWantDNSNames(t *testing.T) {
	for _, tc := range []struct {
		name    string
		service func(*corev1.Service)
		domains []string
		extra   []string
		want    []string
	}{
		{name: "as everywhere", service: asksOwn, want: []string{"web.shop.svc", "web.shop.svc.cluster.local"}},
		{name: "headless", service: headless, want: []string{
			"web.shop.svc", "web.shop.svc.cluster.local", "*.web.shop.svc", "*.web.shop.svc.cluster.local"}},
		{name: "several cluster domains", service: asksOwn, domains: []string{"cluster.local", "blue.example.org"}, want: []string{
			"web.shop.svc", "web.shop.svc.cluster.local", "web.shop.svc.blue.example.org"}},
		{name: "another cluster domain, headless", service: headless, domains: []string{"c"}, want: []string{
			"web.shop.svc", "web.shop.svc.c", "*.web.shop.svc", "*.web.shop.svc.c"}},
		{name: "extra names", service: asksOwn,
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
			want, ok := rules.Want(newService(asksOwn, tc.service), policy)
			if diff := cmp.Diff(tc.want, want.Leaf.DNSNames); diff != "" || !ok {
				t.Errorf("Want = %v (-want +got):\n%s", ok, diff)
			}
		})
	}
}

func TestWantCertificate(t *testing.T) {
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
		{"own", asksOwn, issuance.Own, ""},
		{"beta", asksBeta, issuance.OpenShift, "uid-of-web"},
		{"alpha", asksAlpha, issuance.OpenShiftAlpha, "uid-of-web"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			service := newService(tc.ask)
			got, _ := rules.Want(service, policy)
			want := issuance.Want{
				Target:   issuance.Target{Service: service, Policy: policy, Family: tc.family, SecretName: "web-cert"},
				Duration: 36 * time.Hour, RenewBefore: 30 * time.Minute,
				Leaf: pki.LeafSpec{
					DNSNames:   []string{"web.shop.svc", "web.shop.svc.cluster.local"},
					Usages:     []v1alpha1.CertificateUsage{"server auth", "client auth"},
					Key:        pki.KeySpec{Algorithm: v1alpha1.RSA, Size: 2048},
					Encoding:   v1alpha1.PKCS8,
					ServiceUID: tc.uid,
				},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if want, _ := rules.Want(newService(asksOwn), newPolicy()); want.RenewBefore != 0 {
		t.Errorf("by default: renewBefore %s; want 0", want.RenewBefore)
	}
}

// TestCABundle: the bundle is in the Secret where the policy includes it, and never where OpenShift promises two keys.
func TestCABundle(t *testing.T) {
	for _, tc := range []struct {
		name string
		ask  func(*corev1.Service)
		mode v1alpha1.CABundleMode
		want bool
	}{
		{"own", asksOwn, v1alpha1.CABundleInclude, true},
		{"own, omitted", asksOwn, v1alpha1.CABundleOmit, false},
		{"beta", asksBeta, v1alpha1.CABundleInclude, false},
		{"alpha", asksAlpha, v1alpha1.CABundleInclude, false},
		{"both families", func(s *corev1.Service) { asksOwn(s); asksBeta(s) }, v1alpha1.CABundleInclude, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := servedScene(t, func(s *scene) {
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
