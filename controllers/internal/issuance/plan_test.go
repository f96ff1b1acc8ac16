package issuance_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// certificateEdit returns an edit of the certificate part of the policy.
func certificateEdit(edit func(*v1alpha1.ServingCertificate)) func(*fixture) {
	return func(s *fixture) { edit(&s.policy.Spec.Certificate) }
}

func duration(value v1alpha1.Duration) func(*fixture) {
	return certificateEdit(func(c *v1alpha1.ServingCertificate) { c.Duration = value })
}

func withAnnotation(edits ...func(*corev1.Service)) func(*fixture) {
	return func(s *fixture) { s.service = newService(edits...) }
}

func data(key string, value []byte) func(*fixture) {
	return func(s *fixture) { s.secret.Data[key] = value }
}

func none(*fixture) {}

func belowRoot(s *fixture) { s.ca = intermediateSigner(s.t, caTemplate("upper"), caTemplate("lower")) }

// TestPlanIssues changes one thing in a new Secret or in its desired state, and checks that the
// plan is to issue.
func TestPlanIssues(t *testing.T) {
	include := certificateEdit(func(c *v1alpha1.ServingCertificate) { c.CABundle = v1alpha1.CABundleInclude })
	for _, tc := range []struct {
		name, reason string
		given, after func(*fixture)
	}{
		{"missing", "there was none", none, func(s *fixture) { s.secret = nil }},
		{"no certificate", "tls.crt is missing", none, func(s *fixture) { delete(s.secret.Data, "tls.crt") }},
		{"a corrupt certificate", "tls.crt holds no readable certificate", none, data("tls.crt", []byte("garbage"))},
		{"half a certificate", "tls.crt holds no readable certificate", none, func(s *fixture) { s.secret.Data["tls.crt"] = s.secret.Data["tls.crt"][:200] }},
		{"no data at all", "tls.crt is missing", none, func(s *fixture) { s.secret.Data = nil }},
		{"no key", "tls.key holds no readable private key", none, func(s *fixture) { delete(s.secret.Data, "tls.key") }},
		{"a corrupt key", "tls.key holds no readable private key", none, data("tls.key", []byte("garbage"))},
		{"another's key", "tls.key is not the private key of tls.crt", none, func(s *fixture) {
			s.secret.Data["tls.key"] = newIssuedFixture(s.t).secret.Data["tls.key"]
		}},
		{"another CA", `it was signed by "signer@`, none, func(s *fixture) { s.ca = newSigner(s.t, s.now.Add(-time.Hour)) }},
		{"another CA of the same name", `it was signed by "signer@`, none, func(s *fixture) { s.ca = newSigner(s.t, now) }},
		{"the chain is missing", "not the CA's chain", belowRoot, func(s *fixture) {
			s.secret.Data["tls.crt"] = pki.Bundle{s.leaf().Certificate}.Encode()
		}},
		{"the chain is broken", "not the CA's chain", belowRoot, func(s *fixture) {
			s.secret.Data["tls.crt"] = pki.Bundle{s.leaf().Certificate, s.ca.CA.Chain[1], s.ca.CA.Chain[0]}.Encode()
		}},
		{"a chain where there is none", "not the CA's chain", none, func(s *fixture) {
			s.secret.Data["tls.crt"] = append(s.secret.Data["tls.crt"], s.ca.Bundle...)
		}},
		{"one name more", "its names are", none, certificateEdit(func(c *v1alpha1.ServingCertificate) { c.ExtraDNSNames = []string{"$(service).org"} })},
		{"one name less", "its names are", certificateEdit(func(c *v1alpha1.ServingCertificate) { c.ExtraDNSNames = []string{"a.org"} }),
			certificateEdit(func(c *v1alpha1.ServingCertificate) { c.ExtraDNSNames = nil })},
		{"another cluster domain", "its names are", none, certificateEdit(func(c *v1alpha1.ServingCertificate) { c.ClusterDomains = []string{"c"} })},
		{"headless now", "its names are", none, func(s *fixture) { headless(s.service) }},
		{"not headless any more", "its names are", withAnnotation(ownAnnotation, headless), withAnnotation(ownAnnotation)},
		{"one usage more", "its key usages", none, certificateEdit(func(c *v1alpha1.ServingCertificate) {
			c.Usages = append(c.Usages, v1alpha1.UsageClientAuth)
		})},
		{"another algorithm", "its key is ECDSA 256, and the policy wants RSA 2048", none, certificateEdit(func(c *v1alpha1.ServingCertificate) {
			c.PrivateKey.Algorithm = v1alpha1.RSA
		})},
		{"another size", "its key is ECDSA 256, and the policy wants ECDSA 521", none, certificateEdit(func(c *v1alpha1.ServingCertificate) {
			c.PrivateKey.Size = 521
		})},
		{"a longer life", "its end was", none, duration("2161h")},
		{"a shorter life", "its end was", none, duration("2159h59m58s")},
		{"a life as long as the CA's", "its end was", none, duration("99999h")},
		{"the owner is gone", "no longer belonged to this Service", none, func(s *fixture) { s.secret.OwnerReferences = nil }},
		{"it was made for a Service that does not want it any more", "no longer belonged to this Service", none, func(s *fixture) {
			s.secret.Labels[v1alpha1.LabelService], s.secret.OwnerReferences = "db", nil
			ownedBy("db", "uid-of-db")(s.secret)
		}},
		{"from the future", "it was not valid before", func(s *fixture) { s.ca = newSigner(s.t, now.Add(-day)) }, func(s *fixture) {
			s.now = s.leaf().NotBefore.Add(-time.Nanosecond)
		}},
		{"the Service was made anew", "no longer belonged to this Service", none, func(s *fixture) { s.service.UID = "uid-of-the-next" }},
		{"the Service was made anew, as on OpenShift", `Service UID "uid-of-web" instead of "uid-of-the-next"`, withAnnotation(betaAnnotation), func(s *fixture) { s.service.UID = "uid-of-the-next" }},
		{"it asks as on OpenShift now", `Service UID "" instead of "uid-of-web"`, none, withAnnotation(betaAnnotation)},
		{"it does not ask as on OpenShift any more", `Service UID "uid-of-web" instead of ""`, withAnnotation(alphaAnnotation), withAnnotation(ownAnnotation)},
		{"corrupt, and the bundle drifted too", "tls.crt is missing", include, func(s *fixture) {
			s.secret.Data, s.ca.Bundle = nil, []byte("new")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newIssuedFixture(t, tc.given)
			tc.after(s)
			plan := s.expect(issuance.Issue)
			if !strings.Contains(plan.IssueReason, tc.reason) {
				t.Errorf("why = %q, want %q", plan.IssueReason, tc.reason)
			}
			if plan.Renewal || !plan.NotAfter.IsZero() || !plan.RenewAt.IsZero() {
				t.Errorf("renewal %v, notAfter %s, renewAt %s; want none of them", plan.Renewal, plan.NotAfter, plan.RenewAt)
			}
			s.execute(plan)
			s.expect(issuance.Keep)
		})
	}
}

// TestPlanRepairs checks that a good certificate is not reissued because of what surrounds it.
func TestPlanRepairs(t *testing.T) {
	include := certificateEdit(func(c *v1alpha1.ServingCertificate) { c.CABundle = v1alpha1.CABundleInclude })
	omit := certificateEdit(func(c *v1alpha1.ServingCertificate) { c.CABundle = v1alpha1.CABundleOmit })
	annotation := func(key, value string) func(*fixture) {
		return func(s *fixture) { s.secret.Annotations[key] = value }
	}
	for _, tc := range []struct {
		name         string
		given, after func(*fixture)
	}{
		{"another label of the Service", none, func(s *fixture) { s.secret.Labels[v1alpha1.LabelService] = "db" }},
		{"no label of the Service, as on OpenShift", withAnnotation(betaAnnotation), func(s *fixture) { delete(s.secret.Labels, v1alpha1.LabelService) }},
		{"no label of the CA", none, func(s *fixture) { delete(s.secret.Labels, v1alpha1.LabelServiceCA) }},
		{"no label at all, as on OpenShift", withAnnotation(alphaAnnotation), func(s *fixture) { s.secret.Labels = nil }},
		{"the ServiceCA is called otherwise", none, func(s *fixture) { s.policy.Spec.ServiceCAName = "other" }},
		{"another bundle is published", include, func(s *fixture) { s.ca.Bundle = append(s.ca.Bundle, newSigner(s.t, now).Bundle...) }},
		{"the bundle was changed", include, data("ca.crt", []byte("changed"))},
		{"the bundle was removed", include, func(s *fixture) { delete(s.secret.Data, "ca.crt") }},
		{"the bundle's hash was changed", include, annotation(v1alpha1.AnnotationCABundleHash, "0")},
		{"the bundle is wanted now", omit, include},
		{"the bundle is not wanted any more", include, omit},
		{"OpenShift's UID was changed", withAnnotation(betaAnnotation), annotation(beta+"originating-service-uid", "0")},
		{"OpenShift's name was removed", withAnnotation(betaAnnotation), func(s *fixture) { delete(s.secret.Annotations, beta+"originating-service-name") }},
		{"OpenShift's expiry was changed", withAnnotation(betaAnnotation), annotation(beta+"expiry", "2001-01-01T00:00:00Z")},
		{"OpenShift's older expiry was removed", withAnnotation(betaAnnotation), func(s *fixture) { delete(s.secret.Annotations, alpha+"expiry") }},
		{"an annotation asks for the bundle", none, annotation(v1alpha1.AnnotationInjectCABundle, "default")},
		{"an annotation asks for the bundle under another key, too", include, func(s *fixture) {
			annotation(v1alpha1.AnnotationInjectCABundle, "default")(s)
			annotation(v1alpha1.AnnotationCABundleKey, "roots.pem")(s)
		}},
		{"another encoding of the key is wanted", none, certificateEdit(func(c *v1alpha1.ServingCertificate) { c.PrivateKey.Encoding = v1alpha1.PKCS1 })},
		{"the key was written in another encoding", none, func(s *fixture) {
			key, err := pki.EncodeKey(s.secret.Data["tls.key"], v1alpha1.PKCS1)
			s.secret.Data["tls.key"] = must(s.t, key, err)
		}},
		{"it was restored without managedFields", none, func(s *fixture) { s.secret.ManagedFields = nil }},
		{"it asks by OpenShift's other family", withAnnotation(betaAnnotation), withAnnotation(alphaAnnotation)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newIssuedFixture(t, tc.given)
			before := s.leaf()
			tc.after(s)
			plan := s.expect(issuance.Repair)
			if plan.Renewal || !plan.NotAfter.Equal(before.NotAfter) || plan.RenewAt.IsZero() {
				t.Errorf("renewal %v, notAfter %s, renewAt %s; want those of the certificate", plan.Renewal, plan.NotAfter, plan.RenewAt)
			}
			s.execute(plan)
			s.expect(issuance.Keep)
			if !s.leaf().Equal(before.Certificate) {
				t.Error("the certificate was made anew")
			}
		})
	}
}

// TestPlanRefuses checks that what the operator cannot do, or must not do, is reported and not
// done.
func TestPlanRefuses(t *testing.T) {
	long := strings.Repeat("a", 64)
	permitted := func(domains ...string) func(*fixture) {
		return func(s *fixture) {
			s.ca = newSigner(s.t, now, func(r *pki.RootSpec) { r.PermittedDNSDomains = domains })
		}
	}
	foreign := func(edits ...func(*corev1.Secret)) func(*fixture) {
		return func(s *fixture) { s.secret = secretOf(edits...) }
	}
	serversOnly := func(s *fixture) {
		s.ca = newSigner(s.t, now, func(r *pki.RootSpec) { r.PermittedUsages = []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth} })
		s.policy.Spec.Certificate.Usages = append(s.policy.Spec.Certificate.Usages, v1alpha1.UsageClientAuth)
	}
	for _, tc := range []struct {
		name, reason, message string
		given                 func(*fixture)
	}{
		{"a usage that the CA does not permit", issuance.ReasonUsageNotPermitted, "does not permit the usage client auth: take it out", serversOnly},
		{"a foreign Secret", issuance.ReasonSecretNotOurs, "Secret web-cert was not made for this Service", foreign()},
		{"a foreign Secret of another type", issuance.ReasonSecretNotOurs, `is of type "Opaque" instead of kubernetes.io/tls`, foreign(func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque })},
		{"ours, without its label", issuance.ReasonSecretNotOurs, "was not made for this Service", foreign(ownedBy("web", "uid-of-web"))},
		{"our label, another's owner", issuance.ReasonSecretNotOurs, "was not made for this Service", foreign(labelled("web"), ownedBy("db", "uid-of-db"))},
		{"ours, of the wrong type", issuance.ReasonSecretNotOurs, `is of type "Opaque" instead of kubernetes.io/tls`, foreign(labelled("web"), func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque })},
		{"no name for a Secret", issuance.ReasonInvalidSecretName, `"Web_Cert" is no name for a Secret`, withAnnotation(annotated(v1alpha1.AnnotationSecretName, "Web_Cert"))},
		{"a path for a name", issuance.ReasonInvalidSecretName, `"../web" is no name`, withAnnotation(annotated(beta+"serving-cert-secret-name", "../web"))},
		{"a long name", issuance.ReasonInvalidSecretName, "is no name for a Secret", withAnnotation(annotated(v1alpha1.AnnotationSecretName, strings.Repeat("a", 254)))},
		{"a long label", issuance.ReasonInvalidDNSName, long + `.org" is no DNS name`, certificateEdit(func(c *v1alpha1.ServingCertificate) { c.ExtraDNSNames = []string{long + ".org"} })},
		{"a long label by substitution", issuance.ReasonInvalidDNSName, "of policy default", func(s *fixture) {
			s.service = newService(ownAnnotation, called("shop", long[:60]))
			s.policy.Spec.Certificate.ExtraDNSNames = []string{"$(service)-$(namespace).org"}
		}},
		{"a long name altogether", issuance.ReasonInvalidDNSName, "is no DNS name", certificateEdit(func(c *v1alpha1.ServingCertificate) {
			c.ExtraDNSNames = []string{strings.Repeat("a.", 126) + "aa"}
		})},
		{"a wildcard inside", issuance.ReasonInvalidDNSName, `"a.*.org" is no DNS name`, certificateEdit(func(c *v1alpha1.ServingCertificate) { c.ExtraDNSNames = []string{"a.*.org"} })},
		{"an empty label", issuance.ReasonInvalidDNSName, `"a..org" is no DNS name`, certificateEdit(func(c *v1alpha1.ServingCertificate) { c.ExtraDNSNames = []string{"a..org"} })},
		{"a name that the CA does not permit", issuance.ReasonNameNotPermitted, "permits only names in svc, and not web.shop.svc.cluster.local", permitted("svc")},
		{"a wildcard that the CA does not permit", issuance.ReasonNameNotPermitted, "and not *.example.org", func(s *fixture) {
			permitted("svc", "cluster.local")(s)
			s.policy.Spec.Certificate.ExtraDNSNames = []string{"*.example.org"}
		}},
		{"a wildcard that takes in what the CA excludes", issuance.ReasonNameNotPermitted, `excludes *.shop.org`, func(s *fixture) {
			s.ca = providedSigner(s.t, func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"secret.shop.org"} })
			s.policy.Spec.Certificate.ExtraDNSNames = []string{"*.shop.org"}
		}},
		{"the API server's own Service", issuance.ReasonNameNotPermitted, "nobody else may answer", withAnnotation(ownAnnotation, called("default", "kubernetes"))},
		{"the CA has ended", issuance.ReasonServiceCANotReady, "ServiceCA default: signer@", func(s *fixture) { s.now = s.ca.CA.Certificate.NotAfter }},
		{"the CA has not begun", issuance.ReasonServiceCANotReady, "is not valid before", func(s *fixture) {
			s.now = s.ca.CA.Certificate.NotBefore.Add(-time.Nanosecond)
		}},
		{"a name that only a CA above permits not", issuance.ReasonNameNotPermitted, `"upper" permits only names in svc`, func(s *fixture) {
			upper := caTemplate("upper", func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"svc"} })
			s.ca = intermediateSigner(s.t, upper, caTemplate("lower"))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t, tc.given)
			plan := s.plan()
			if plan.Action != issuance.Refuse || plan.Problem == nil {
				t.Fatalf("the plan is %s, obstacle %v; want a refusal", plan.Action, plan.Problem)
			}
			if plan.Problem.Reason != tc.reason || !strings.Contains(plan.Problem.Message, tc.message) {
				t.Errorf("obstacle = %s, want %s: … %s", plan.Problem, tc.reason, tc.message)
			}
			if !plan.NotAfter.IsZero() || !plan.RenewAt.IsZero() {
				t.Errorf("notAfter %s, renewAt %s; want none", plan.NotAfter, plan.RenewAt)
			}
		})
	}
}

// TestUsableLeaf checks that a certificate is usable as long as clients accept it, even when a
// different one is desired. It is not usable without its key, outside of its validity, under
// another name, or when another CA issued it.
func TestUsableLeaf(t *testing.T) {
	pool := func(of *signer) *x509.CertPool {
		roots := x509.NewCertPool()
		roots.AddCert(of.CA.Certificate)
		return roots
	}
	s := newIssuedFixture(t)
	s.ca.Roots = pool(s.ca)
	s.policy.Spec.Certificate.PrivateKey.Algorithm = v1alpha1.RSA
	if plan := s.plan(); plan.Action != issuance.Issue {
		t.Fatalf("the plan is %+v: another certificate is wanted", plan)
	}
	keyless := s.digest().DeepCopy() // Digests share their data.
	keyless.StringData["tls.key"] = "it has no key"
	notAfter, host := issuance.NotAfter(s.digest()), "web.shop.svc"
	for name, tc := range map[string]struct {
		at     time.Time
		secret *corev1.Secret
		roots  *x509.CertPool
		name   string
		want   bool
	}{
		"now":             {now, s.digest(), s.ca.Roots, host, true},
		"before its end":  {notAfter.Add(-time.Second), s.digest(), s.ca.Roots, host, true},
		"at its end":      {notAfter, s.digest(), s.ca.Roots, host, false},
		"before its time": {now.Add(-day), s.digest(), s.ca.Roots, host, false},
		"no Secret":       {now, nil, s.ca.Roots, host, false},
		"no key":          {now, keyless, s.ca.Roots, host, false},
		"another root":    {now, s.digest(), pool(newSigner(t, now)), host, false},
		"no root":         {now, s.digest(), nil, host, false},
		"another name":    {now, s.digest(), s.ca.Roots, "api.shop.svc", false},
	} {
		t.Run(name, func(t *testing.T) {
			desired := issuance.Desired{Leaf: pki.LeafSpec{DNSNames: []string{tc.name, "more.example.org"}}}
			if got := desired.UsableLeaf(tc.at, tc.secret, &issuance.CA{Roots: tc.roots}); (got != nil) != tc.want {
				t.Errorf("it serves: %t, want %t", got != nil, tc.want)
			}
		})
	}
}
