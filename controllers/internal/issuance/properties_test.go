package issuance_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// genService draws a Service that requests a certificate by one of the families, or not at all.
func genService(t *rapid.T) *corev1.Service {
	name := rapid.StringMatching(`[a-z]([-a-z0-9]{0,61}[a-z0-9])?`)
	service := newService(called(name.Draw(t, "namespace"), name.Draw(t, "service")))
	if rapid.Bool().Draw(t, "headless") {
		headless(service)
	}
	for _, ask := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"own", "beta", "alpha"}), 0, 3, rapid.ID).Draw(t, "asks by") {
		map[string]func(*corev1.Service){"own": ownAnnotation, "beta": betaAnnotation, "alpha": alphaAnnotation}[ask](service)
	}
	return service
}

func genDuration(t *rapid.T, label string, shortest, longest time.Duration) v1alpha1.Duration {
	drawn := time.Duration(rapid.Int64Range(int64(shortest), int64(longest)).Draw(t, label))
	return v1alpha1.Duration(drawn.Truncate(time.Millisecond).String())
}

// genPolicy draws a policy that selects every Service, within what the API admits.
func genPolicy(t *rapid.T) *v1alpha1.ServingCertPolicy {
	return newPolicy(issueAll, func(s *v1alpha1.ServingCertPolicySpec) {
		c := &s.Certificate
		c.Duration = genDuration(t, "duration", time.Minute, 3*365*day)
		if rapid.Bool().Draw(t, "renewBefore is set") {
			value := genDuration(t, "renewBefore", time.Second, c.Duration.Std()-2*time.Second)
			c.RenewBefore = &value
		}
		c.PrivateKey.PrivateKey = rapid.SampledFrom([]v1alpha1.PrivateKey{
			{}, {Algorithm: v1alpha1.Ed25519}, {Algorithm: v1alpha1.ECDSA, Size: 384}}).Draw(t, "key")
		c.PrivateKey.RotationPolicy = rapid.SampledFrom([]v1alpha1.RotationPolicy{v1alpha1.RotateAlways, v1alpha1.RotateNever}).Draw(t, "rotation")
		c.Usages = rapid.Permutation([]v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth, v1alpha1.UsageClientAuth}).Draw(t, "usages")
		c.ClusterDomains = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"cluster.local", "c", "blue.example.org"}), 0, 3, rapid.ID).Draw(t, "domains")
		c.ExtraDNSNames = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{
			"$(service).example.org", "*.$(namespace).org", "fixed.org", "$(service).$(namespace).svc"}), 0, 3, rapid.ID).Draw(t, "extra")
		c.CABundle = rapid.SampledFrom([]v1alpha1.CABundleMode{v1alpha1.CABundleOmit, v1alpha1.CABundleInclude}).Draw(t, "bundle")
	})
}

// genCA draws a CA that, at now, has lived a part of its lifetime.
func genCA(t *rapid.T) *signer {
	if rapid.IntRange(0, 3).Draw(t, "is an intermediate") == 0 {
		return intermediateSigner(t, caTemplate("upper"), caTemplate("lower", func(c *x509.Certificate) {
			c.NotAfter = now.Add(time.Duration(rapid.Int64Range(int64(time.Minute), int64(900*day)).Draw(t, "left")))
		}))
	}
	left := time.Duration(rapid.Int64Range(int64(time.Second), int64(5*365*day)).Draw(t, "left"))
	age := time.Duration(rapid.Int64Range(0, int64(5*365*day)).Draw(t, "age"))
	return newSigner(t, now.Add(-age), func(r *pki.RootSpec) { r.Duration = age + left })
}

// TestFixpoint checks that executing a plan leaves nothing more to do, and that a client verifies
// the certificate by every name.
func TestFixpoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newFixture(t, func(s *fixture) { s.service, s.policy, s.ca = genService(t), genPolicy(t), genCA(t) })
		first := s.expect(issuance.Issue)
		s.execute(first)
		kept := s.expect(issuance.Keep)
		if !kept.NotAfter.Equal(s.leaf().NotAfter) {
			t.Errorf("notAfter = %s, and the certificate's is %s", kept.NotAfter, s.leaf().NotAfter)
		}
		// After it has issued the certificate, the first plan equals a new one.
		first.RecordIssued(s.leaf(), &s.ca.CA)
		if !first.NotAfter.Equal(kept.NotAfter) || !first.RenewAt.Equal(kept.RenewAt) || first.SignedBy != kept.SignedBy {
			t.Errorf("carried out: %v, %v, %q; a second look: %v, %v, %q",
				first.NotAfter, first.RenewAt, first.SignedBy, kept.NotAfter, kept.RenewAt, kept.SignedBy)
		}
		s.expectUntilDue(kept)
		if unexpected := s.desired().UnexpectedKeys(s.digest()); len(unexpected) > 0 {
			t.Errorf("what was just made holds the surplus keys %v", unexpected)
		}
		for _, name := range first.Desired.Leaf.DNSNames {
			if err := s.verify(strings.Replace(name, "*", "pod-0", 1)); err != nil {
				t.Errorf("as %s: %v", name, err)
			}
		}
		damage := rapid.SampledFrom([]func(*fixture){
			func(s *fixture) { s.secret = nil }, func(s *fixture) { s.secret.Labels = nil }, func(s *fixture) { s.secret.Annotations = nil },
			func(s *fixture) { s.secret.OwnerReferences = nil }, func(s *fixture) { s.secret.Data = nil },
			func(s *fixture) { s.policy = genPolicy(t) }, func(s *fixture) { s.ca = genCA(t) }, func(s *fixture) { s.ca.Bundle = []byte("new") },
			func(s *fixture) { s.secret.Data["tls.key"] = nil }, func(s *fixture) { s.secret.Data["ca.crt"] = nil },
			func(s *fixture) { s.secret.ManagedFields = nil },
		})
		for _, change := range rapid.SliceOfN(damage, 1, 3).Draw(t, "damage") {
			if s.secret != nil && s.secret.Data != nil {
				change(s)
			}
		}
		if s.secret != nil && s.secret.Labels == nil && (s.secret.ManagedFields == nil || s.secret.OwnerReferences == nil) && s.secret.Annotations[string(s.desired().Family)+"/originating-service-uid"] == "" {
			// Nothing in the Secret says any more that it is ours.
			if plan := s.plan(); plan.Action != issuance.Refuse {
				t.Errorf("what is not ours is touched: %s because %q", plan.Action, plan.IssueReason)
			}
			return
		}
		s.execute(s.plan())
		s.expect(issuance.Keep)
	})
}

// expectUntilDue advances the clock to just before something is due, and checks that the plan does
// not change.
func (f *fixture) expectUntilDue(kept issuance.Plan) {
	f.t.Helper()
	before, due := f.now, kept.RenewAt
	if due.IsZero() {
		due = kept.NotAfter
	}
	f.now = before.Add(time.Duration(0.999 * float64(due.Sub(before))))
	if later := f.expect(issuance.Keep); !later.NotAfter.Equal(kept.NotAfter) || !later.RenewAt.Equal(kept.RenewAt) {
		f.t.Errorf("at first: %v, %v; when it is nearly due: %v, %v", kept.NotAfter, kept.RenewAt, later.NotAfter, later.RenewAt)
	}
	f.now = before
}

// verify verifies the certificate as a client with the bundle does.
func (f *fixture) verify(host string) error {
	f.t.Helper()
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(f.ca.Bundle)
	intermediates.AppendCertsFromPEM(f.secret.Data["tls.crt"])
	_, err := f.leaf().Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: f.now, DNSName: host})
	return err
}

// TestPlanKeeps checks that changes that do not concern the certificate leave it alone.
func TestPlanKeeps(t *testing.T) {
	spec := func(edit func(*v1alpha1.ServingCertPolicySpec)) func(*fixture) {
		return func(s *fixture) { edit(&s.policy.Spec) }
	}
	for _, tc := range []struct {
		name  string
		after func(*fixture)
	}{
		{"nothing", none},
		{"another priority", spec(func(p *v1alpha1.ServingCertPolicySpec) { p.Priority = 7 })},
		{"other selectors", spec(func(p *v1alpha1.ServingCertPolicySpec) {
			p.NamespaceSelector.MatchLabels, p.ServiceSelector.MatchLabels = map[string]string{"a": "b"}, map[string]string{"c": "d"}
		})},
		{"restarts", spec(func(p *v1alpha1.ServingCertPolicySpec) { p.Restart.Strategy = v1alpha1.RollingRestart })},
		{"every Service is served", spec(issueAll)},
		{"another suffix", spec(func(p *v1alpha1.ServingCertPolicySpec) { p.SecretNameSuffix = "-cert" })},
		{"the policy is called otherwise", func(s *fixture) { s.policy.Name = "other" }},
		{"renewed later", renewBefore("1h")},
		{"the key is kept", certificateEdit(func(c *v1alpha1.ServingCertificate) { c.PrivateKey.RotationPolicy = v1alpha1.RotateNever })},
		{"the default encoding of the key by its name", certificateEdit(func(c *v1alpha1.ServingCertificate) { c.PrivateKey.Encoding = v1alpha1.PKCS8 })},
		{"the default size of the key by its name", certificateEdit(func(c *v1alpha1.ServingCertificate) { c.PrivateKey.Size = 256 })},
		{"the default cluster domain by its name", certificateEdit(func(c *v1alpha1.ServingCertificate) { c.ClusterDomains = []string{"cluster.local"} })},
		{"an extra name that it has", certificateEdit(func(c *v1alpha1.ServingCertificate) { c.ExtraDNSNames = []string{"$(service).$(namespace).svc"} })},
		{"the same duration in other units", duration("129600m")},
		{"a bundle that it does not carry", func(s *fixture) { s.ca.Bundle = []byte("new") }},
		{"labels and annotations of others", func(s *fixture) {
			s.secret.Labels["app"], s.secret.Annotations = "web", map[string]string{"note": "x"}
		}},
		{"a key of others", data("keystore.jks", []byte("x"))},
		{"an owner more", func(s *fixture) { ownedBy("db", "uid-of-db")(s.secret) }},
		{"labels of the Service", func(s *fixture) { s.service.Labels = map[string]string{"app": "web"} }},
		{"the Service asks by OpenShift's annotation too", func(s *fixture) { betaAnnotation(s.service) }},
		{"another address of the Service", func(s *fixture) { s.service.Spec.ClusterIP = "10.0.0.2" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newIssuedFixture(t)
			tc.after(s)
			s.expect(issuance.Keep)
		})
	}
}

// TestPlanOverYears simulates years with a controller that is always late: the Service has a
// certificate at every instant, and no more certificates are issued than its lifetime and the CA
// rotations require.
func TestPlanOverYears(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newFixture(t, func(s *fixture) { s.service, s.policy = genService(t), genPolicy(t) })
		s.policy.Spec.Certificate.PrivateKey = v1alpha1.ServingPrivateKey{}
		s.policy.Spec.Certificate.Duration = genDuration(t, "duration", time.Hour, 400*day)
		if s.policy.Spec.Certificate.RenewBefore != nil {
			*s.policy.Spec.Certificate.RenewBefore = genDuration(t, "renewBefore", time.Minute, s.policy.Spec.Certificate.Duration.Std()*9/10)
		}
		lifetime := time.Duration(rapid.Int64Range(int64(2*time.Hour), int64(5*365*day)).Draw(t, "CA lifetime"))
		rotateBefore := time.Duration(rapid.Int64Range(int64(lifetime/10), int64(lifetime*9/10)).Draw(t, "rotateBefore"))
		s.ca = newSigner(t, s.now, func(r *pki.RootSpec) { r.Duration = lifetime })
		rotation, generations, issued := s.now.Add(lifetime-rotateBefore), 1, 1
		s.execute(s.expect(issuance.Issue))
		for range 20 {
			plan, leaf := s.expect(issuance.Keep), s.leaf()
			due := rotation
			if !plan.RenewAt.IsZero() && plan.RenewAt.Before(rotation) {
				due = plan.RenewAt
			}
			if before := due.Add(-time.Nanosecond); before.After(s.now) {
				s.now = before
				s.expect(issuance.Keep)
			}
			s.now = due.Add(time.Duration(rapid.Int64Range(0, int64(leaf.NotAfter.Sub(due))-1).Draw(t, "late by")))
			if s.now.Before(leaf.NotBefore) || !s.now.Before(leaf.NotAfter) {
				t.Fatalf("at %s the certificate is valid from %s to %s", s.now, leaf.NotBefore, leaf.NotAfter)
			}
			if !s.now.Before(rotation) {
				s.ca = newSigner(t, s.now, func(r *pki.RootSpec) { r.Duration = lifetime })
				rotation = s.now.Add(lifetime - rotateBefore)
				generations++
			}
			s.execute(s.expect(issuance.Issue))
			issued++
		}
		desired := s.desired()
		before := desired.RenewBefore
		if before == 0 {
			before = desired.Duration / 3
		}
		shortest := (desired.Duration - before - time.Second) * 9 / 10
		if most := generations + 1 + int(s.now.Sub(now)/shortest); issued > most {
			t.Errorf("%d certificates in %s under %d CAs, want at most %d", issued, s.now.Sub(now), generations, most)
		}
	})
}
