package controllers_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// injected returns a new ConfigMap of the realm that asks for the bundle of the realm's CA.
func (r realm) injected(name string) *corev1.ConfigMap {
	r.Helper()
	return createBy(r.T, r.admin(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: r.name, Name: name, Annotations: map[string]string{v1alpha1.AnnotationInjectCABundle: r.ca.Name},
	}})
}

// carries waits until a ConfigMap holds the published bundle.
func (r realm) carries(configMap *corev1.ConfigMap) {
	r.Helper()
	eventually(r.T, func(ctx context.Context) string {
		bundle, err := r.bundle(ctx)
		if err != nil {
			return err.Error()
		}
		if err := r.admin().Get(ctx, client.ObjectKeyFromObject(configMap), configMap); err != nil {
			return err.Error()
		}
		if configMap.Data[v1alpha1.DefaultCABundleKey] != bundle {
			return "the ConfigMap does not carry the published bundle"
		}
		return ""
	})
}

func remove(t *testing.T, object client.Object) {
	t.Helper()
	if err := kube.Delete(t.Context(), object); err != nil {
		t.Fatal(err)
	}
}

// reload returns an object as the API server has it now.
func reload[T client.Object](t *testing.T, object T) T {
	t.Helper()
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
		t.Fatal(err)
	}
	return object
}

// unchanged fails if any of the objects has changed since it was read.
func unchanged(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, object := range objects {
		now, ok := object.DeepCopyObject().(client.Object)
		if !ok {
			t.Fatalf("%T is no object", object)
		}
		reload(t, now)
		if now.GetResourceVersion() != object.GetResourceVersion() || now.GetUID() != object.GetUID() {
			t.Errorf("%T %s was written", object, object.GetName())
		}
	}
}

// After the loss of its key a new CA is generated; the root of the predecessor stays trusted
// everywhere, and every certificate is reissued.
func TestSigningKeyDeleted(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	configMap := r.injected("trust")
	for _, name := range []string{"web", "api"} {
		r.service(name, withSecretName(name+"-tls"))
		r.secret(name+"-tls", r.issued(name+"."+r.name+".svc"))
	}
	roots := parse(t, r.signingKey().Data[corev1.TLSCertKey])
	for range 2 {
		remove(t, r.signingKey())
		eventually(t, func(context.Context) string {
			if r.signer().Equal(roots[0]) {
				return "the same CA signs"
			}
			return ""
		})
		next := r.signer()
		differentGenerations(t, roots[0], next)
		for _, name := range []string{"web", "api"} {
			r.handshake(r.secret(name+"-tls", r.signedBy(next)), name+"."+r.name+".svc")
		}
		ca := r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
			if activeOf(ca).SerialNumber != next.SerialNumber.Text(16) || *activeOf(ca).Certificates != 2 || len(ca.Status.Previous) != len(roots) {
				return "the status is behind"
			}
			if *ca.Status.Previous[0].Certificates != 0 || ca.Status.Previous[0].SerialNumber != roots[0].SerialNumber.Text(16) {
				return "the CA before is not the first of the previous ones, without certificates"
			}
			if bundle := ca.Status.TrustBundle; bundle.Targets != 3 || bundle.CurrentTargets != 3 {
				return "not every target is current"
			}
			if !meta.IsStatusConditionTrue(ca.Status.Conditions, v1alpha1.ConditionTrustEstablished) {
				return "trust is not established"
			}
			return isReady(ca)
		})
		event(t, ca, corev1.EventTypeWarning, "SigningKeyLost", "its Secret is gone", "certificates that are there stay trusted")
		roots = append(parse(t, r.signingKey().Data[corev1.TLSCertKey]), roots...)
		r.trusts(roots...)
		r.carries(configMap)
	}
}

// Without the key and the bundle nothing can be recovered; even so, all certificates verify again.
func TestSigningKeyAndBundleDeleted(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	configMap := r.injected("trust")
	r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	before := r.signer()
	remove(t, r.signingKey())
	remove(t, &corev1.ConfigMap{ObjectMeta: inOperatorNamespace(r.ca.TrustBundleConfigMapName())})
	eventually(t, func(context.Context) string {
		if r.signer().Equal(before) {
			return "the same CA signs"
		}
		return ""
	})
	r.handshake(r.secret("web-tls", r.signedBy(r.signer())), "web."+r.name+".svc")
	r.carries(configMap)
	event(t, r.serviceCA(isReady), corev1.EventTypeWarning, "SigningKeyLost")
}

// A signing key that cannot be parsed is lost: a new CA takes over once its root is trusted, and
// existing roots stay trusted.
func TestSigningKeyCorrupted(t *testing.T) {
	t.Parallel()
	other := generateCA(t, "Other", nil)
	for name, corrupt := range map[string]func(map[string][]byte) map[string][]byte{
		"key":            func(d map[string][]byte) map[string][]byte { return with(d, corev1.TLSPrivateKeyKey, []byte("what?")) },
		"key-of-another": func(d map[string][]byte) map[string][]byte { return with(d, corev1.TLSPrivateKeyKey, other.keyPEM(t)) },
		"empty": func(d map[string][]byte) map[string][]byte {
			return with(with(with(d, corev1.TLSCertKey, []byte{}), corev1.TLSPrivateKeyKey, []byte{}), "ca-bundle.crt", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRealm(t)
			r.service("web", withSecretName("web-tls"))
			r.secret("web-tls", r.issued("web."+r.name+".svc"))
			r.serviceCA(isReady)
			root := r.signer()
			update(t, r.signingKey(), func(s *corev1.Secret) { s.Data = corrupt(s.Data) })
			ca := r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
				if active := activeOf(ca); active.SerialNumber == root.SerialNumber.Text(16) || *active.Certificates != 1 {
					return "no other CA has taken over"
				}
				return isReady(ca)
			})
			event(t, ca, corev1.EventTypeWarning, "SigningKeyLost", r.ca.SigningKeySecretName(), "tls.")
			r.handshake(r.secret("web-tls", r.signedBy(r.signer())), "web."+r.name+".svc")
			r.trusts(r.signer(), root)
		})
	}
}

// A certificate that cannot be parsed is put back while its key is there: the same CA goes on
// signing, and nothing is reissued.
func TestSigningCertificateCorrupted(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	issued := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.serviceCA(isReady)
	root := r.signer()
	certificate := r.signingKey().Data[corev1.TLSCertKey]
	update(t, r.signingKey(), func(s *corev1.Secret) { s.Data = with(s.Data, corev1.TLSCertKey, []byte("what?")) })
	eventually(t, func(context.Context) string {
		if got := r.signingKey().Data[corev1.TLSCertKey]; !bytes.Equal(got, certificate) {
			return fmt.Sprintf("tls.crt is %q", got)
		}
		return ""
	})
	event(t, r.serviceCA(isReady), corev1.EventTypeWarning, "CertificatePutBack", "tls.crt")
	if !r.signer().Equal(root) {
		t.Error("another CA signs")
	}
	r.handshake(r.secret("web-tls", func(secret *corev1.Secret) string {
		if secret.ResourceVersion != issued.ResourceVersion {
			return "its certificate was issued again"
		}
		return ""
	}), "web."+r.name+".svc")
}

// A CA that an administrator puts into the signing-key Secret does not sign, because no client
// trusts its root: source.secret is the field for that. A new CA takes over, and everything that
// was trusted stays trusted.
func TestSigningKeyReplacedByHand(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.serviceCA(isReady)
	before, other := r.signer(), generateCA(t, "By Hand", nil)
	update(t, r.signingKey(), func(s *corev1.Secret) { s.Data = other.data(t) })
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if active := activeOf(ca); active.SerialNumber == before.SerialNumber.Text(16) || *active.Certificates != 1 {
			return "no other CA has taken over"
		}
		return isReady(ca)
	})
	differentGenerations(t, before, r.signer())
	r.secret("web-tls", r.signedBy(r.signer()))
	r.trusts(r.signer(), before)
}

func TestTrustBundleReverted(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.serviceCA(isReady)
	root := r.signer()
	published := &corev1.ConfigMap{ObjectMeta: inOperatorNamespace(r.ca.TrustBundleConfigMapName())}
	for range 2 {
		uid := uidOf(t, published)
		remove(t, published)
		eventually(t, func(ctx context.Context) string {
			if err := kube.Get(ctx, client.ObjectKeyFromObject(published), published); err != nil || published.UID == uid {
				return fmt.Sprintf("it is not made again: %v", err)
			}
			return ""
		})
		r.trusts(root)
	}
	for _, change := range []func(*corev1.ConfigMap){
		func(c *corev1.ConfigMap) { c.Data["ca-bundle.crt"] = "what?" },
		func(c *corev1.ConfigMap) { c.Data["ca-bundle.crt"] += string(generateCA(t, "Intruder", nil).pem()) },
		func(c *corev1.ConfigMap) { c.Data = map[string]string{"notes": "ours"} },
	} {
		update(t, published, change)
		r.trusts(root)
	}
	if reload(t, published).Data["notes"] != "ours" {
		t.Error("what somebody else put beside the bundle has gone")
	}
}

// An object of another client under a name that a ServiceCA uses is left alone, until its label
// hands it over.
func TestSigningKeyNotOurs(t *testing.T) {
	t.Parallel()
	name := realmName(t)
	own := generateCA(t, "Handed Over", nil, func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(5, 0, 0) })
	foreign := create(t, &corev1.Secret{ObjectMeta: inOperatorNamespace(name + "-signing-key"), Type: corev1.SecretTypeTLS, Data: own.data(t)})
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	says := []string{foreign.Name, "spec.signingKey.secretName", "servingcert.dev/serviceca=" + name}
	event(t, r.serviceCA(isStalled("SigningKeyNotOurs", says...)), corev1.EventTypeWarning, "SigningKeyNotOurs", says...)
	r.expectError("web", "ServiceCANotReady: ", foreign.Name)
	unchanged(t, foreign)
	update(t, foreign, func(s *corev1.Secret) { s.Labels = map[string]string{v1alpha1.LabelServiceCA: name} })
	ca := r.serviceCA(isReady)
	if want := hex.EncodeToString(own.certificate.SubjectKeyId); activeOf(ca).SubjectKeyID != want {
		t.Errorf("%s signs, want %s", activeOf(ca).SubjectKeyID, want)
	}
	r.secret("web-tls", r.signedBy(own.certificate))
	r.trusts(own.certificate)
	if ca := r.serviceCA(isReady); ca.Status.Rotation.Phase != v1alpha1.PhaseStable {
		t.Errorf("it is being replaced: %+v", ca.Status.Rotation)
	}
}

func TestTrustBundleNotOurs(t *testing.T) {
	t.Parallel()
	name := realmName(t)
	foreign := create(t, &corev1.ConfigMap{ObjectMeta: inOperatorNamespace(name + "-trust-bundle"), Data: map[string]string{"config": "theirs"}})
	r := newRealm(t)
	r.service("web", withSecretName("web-tls"))
	says := []string{foreign.Name, "spec.trustBundle.configMapName", "servingcert.dev/serviceca=" + name}
	event(t, r.serviceCA(isStalled("TrustBundleNotOurs", says...)), corev1.EventTypeWarning, "TrustBundleNotOurs", says...)
	r.expectError("web", "ServiceCANotReady: ", foreign.Name)
	unchanged(t, foreign)
	update(t, foreign, func(c *corev1.ConfigMap) { c.Labels = map[string]string{v1alpha1.LabelServiceCA: name} })
	r.serviceCA(isReady)
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	if reload(t, foreign).Data["config"] != "theirs" {
		t.Error("what was in it has gone")
	}
}

// A write that the API server rejects is reported on the ServiceCA, and succeeds once it is
// allowed.
func TestSigningKeyAndBundleRefused(t *testing.T) {
	t.Parallel()
	name := realmName(t)
	labels := map[string]string{v1alpha1.LabelServiceCA: name}
	secret := &corev1.Secret{ObjectMeta: inOperatorNamespace(name + "-signing-key"), Type: corev1.SecretTypeTLS, Data: generateCA(t, "Frozen", nil).data(t)}
	configMap := &corev1.ConfigMap{ObjectMeta: inOperatorNamespace(name + "-trust-bundle")}
	immutable := true
	secret.Labels, secret.Immutable, configMap.Labels, configMap.Immutable = labels, &immutable, labels, &immutable
	create(t, secret)
	create(t, configMap)
	r := newRealm(t)
	r.serviceCA(isStalled("SigningKeyRefused", secret.Name, "immutable"))
	remove(t, secret)
	event(t, r.serviceCA(isStalled("TrustBundleRefused", configMap.Name, "immutable")), corev1.EventTypeWarning, "TrustBundleRefused")
	remove(t, configMap)
	r.serviceCA(isReady)
}

// A CA certificate that is renewed manually for the same key is not a lost key: the CA signs
// without interruption, and every certificate that it issued verifies.
func TestSigningKeyCertificateRenewed(t *testing.T) {
	t.Parallel()
	name := realmName(t)
	lasts := func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(5, 0, 0) }
	own := generateCA(t, "Corp Root", nil, lasts)
	renewed := generateCAWith(t, "Corp Root G2", own.key, nil, lasts)
	create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: name + "-signing-key", Labels: map[string]string{v1alpha1.LabelServiceCA: name}},
		Type:       corev1.SecretTypeTLS, Data: own.data(t),
	})
	r := newRealm(t, func(ca *v1alpha1.ServiceCA, _ *v1alpha1.ServingCertPolicy) {
		ca.Spec.Rotation.Propagation.Minimum = "10m"
	})
	r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", r.signedBy(own.certificate))
	update(t, r.signingKey(), func(s *corev1.Secret) { s.Data[corev1.TLSCertKey] = renewed.pem() })
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if next := ca.Status.Next; next == nil || next.Subject != "Corp Root G2" || ca.Status.Rotation.Phase != v1alpha1.PhasePropagating {
			return "the renewed certificate is not on its way"
		}
		if activeOf(ca).Subject != "Corp Root" {
			return "the CA does not sign on"
		}
		return isReady(ca)
	})
	r.trusts(renewed.certificate, own.certificate)
	r.service("late", withSecretName("late-tls"))
	r.secret("late-tls", r.signedBy(own.certificate))
	update(t, r.ca, func(ca *v1alpha1.ServiceCA) { ca.Spec.Rotation.Propagation.Minimum = "1s" })
	secret := r.secret("web-tls", r.signedBy(renewed.certificate))
	for _, root := range []*ownCA{own, renewed} {
		roots := x509.NewCertPool()
		roots.AddCert(root.certificate)
		intermediates := x509.NewCertPool()
		for _, sent := range parse(t, secret.Data[corev1.TLSCertKey])[1:] {
			intermediates.AddCert(sent)
		}
		if _, err := leaf(t, secret).Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates}); err != nil {
			t.Errorf("a client that knows only %s: %v", root.certificate.Subject, err)
		}
	}
	happened, err := eventsOf(t.Context(), r.ca)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range happened {
		if strings.HasPrefix(e.Reason, "SigningKey") {
			t.Errorf("%s: %s", e.Reason, e.Message)
		}
	}
}
