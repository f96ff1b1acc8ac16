package controllers_test

import (
	"bytes"
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// An edit of a policy reissues exactly the certificates that it changes, once each.
func TestPolicyEditMovesWhatItChanges(t *testing.T) {
	t.Parallel()
	renewBefore := v1alpha1.Duration("1h")
	type edit = func(*v1alpha1.ServingCertPolicySpec)
	for name, tc := range map[string]struct {
		change edit
		moves  []string
	}{
		"duration":      {func(s *v1alpha1.ServingCertPolicySpec) { s.Certificate.Duration = "100h" }, []string{"plain", "headless"}},
		"key-size":      {func(s *v1alpha1.ServingCertPolicySpec) { s.Certificate.PrivateKey.Size = 384 }, []string{"plain", "headless"}},
		"key-algorithm": {func(s *v1alpha1.ServingCertPolicySpec) { s.Certificate.PrivateKey.Algorithm = v1alpha1.Ed25519 }, []string{"plain", "headless"}},
		"usages": {func(s *v1alpha1.ServingCertPolicySpec) {
			s.Certificate.Usages = append(s.Certificate.Usages, v1alpha1.UsageClientAuth)
		}, []string{"plain", "headless"}},
		"extra-names":     {func(s *v1alpha1.ServingCertPolicySpec) { s.Certificate.ExtraDNSNames = []string{"a.example.org"} }, []string{"plain", "headless"}},
		"cluster-domains": {func(s *v1alpha1.ServingCertPolicySpec) { s.Certificate.ClusterDomains = []string{"corp.example"} }, []string{"plain", "headless"}},
		"one-service-leaves": {func(s *v1alpha1.ServingCertPolicySpec) {
			s.ServiceSelector.MatchLabels = map[string]string{"kind": "plain"}
		}, nil},
		"default-domain":   {func(s *v1alpha1.ServingCertPolicySpec) { s.Certificate.ClusterDomains = []string{"cluster.local"} }, nil},
		"default-key-size": {func(s *v1alpha1.ServingCertPolicySpec) { s.Certificate.PrivateKey.Size = 256 }, nil},
		"same-duration":    {func(s *v1alpha1.ServingCertPolicySpec) { s.Certificate.Duration = "2159h60m" }, nil},
		"renew-before":     {func(s *v1alpha1.ServingCertPolicySpec) { s.Certificate.RenewBefore = &renewBefore }, nil},
		"rotation-policy": {func(s *v1alpha1.ServingCertPolicySpec) {
			s.Certificate.PrivateKey.RotationPolicy = v1alpha1.RotateNever
		}, nil},
		"suffix":   {func(s *v1alpha1.ServingCertPolicySpec) { s.SecretNameSuffix = ".cert" }, nil},
		"priority": {func(s *v1alpha1.ServingCertPolicySpec) { s.Priority = 3 }, nil},
		"restart":  {func(s *v1alpha1.ServingCertPolicySpec) { s.Restart.MaxConcurrent = 5 }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			others := func(p *v1alpha1.ServingCertPolicy) {
				p.Spec.ServiceSelector.MatchLabels = map[string]string{"kind": "other"}
			}
			r := newRealm(t)
			r.besides("-other", 10, others)
			before := map[string]*corev1.Secret{}
			for _, kind := range []string{"plain", "headless", "other"} {
				r.service(kind, withSecretName(kind+"-tls"), func(s *corev1.Service) {
					if s.Labels = map[string]string{"kind": kind}; kind == "headless" {
						s.Spec.ClusterIP = corev1.ClusterIPNone
					}
				})
				before[kind] = r.secret(kind+"-tls", r.issued(kind+"."+r.name+".svc"))
			}
			r.serves(2)
			update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) { tc.change(&p.Spec) })
			for _, kind := range tc.moves {
				was := leaf(t, before[kind])
				before[kind] = r.secret(kind+"-tls", func(secret *corev1.Secret) string {
					if leaf(t, secret).Equal(was) {
						return kind + " has not moved"
					}
					return r.issued(kind + "." + r.name + ".svc")(secret)
				})
			}
			r.report(func(*v1alpha1.ServingCertPolicy) string { return "" }) // of the new generation
			last := r.service("last", withSecretName("last-tls"), func(s *corev1.Service) { s.Labels = map[string]string{"kind": "plain"} })
			r.secret("last-tls", r.issued(last.Name+"."+r.name+".svc"))
			unchanged(t, before["plain"], before["headless"], before["other"])
		})
	}
}

// A change of the encoding rewrites the private keys of Services and of the CA; no certificate is
// reissued, and nothing rotates.
func TestKeyEncoding(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		p.Spec.Certificate.CABundle = v1alpha1.CABundleInclude
	})
	r.service("web", withSecretName("web-tls"))
	before, signer := r.secret("web-tls", r.issued("web."+r.name+".svc")), r.signer()
	for encoding, block := range map[v1alpha1.KeyEncoding]string{v1alpha1.PKCS1: "-----BEGIN EC PRIVATE KEY-----", v1alpha1.PKCS8: "-----BEGIN PRIVATE KEY-----"} {
		update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) { p.Spec.Certificate.PrivateKey.Encoding = encoding })
		update(t, r.ca, func(ca *v1alpha1.ServiceCA) { ca.Spec.Certificate.PrivateKey.Encoding = encoding })
		after := r.secret("web-tls", func(secret *corev1.Secret) string {
			if !bytes.HasPrefix(secret.Data[corev1.TLSPrivateKeyKey], []byte(block)) {
				return "the key is not " + block
			}
			return r.issued("web." + r.name + ".svc")(secret)
		})
		if !bytes.Equal(after.Data[corev1.TLSCertKey], before.Data[corev1.TLSCertKey]) {
			t.Errorf("the certificate is another with %s", encoding)
		}
		eventually(t, func(context.Context) string {
			if !bytes.HasPrefix(r.signingKey().Data[corev1.TLSPrivateKeyKey], []byte(block)) {
				return "the signing key is not " + block
			}
			return ""
		})
	}
	if !r.signer().Equal(signer) {
		t.Error("the CA is another")
	}
	r.serviceCA(isReady)
	r.serves(1)
}

// When a policy names another ServiceCA, each of its certificates is reissued by that CA once.
func TestPolicyMovesToAnotherServiceCA(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.serviceCA(isReady)
	former := r.ca
	other := r
	other.ca = create(t, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: r.name + "-2"}})
	other.serviceCA(isReady)
	update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) { p.Spec.ServiceCAName = other.ca.Name })
	secret := other.secret("web-tls", other.signedBy(other.signer(), "web."+r.name+".svc"))
	if got := secret.Labels[v1alpha1.LabelServiceCA]; got != other.ca.Name {
		t.Errorf("the Secret is labelled as of ServiceCA %s", got)
	}
	counts := func(count int32) func(*v1alpha1.ServiceCA) string {
		return func(ca *v1alpha1.ServiceCA) string {
			if *activeOf(ca).Certificates != count {
				return "the certificates are not counted where they are"
			}
			return isReady(ca)
		}
	}
	other.serviceCA(counts(1))
	r.ca = former
	r.serviceCA(counts(0))
}
