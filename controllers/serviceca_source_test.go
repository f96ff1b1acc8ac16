package controllers_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// createSourceSecret creates the Secret of a source, or replaces its data.
func createSourceSecret(t *testing.T, name string, data map[string][]byte) {
	t.Helper()
	secret := &corev1.Secret{ObjectMeta: inOperatorNamespace(name), Type: corev1.SecretTypeTLS, Data: data}
	if uidOf(t, &corev1.Secret{ObjectMeta: secret.ObjectMeta}) == "" {
		create(t, secret)
		return
	}
	update(t, secret, func(s *corev1.Secret) { s.Data = data })
}

// with returns a copy of data with another value under a key; nil removes the key.
func with(data map[string][]byte, key string, value []byte) map[string][]byte {
	data = maps.Clone(data)
	data[key] = value
	if value == nil {
		delete(data, key)
	}
	return data
}

func TestSourceSecret(t *testing.T) {
	t.Parallel()
	own := generateCA(t, "Corp Root", nil)
	r := newRealm(t, withSourceSecret("corp-"+realmName(t)))
	createSourceSecret(t, "corp-"+r.name, own.data(t))
	ca := r.serviceCA(isReady)
	if got, want := activeOf(ca).SubjectKeyID, hex.EncodeToString(own.certificate.SubjectKeyId); got != want {
		t.Errorf("subject key id %s signs, want %s", got, want)
	}
	r.trusts(own.certificate)
	r.service("web", withSecretName("web-tls"))
	r.handshake(r.secret("web-tls", r.signedBy(own.certificate)), "web."+r.name+".svc")
	if got := r.signingKey().Annotations[v1alpha1.AnnotationSource]; got != "secret/corp-"+r.name {
		t.Errorf("the signing key says it came from %q", got)
	}
}

// An intermediate CA signs, its chain is part of each certificate, and only its root is trusted.
func TestSourceSecretIntermediate(t *testing.T) {
	t.Parallel()
	root := generateCA(t, "Corp Root", nil)
	policy := generateCA(t, "Corp Policy", root)
	issuing := generateCA(t, "Corp Issuing", policy)
	r := newRealm(t, withSourceSecret("corp-"+realmName(t)))
	createSourceSecret(t, "corp-"+r.name, with(issuing.data(t, policy), "ca.crt", root.pem()))
	r.service("web", withSecretName("web-tls"))
	secret := r.secret("web-tls", r.signedBy(issuing.certificate))
	if chain := parse(t, secret.Data[corev1.TLSCertKey]); len(chain) != 3 || !chain[1].Equal(issuing.certificate) || !chain[2].Equal(policy.certificate) {
		t.Errorf("the chain has %d certificates", len(chain))
	}
	r.handshake(secret, "web."+r.name+".svc")
	r.trusts(root.certificate)

	// A renewed intermediate CA often keeps its key.
	renewed := generateCAWith(t, "Corp Issuing", issuing.key, policy)
	createSourceSecret(t, "corp-"+r.name, with(renewed.data(t, policy), "ca.crt", root.pem()))
	r.secret("web-tls", func(secret *corev1.Secret) string {
		if chain := parse(t, secret.Data[corev1.TLSCertKey]); !chain[1].Equal(renewed.certificate) {
			return "the chain has the former intermediate"
		}
		return r.signedBy(renewed.certificate)(secret)
	})
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if want := renewed.certificate.SerialNumber.Text(16); activeOf(ca).SerialNumber != want {
			return "the status names the former intermediate"
		}
		return isReady(ca)
	})

	// So does a renewed CA above it.
	other := generateCAWith(t, "Corp Policy", policy.key, root)
	createSourceSecret(t, "corp-"+r.name, with(renewed.data(t, other), "ca.crt", root.pem()))
	eventually(t, func(context.Context) string {
		if chain := parse(t, r.signingKey().Data[corev1.TLSCertKey]); !chain[1].Equal(other.certificate) {
			return "the signing key has the former policy CA"
		}
		return ""
	})
	r.service("late", withSecretName("late-tls"))
	late := r.secret("late-tls", r.signedBy(renewed.certificate))
	if chain := parse(t, late.Data[corev1.TLSCertKey]); !chain[2].Equal(other.certificate) {
		t.Error("the chain of a new certificate has the former policy CA")
	}
}

// An invalid source Secret is reported by what is wrong with it and how to fix it; the ServiceCA
// recovers when that is fixed, and not before.
func TestSourceSecretWrong(t *testing.T) {
	t.Parallel()
	root := generateCA(t, "Corp Root", nil)
	good := generateCA(t, "Corp Issuing", root)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	is := func(adjust func(*x509.Certificate)) map[string][]byte {
		return generateCA(t, "Wrong CA", nil, adjust).data(t)
	}
	for name, tc := range map[string]struct {
		data    map[string][]byte
		reason  string
		message []string
	}{
		"missing": {nil, "SourceNotThere", []string{"create it with tls.crt and tls.key"}},
		"no-ca":   {is(func(c *x509.Certificate) { c.IsCA = false; c.SubjectKeyId = []byte{1} }), "SourceInvalid", []string{"tls.crt is no CA", "CA:TRUE"}},
		"no-sign": {is(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), "SourceInvalid", []string{"keyCertSign"}},
		"key-of-another": {with(good.data(t), corev1.TLSPrivateKeyKey, root.keyPEM(t)), "SourceInvalid",
			[]string{"tls.key is not the private key of the certificate in tls.crt"}},
		"key-unreadable": {with(good.data(t), corev1.TLSPrivateKeyKey, []byte("what?")), "SourceInvalid", []string{"tls.key holds no readable private key"}},
		"key-encrypted": {with(good.data(t), corev1.TLSPrivateKeyKey, pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{0}})),
			"SourceInvalid", []string{"tls.key holds a private key that is encrypted", "openssl pkey"}},
		"weak": {generateCAWith(t, "Old Corp CA", weak, nil).data(t), "SourceInvalid",
			[]string{`the key of CA "Old Corp CA" is too weak`, "2048 to 8192 bits, and this one has 1024"}},
		"crt-unreadable": {with(good.data(t), corev1.TLSCertKey, []byte("what?")), "SourceInvalid", []string{"tls.crt holds no readable certificate"}},
		"crt-empty":      {with(good.data(t), corev1.TLSCertKey, []byte{}), "SourceInvalid", []string{"tls.crt is missing"}},
		"expired": {is(func(c *x509.Certificate) { c.NotAfter = time.Date(2025, 2, 3, 4, 5, 6, 0, time.UTC) }), "SourceInvalid",
			[]string{"tls.crt expired 2025-02-03T04:05:06Z"}},
		"not-valid-yet": {is(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), "SourceInvalid", []string{"not valid before"}},
		"no-root":       {good.data(t), "SourceInvalid", []string{"put its root into ca.crt"}},
		"foreign-root":  {with(good.data(t), "ca.crt", generateCA(t, "Corp Root", nil).pem()), "SourceInvalid", []string{"put its root into ca.crt"}},
		"chain-not-in-tls.crt": {with(generateCA(t, "Deep", good).data(t), "ca.crt", good.pem(root)), "SourceInvalid",
			[]string{"the intermediates between them into tls.crt"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := "corp-" + realmName(t)
			if tc.data != nil {
				createSourceSecret(t, source, tc.data)
			}
			r := newRealm(t, withSourceSecret(source))
			r.service("web", withSecretName("web-tls"))
			ca := r.serviceCA(isStalled(tc.reason, append(tc.message, "spec.source.secret", source)...))
			event(t, ca, corev1.EventTypeWarning, tc.reason, tc.message...)
			r.expectError("web", "ServiceCANotReady: ", r.name, tc.message[0])
			r.policyReports("ServiceCANotReady", "web")
			createSourceSecret(t, source, with(good.data(t), "ca.crt", root.pem()))
			r.serviceCA(isReady)
			r.expectError("web")
			r.secret("web-tls", r.signedBy(good.certificate))
		})
	}
}

// A CA whose notBefore is in the future, because the clock was ahead where it was generated,
// becomes usable by itself.
func TestSourceSecretValidSoon(t *testing.T) {
	t.Parallel()
	own := generateCA(t, "Corp Root", nil, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Second) })
	r := newRealm(t, withSourceSecret("corp-"+realmName(t)))
	createSourceSecret(t, "corp-"+r.name, own.data(t))
	r.serviceCA(isStalled("SourceInvalid", "not valid before"))
	r.serviceCA(isReady)
	r.trusts(own.certificate)
}

// The expiry of a CA from a source is reported at once, and so is an error on a Service without a
// certificate; the bundle is never empty.
func TestSourceSecretExpires(t *testing.T) {
	t.Parallel()
	root := generateCA(t, "Corp Root", nil)
	for name, parent := range map[string]*ownCA{"root": nil, "intermediate": root} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRealm(t, withSourceSecret("corp-"+realmName(t)))
			deadline := time.Now().Add(20 * time.Second).Truncate(time.Second)
			signer := generateCA(t, "Short CA", parent, func(c *x509.Certificate) { c.NotAfter = deadline })
			data, trusted := signer.data(t), signer.certificate
			if parent != nil {
				data, trusted = with(data, "ca.crt", parent.pem()), parent.certificate
			}
			createSourceSecret(t, "corp-"+r.name, data)
			r.service("web", withSecretName("web-tls"))
			if certificate := leaf(t, r.secret("web-tls", r.signedBy(signer.certificate))); !certificate.NotAfter.Equal(deadline) {
				t.Errorf("the certificate ends %s, and its CA %s", certificate.NotAfter, deadline)
			}
			r.serviceCA(isStalled("SourceInvalid", "expired"))
			if time.Now().Before(deadline) {
				t.Error("it was said too soon")
			}
			r.trusts(trusted)
			r.service("late", withSecretName("late-tls"))
			r.expectError("late", "ServiceCANotReady: ", "expired")
			next := generateCA(t, "Next Root", nil)
			createSourceSecret(t, "corp-"+r.name, next.data(t))
			r.serviceCA(isReady)
			r.secret("web-tls", r.signedBy(next.certificate))
			r.secret("late-tls", r.signedBy(next.certificate))
			r.expectError("late")
		})
	}
}

// When a source is replaced by another CA, every certificate is reissued, and the predecessor stays
// trusted.
func TestSourceSecretReplaced(t *testing.T) {
	t.Parallel()
	first, second := generateCA(t, "Corp Root", nil), generateCA(t, "Corp Root", nil)
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	selfSigned := r.signer()
	createSourceSecret(t, "corp-"+r.name, first.data(t))
	update(t, r.ca, func(ca *v1alpha1.ServiceCA) { ca.Spec.Source.Secret = &v1alpha1.SecretSource{Name: "corp-" + r.name} })
	r.secret("web-tls", r.signedBy(first.certificate))
	r.trusts(first.certificate, selfSigned)
	createSourceSecret(t, "corp-"+r.name, second.data(t))
	r.secret("web-tls", r.signedBy(second.certificate))
	r.trusts(second.certificate, first.certificate, selfSigned)
	ca := r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if len(ca.Status.Previous) != 2 || ca.Status.Previous[1].Subject != "Corp Root" || ca.Status.TrustBundle.Certificates != 3 {
			return "the CAs before are not shown, the newest first"
		}
		return isReady(ca)
	})
	event(t, ca, corev1.EventTypeNormal, "RotationStarted", "SourceChanged")

	// An invalid successor does not affect the CA that signs.
	createSourceSecret(t, "corp-"+r.name, with(second.data(t), corev1.TLSPrivateKeyKey, first.keyPEM(t)))
	r.serviceCA(isStalled("SourceInvalid", "tls.key is not the private key"))
	r.service("late", withSecretName("late-tls"))
	r.secret("late-tls", r.signedBy(second.certificate))
	r.trusts(second.certificate, first.certificate, selfSigned)
	createSourceSecret(t, "corp-"+r.name, second.data(t))
	r.serviceCA(isReady)
}

func TestSourceCertManager(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(ca *v1alpha1.ServiceCA, _ *v1alpha1.ServingCertPolicy) {
		ca.Spec.Source.CertManager = &v1alpha1.CertManagerSource{IssuerRef: v1alpha1.IssuerReference{Name: "corp"}}
	})
	r.service("web", withSecretName("web-tls"))
	ca := r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		ready := meta.FindStatusCondition(ca.Status.Conditions, v1alpha1.ConditionReady)
		if ready == nil || !strings.Contains(ready.Message, "this cluster has no cert-manager: install it") || kstatus(ca) != inProgress {
			return "nobody is told that there is no cert-manager"
		}
		return ""
	})
	event(t, ca, corev1.EventTypeWarning, "SourceNotThere", "spec.source.certManager")
	r.expectError("web", "ServiceCANotReady: ", "spec.source.certManager")
	for _, object := range []client.Object{
		&corev1.Secret{ObjectMeta: inOperatorNamespace(r.ca.SigningKeySecretName())},
		&corev1.ConfigMap{ObjectMeta: inOperatorNamespace(r.ca.TrustBundleConfigMapName())},
	} {
		if uidOf(t, object) != "" {
			t.Errorf("there is a %T", object)
		}
	}
	update(t, r.ca, func(ca *v1alpha1.ServiceCA) { ca.Spec.Source.CertManager = nil })
	r.serviceCA(isReady)
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
}

// A key that waits for cert-manager's answer is deleted: under its former name after a rename, and
// with its ServiceCA.
func TestPendingRequestKeyIsDeleted(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(ca *v1alpha1.ServiceCA, _ *v1alpha1.ServingCertPolicy) {
		ca.Spec.Source.CertManager = &v1alpha1.CertManagerSource{IssuerRef: v1alpha1.IssuerReference{Name: "corp"}}
	})
	waits := func(name string) *corev1.Secret {
		secret := &corev1.Secret{ObjectMeta: inOperatorNamespace(name)}
		eventually(t, func(ctx context.Context) string {
			if err := kube.Get(ctx, client.ObjectKeyFromObject(secret), secret); err != nil {
				return err.Error()
			}
			return ""
		})
		return secret
	}
	former := waits(r.ca.SigningKeySecretName() + "-request")
	theirs := create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: "a-copy-of-" + former.Name, Labels: former.Labels}, Data: former.Data,
	})
	update(t, r.ca, func(ca *v1alpha1.ServiceCA) { ca.Spec.SigningKey.SecretName = r.name + "-moved" })
	moved := waits(r.name + "-moved-request")
	gone(t, former)
	remove(t, r.ca)
	gone(t, moved)
	unchanged(t, theirs)
}

// One invalid CA blocks no other, whatever is wrong with it.
func TestOneInvalidCABlocksNoOther(t *testing.T) {
	t.Parallel()
	wrong := newRealm(t, withSourceSecret("nowhere"))
	wrong.serviceCA(isStalled("SourceNotThere"))
	right := newRealmIn(t, kube, wrong.name+"-2")
	for i := range 3 {
		wrong.service(fmt.Sprintf("web-%d", i), withSecretName("web-tls"))
		right.service(fmt.Sprintf("web-%d", i), withSecretName(fmt.Sprintf("web-%d-tls", i)))
		right.secret(fmt.Sprintf("web-%d-tls", i), right.issued(fmt.Sprintf("web-%d.%s.svc", i, right.name)))
	}
	right.report(func(p *v1alpha1.ServingCertPolicy) string {
		if p.Status.Services.Issued != 3 || len(p.Status.Failures) != 0 {
			return "not all are served"
		}
		return ""
	})
}
