package controllers_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// The certificate of a headless Service is also valid for each of its pods, by a wildcard of one
// label.
func TestCertificateOfHeadlessService(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		p.Spec.Certificate.ClusterDomains = []string{"cluster.local", "corp.example"}
	})
	r.service("db", withSecretName("db-tls"), func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })
	host := "db." + r.name + ".svc"
	secret := r.secret("db-tls", r.issued(host, host+".cluster.local", host+".corp.example",
		"db-0."+host, "db-0."+host+".cluster.local", "db-1."+host+".corp.example"))
	if names := leaf(t, secret).DNSNames; len(names) != 6 {
		t.Errorf("the names are %v", names)
	}
	r.handshake(secret, "db-0."+host)
	for _, name := range []string{"a.b." + host, r.name + ".svc", "other." + r.name + ".svc", "db-0." + r.name + ".svc"} {
		if r.shakeHands(secret, name) == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// A Service that is created again with another kind of clusterIP gets the names of that kind.
func TestCertificateOfServiceThatTurnsHeadless(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	host := "db." + r.name + ".svc"
	service := r.service("db", withSecretName("db-tls"))
	plain := r.secret("db-tls", r.issued(host))
	if err := x509HostError(t, plain, "db-0."+host); err == nil {
		t.Error("a Service with an address has a wildcard")
	}
	remove(t, service)
	r.service("db", withSecretName("db-tls"), func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })
	r.secret("db-tls", r.issued(host, "db-0."+host))
}

func x509HostError(t *testing.T, secret *corev1.Secret, name string) error {
	t.Helper()
	return leaf(t, secret).VerifyHostname(name)
}

// With the longest names that Kubernetes allows, the common name is left out, the subject
// alternative names are critical, and a client verifies the certificate.
func TestCertificateOfLongNames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 63-5) + "-" + strings.ToLower(realmName(t)[:4])
	service := strings.Repeat("s", 63)
	r := newRealmIn(t, kube, long, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) { p.Spec.Issuance = v1alpha1.IssueAll })
	r.service(service, nil, func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })
	host := service + "." + long + ".svc"
	secret := r.secret(service+"-tls", r.issued(host, host+".cluster.local", strings.Repeat("p", 63)+"."+host))
	certificate := leaf(t, secret)
	if certificate.Subject.CommonName != "" {
		t.Errorf("the common name is %q", certificate.Subject.CommonName)
	}
	for _, extension := range certificate.Extensions {
		if extension.Id.String() == "2.5.29.17" && !extension.Critical {
			t.Error("the alternative names are not critical beside an empty subject (RFC 5280 §4.2.1.6)")
		}
	}
	r.handshake(secret, host)
	if got := secret.Labels[v1alpha1.LabelService]; got != service {
		t.Errorf("the label is %q", got)
	}
}

// Certificates have the properties that the policy specifies.
func TestCertificateAsThePolicySays(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		p.Spec.Certificate = v1alpha1.ServingCertificate{
			Duration:      "10h",
			Usages:        []v1alpha1.CertificateUsage{v1alpha1.UsageClientAuth, v1alpha1.UsageServerAuth},
			PrivateKey:    v1alpha1.ServingPrivateKey{PrivateKey: v1alpha1.PrivateKey{Algorithm: v1alpha1.RSA, Size: 2048}},
			ExtraDNSNames: []string{"$(service).$(namespace).example.org", "*.$(service).example.org", "fixed.example.org"},
		}
	})
	service := r.service("web", withSecretName("web-tls"))
	host := "web." + r.name + ".svc"
	secret := r.secret("web-tls", r.issued(host, host+".cluster.local", "web."+r.name+".example.org", "any.web.example.org", "fixed.example.org"))
	certificate := leaf(t, secret)
	if lifetime := certificate.NotAfter.Sub(certificate.NotBefore); lifetime < 10*time.Hour || lifetime > 10*time.Hour+6*time.Minute {
		t.Errorf("it lives %s", lifetime)
	}
	slices.Sort(certificate.ExtKeyUsage)
	if !slices.Equal(certificate.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) ||
		certificate.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment || certificate.IsCA {
		t.Errorf("its usages are %v and %v", certificate.KeyUsage, certificate.ExtKeyUsage)
	}
	if certificate.Subject.CommonName != host || len(certificate.DNSNames) != 5 || certificate.SerialNumber.BitLen() < 100 {
		t.Errorf("its subject is %s, its names %v, its serial %s", certificate.Subject, certificate.DNSNames, certificate.SerialNumber)
	}
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Service", Name: "web", UID: service.UID}
	if secret.Type != corev1.SecretTypeTLS || len(secret.Data) != 2 || len(secret.OwnerReferences) != 1 || secret.OwnerReferences[0] != owner {
		t.Errorf("the Secret is of type %s, with %d keys, owned by %v", secret.Type, len(secret.Data), secret.OwnerReferences)
	}
	if len(secret.Labels) != 2 || secret.Labels[v1alpha1.LabelService] != "web" || secret.Labels[v1alpha1.LabelServiceCA] != r.name {
		t.Errorf("the Secret is labelled %v", secret.Labels)
	}
	event(t, service, corev1.EventTypeNormal, "Issued", "Secret web-tls", r.signer().Subject.CommonName, certificate.NotAfter.UTC().Format(time.RFC3339))
	r.handshake(secret, "fixed.example.org")
}

// An extra name that is too long for this Service is reported, and Services with shorter names are
// not affected.
func TestCertificateWithImpossibleName(t *testing.T) {
	t.Parallel()
	label := strings.Repeat("l", 63)
	rest := strings.Join([]string{label, label, label}, ".")
	r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		p.Spec.Certificate.ExtraDNSNames = []string{"$(service)." + rest}
	})
	r.service("web", withSecretName("web-tls"))
	long := strings.Repeat("w", 63)
	r.service(long, withSecretName("long-tls"))
	r.secret("web-tls", r.issued("web."+rest))
	service := r.expectError(long, "InvalidDNSName: ", "at most 63", "extraDNSNames of policy "+r.policy.Name)
	event(t, service, corev1.EventTypeWarning, "InvalidDNSName", "at most 63")
	r.policyReports("InvalidDNSName", long)
	r.absent("long-tls")
}

func TestCertificateInImpossibleSecret(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	for i, name := range []string{"Upper", "../up", "a b", strings.Repeat("x", 254), "-x"} {
		service := r.service(fmt.Sprintf("web-%d", i), withSecretName(name))
		r.expectError(service.Name, "InvalidSecretName: ")
	}
	r.policyReports("InvalidSecretName", "web-0", "web-1", "web-2", "web-3", "web-4")
}

// ca.crt follows the bundle, and never causes a reissue.
func TestCertificateWithBundle(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	first := leaf(t, r.secret("web-tls", r.issued("web."+r.name+".svc")))
	include := func(mode v1alpha1.CABundleMode) {
		update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) { p.Spec.Certificate.CABundle = mode })
	}
	carries := func(secret *corev1.Secret) string {
		bundle, err := r.bundle(context.Background())
		if err != nil || string(secret.Data["ca.crt"]) != bundle || len(secret.Data) != 3 {
			return fmt.Sprintf("ca.crt is not the bundle: %v", err)
		}
		return r.issued("web." + r.name + ".svc")(secret)
	}
	include(v1alpha1.CABundleInclude)
	if secret := r.secret("web-tls", carries); !leaf(t, secret).Equal(first) {
		t.Error("ca.crt came with a new certificate")
	}
	// The bundle grows without a new CA.
	other := generateCA(t, "Besides", nil)
	update(t, r.signingKey(), func(s *corev1.Secret) { s.Data["ca-bundle.crt"] = append(s.Data["ca-bundle.crt"], other.pem()...) })
	r.trusts(r.signer(), other.certificate)
	if secret := r.secret("web-tls", carries); !leaf(t, secret).Equal(first) {
		t.Error("another bundle came with a new certificate")
	}
	// The operator reverts manual changes.
	secret := r.secret("web-tls", carries)
	update(t, secret, func(s *corev1.Secret) { s.Data["ca.crt"] = []byte("what?") })
	r.secret("web-tls", carries)
	update(t, secret, func(s *corev1.Secret) { delete(s.Data, "ca.crt") })
	r.secret("web-tls", carries)
	include(v1alpha1.CABundleOmit)
	secret = r.secret("web-tls", func(secret *corev1.Secret) string {
		if _, has := secret.Data["ca.crt"]; has || secret.Annotations[v1alpha1.AnnotationCABundleHash] != "" {
			return "ca.crt is still there"
		}
		return r.issued("web." + r.name + ".svc")(secret)
	})
	if !leaf(t, secret).Equal(first) {
		t.Error("leaving ca.crt out came with a new certificate")
	}
}

// Keys that other clients add to a Secret of the operator's stay there over every reissue.
func TestCertificateKeepsKeysOfOthers(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	secret := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	first := leaf(t, secret)
	update(t, secret, func(s *corev1.Secret) {
		s.Labels["team"], s.Annotations, s.Data["keystore.p12"] = "web", map[string]string{"note": "ours"}, []byte("theirs")
	})
	unchangedBy := func(secret *corev1.Secret) string {
		if secret.Labels["team"] != "web" || secret.Annotations["note"] != "ours" || string(secret.Data["keystore.p12"]) != "theirs" {
			return "what others wrote has gone"
		}
		return r.issued("web." + r.name + ".svc")(secret)
	}
	update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) { p.Spec.Certificate.Duration = "100h" })
	r.secret("web-tls", func(secret *corev1.Secret) string {
		if leaf(t, secret).Equal(first) {
			return "there is no new certificate"
		}
		return unchangedBy(secret)
	})
}
