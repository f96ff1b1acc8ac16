package controllers_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// A key that a tenant puts in place before its Service exists is never certified, not even where
// the policy keeps keys.
func TestPlantedKeyIsNotCertified(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		p.Spec.Certificate.PrivateKey.RotationPolicy = v1alpha1.RotateNever
	})
	planted := generateCA(t, "Mallory", nil)
	create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "web-tls", Labels: map[string]string{v1alpha1.LabelService: "web", v1alpha1.LabelServiceCA: r.ca.Name}},
		Type:       corev1.SecretTypeTLS, Data: planted.data(t),
	})
	r.service("web", withSecretName("web-tls"))
	secret := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	if sameKey(leaf(t, secret), planted.certificate) {
		t.Error("the planted key was certified")
	}
	// From then on the key is one that the operator generated, and is kept.
	update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) { p.Spec.Certificate.Duration = "100h" })
	renewed := r.secret("web-tls", func(s *corev1.Secret) string {
		if s.ResourceVersion == secret.ResourceVersion {
			return "the certificate is that of before"
		}
		return r.issued("web." + r.name + ".svc")(s)
	})
	if !sameKey(leaf(t, renewed), leaf(t, secret)) {
		t.Error("the key was not kept")
	}
}

// Nor does the operator keep a key that a tenant later puts into the Secret of its Service, with a
// certificate of the tenant's own. No key is kept through a compromise, when an attacker may have
// signed the certificate beside it.
func TestPlantedKeyIsNotKept(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		p.Spec.Certificate.PrivateKey.RotationPolicy = v1alpha1.RotateNever
	})
	r.service("web", withSecretName("web-tls"))
	secret := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	planted := generateCA(t, "Mallory", nil)
	update(t, secret, func(s *corev1.Secret) { s.Data = planted.data(t) })
	r.anotherKey("web-tls", planted.certificate)
	genuine := leaf(t, r.secret("web-tls", r.issued("web."+r.name+".svc")))
	update(t, r.ca, func(ca *v1alpha1.ServiceCA) {
		ca.Spec.Rotation.Trigger, ca.Spec.Rotation.TriggerReason = "stolen", v1alpha1.TriggerCompromise
	})
	r.anotherKey("web-tls", genuine)
}

// anotherKey waits until a Secret has a valid certificate with a key other than that of before.
func (r realm) anotherKey(name string, before *x509.Certificate) {
	r.Helper()
	r.secret(name, func(secret *corev1.Secret) string {
		if now := leaf(r.T, secret); now.Equal(before) {
			return "the certificate is that of before"
		} else if sameKey(now, before) {
			r.Fatalf("the key of %s was certified anew", before.Subject)
		}
		return r.issued("web." + r.name + ".svc")(secret)
	})
}

// A Secret that another controller created for a Service, and that is garbage-collected with it,
// has no label of the operator's: the operator leaves it alone, above all under a policy that
// selects every Service.
func TestSecretOfAnotherControllerIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := newRealm(t, issueAll, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		p.Spec.ServiceSelector.MatchLabels = map[string]string{"served": "yes"}
	})
	service := r.service("web", nil)
	foreign := r.foreign("web-tls", func(s *corev1.Secret) {
		s.Type, s.Data = corev1.SecretTypeTLS, generateCA(t, "Theirs", nil).data(t)
		s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: service.Name, UID: service.UID}}
	})
	update(t, service, func(s *corev1.Service) { s.Labels = map[string]string{"served": "yes"} })
	r.policyReports("SecretNotOurs", "web")
	r.expectError("web", "SecretNotOurs: ", "Secret web-tls was not made for this Service")
	// Nor does the operator delete it when the policy changes the name of the Secret.
	update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) { p.Spec.SecretNameSuffix = "-cert" })
	r.secret("web-cert", r.issued("web."+r.name+".svc"))
	r.expectError("web")
	r.serves(1)
	unchanged(t, foreign)
}

// A key of hundreds of kilobytes is replaced without being parsed, and delays no other Service.
func TestOversizedKeyIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	service := r.service("web", withSecretName("web-tls"))
	secret := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	update(t, secret, func(s *corev1.Secret) {
		s.Data[corev1.TLSPrivateKeyKey] = pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: bytes.Repeat([]byte{0x30}, 500<<10)})
	})
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	event(t, service, corev1.EventTypeNormal, "Reissued", "tls.key is longer than")
	r.serves(1)
}

// A tenant gets no certificate for the API server's own name by annotating its Service.
func TestAPIServerServiceIsRefused(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		p.Spec.NamespaceSelector.MatchLabels[corev1.LabelMetadataName] = metav1.NamespaceDefault
		p.Spec.ServiceSelector.MatchLabels = map[string]string{"component": "apiserver"}
		p.Spec.Priority = 100
	})
	name := r.name
	r.name = metav1.NamespaceDefault
	service := reload(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "kubernetes"}})
	ask := func(annotations map[string]string) {
		update(t, service, func(s *corev1.Service) { s.Annotations = annotations })
	}
	defer ask(nil)
	for _, annotations := range []map[string]string{withSecretName(name), {beta + "serving-cert-secret-name": name}} {
		ask(annotations)
		r.expectError("kubernetes", "NameNotPermitted: ", "API server's own Service")
		r.policyReports("NameNotPermitted", "kubernetes")
		r.absent(name)
	}
	ask(nil)
	r.policyReports("")
	r.absent(name)
}

// The operator backs off from a client that removes the bundle as often as it is written, and
// delays nothing else.
func TestConfigMapConflictBacksOff(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	fought := r.injected("fought")
	const burst = 5
	for range burst {
		r.carries(fought)
		update(t, fought, func(c *corev1.ConfigMap) { c.Data = nil })
	}
	errorOn(t, fought, "Overwritten: ")
	r.settle()
	r.settle()
	unchanged(t, fought)
}
