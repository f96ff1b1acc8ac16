package controllers_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

const day = 24 * time.Hour

// clockSkew is how long before its issuance a certificate becomes valid.
const clockSkew = 5 * time.Minute

// The Secret has type kubernetes.io/tls, exactly two keys and an ownerReference to the Service.
func TestOpenShiftSecretHasTwoKeysAndAnOwner(t *testing.T) {
	r := newOpenShift(t)
	service, secret := r.served("web")
	if secret.Type != corev1.SecretTypeTLS {
		t.Errorf("the type is %s", secret.Type)
	}
	if keys := slices.Sorted(maps.Keys(secret.Data)); !slices.Equal(keys, []string{"tls.crt", "tls.key"}) {
		t.Errorf("the keys are %v", keys)
	}
	if key := secret.Data["tls.key"]; !bytes.HasPrefix(key, []byte("-----BEGIN RSA PRIVATE KEY-----")) {
		t.Errorf("tls.key begins with %.30s, and on OpenShift it is in PKCS #1", key)
	}
	if len(secret.OwnerReferences) != 1 {
		t.Fatalf("there are %d owners", len(secret.OwnerReferences))
	}
	owner := secret.OwnerReferences[0]
	if owner.APIVersion != "v1" || owner.Kind != "Service" || owner.Name != "web" || owner.UID != service.UID {
		t.Errorf("the owner is %v", owner)
	}
}

// Other keys are removed without a reissue.
func TestOpenShiftSurplusKeysAreRemovedWithoutReissuing(t *testing.T) {
	r := newOpenShift(t)
	_, secret := r.served("web")
	serial, key := leaf(t, secret).SerialNumber, secret.Data["tls.key"]
	update(t, secret, func(s *corev1.Secret) { s.Data["ca.crt"], s.Data["password"] = []byte("a"), []byte("b") })
	trimmed := r.secret("web-tls", func(s *corev1.Secret) string {
		if len(s.Data) != 2 {
			return "there are more than two keys"
		}
		return ""
	})
	if now := leaf(t, trimmed).SerialNumber; now.Cmp(serial) != 0 || !bytes.Equal(trimmed.Data["tls.key"], key) {
		t.Error("the certificate was issued again")
	}
}

// The leaf comes first in the chain and has SHA256WithRSA, an RSA key of 2048 bits, 730 days,
// OpenShift's key usages, serverAuth only, and the extension with the Service's UID.
func TestOpenShiftCertificateProfile(t *testing.T) {
	r := newOpenShift(t)
	service, secret := r.served("web")
	certificate := leaf(t, secret)
	public, isRSA := certificate.PublicKey.(*rsa.PublicKey)
	for what, ok := range map[string]bool{
		"the leaf is first":       !certificate.IsCA && slices.Contains(certificate.DNSNames, "web."+r.name+".svc"),
		"signed SHA256WithRSA":    certificate.SignatureAlgorithm == x509.SHA256WithRSA,
		"RSA 2048":                isRSA && public.N.BitLen() == 2048,
		"730 days":                certificate.NotAfter.Sub(certificate.NotBefore.Add(clockSkew)).Round(time.Minute) == 730*day,
		"key usages":              certificate.KeyUsage == x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment,
		"extended usages":         slices.Equal(certificate.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}),
		"no other extended usage": len(certificate.UnknownExtKeyUsage) == 0,
	} {
		if !ok {
			t.Errorf("not so: %s", what)
		}
	}
	oid := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 2312, 17, 100, 2, 1}
	for _, extension := range certificate.Extensions {
		if !extension.Id.Equal(oid) {
			continue
		}
		var value asn1.RawValue
		if rest, err := asn1.Unmarshal(extension.Value, &value); err != nil || len(rest) > 0 {
			t.Fatal("the extension is no one value", err)
		}
		if value.Tag != asn1.TagPrintableString || string(value.Bytes) != string(service.UID) || extension.Critical {
			t.Errorf("tag %d, value %q, critical %v", value.Tag, value.Bytes, extension.Critical)
		}
		return
	}
	t.Error("the extension with the Service's UID is missing")
}

// The DNS names are OpenShift's, for a headless Service too.
func TestOpenShiftDNSNames(t *testing.T) {
	r := newOpenShift(t)
	plain, headless := "plain."+r.name+".svc", "headless."+r.name+".svc"
	for _, tc := range []struct {
		service   string
		clusterIP string
		want      []string
	}{
		{"plain", "", []string{plain, plain + ".cluster.local"}},
		{"headless", corev1.ClusterIPNone, []string{"*." + headless, "*." + headless + ".cluster.local", headless, headless + ".cluster.local"}},
	} {
		t.Run(tc.service, func(t *testing.T) {
			inner := r
			inner.T = t
			_, secret := inner.served(tc.service, func(s *corev1.Service) { s.Spec.ClusterIP = tc.clusterIP })
			if got := slices.Sorted(slices.Values(leaf(t, secret).DNSNames)); !slices.Equal(got, tc.want) {
				t.Errorf("the names are %v, want %v", got, tc.want)
			}
		})
	}
}

// Where OpenShift's annotation asks, the Secret has only these two keys, even if the policy puts
// the bundle into every Secret.
func TestOpenShiftIgnoresCABundleInclude(t *testing.T) {
	r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		p.Spec.Certificate.CABundle = v1alpha1.CABundleInclude
	})
	r.service("ours", withSecretName("ours-tls"))
	ours := r.secret("ours-tls", r.issued("ours."+r.name+".svc"))
	if len(ours.Data["ca.crt"]) == 0 {
		t.Error("the policy includes no bundle, so this test tests nothing")
	}
	_, theirs := r.served("theirs")
	if _, ok := theirs.Data["ca.crt"]; ok || len(theirs.Data) != 2 {
		t.Errorf("there are %d keys", len(theirs.Data))
	}
	hasNot(t, theirs.Annotations, v1alpha1.AnnotationCABundleHash)
}

// The operator adopts an existing Secret only if its originating-service-uid is the UID of the
// Service.
func TestOpenShiftTakesOverBySameUIDOnly(t *testing.T) {
	for _, tc := range []struct {
		name   string
		family string
		uid    func(*corev1.Service) string
		taken  bool
	}{
		{"same uid, beta", beta, func(s *corev1.Service) string { return string(s.UID) }, true},
		{"same uid, alpha", alpha, func(s *corev1.Service) string { return string(s.UID) }, true},
		{"another uid", beta, func(*corev1.Service) string { return "4f4e0e5c-9e0b-4f3b-8d0f-000000000000" }, false},
		{"same name only", beta, func(*corev1.Service) string { return "" }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newOpenShift(t)
			service := r.service("web", nil)
			secret := create(t, &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "web-tls", Annotations: map[string]string{
					tc.family + "originating-service-uid": tc.uid(service), tc.family + "originating-service-name": "web",
				}},
				Type:       corev1.SecretTypeTLS,
				StringData: map[string]string{"tls.crt": "of another cluster", "tls.key": "lost", "more": "is removed"},
			})
			update(t, service, func(s *corev1.Service) {
				metav1.SetMetaDataAnnotation(&s.ObjectMeta, beta+"serving-cert-secret-name", "web-tls")
			})
			if !tc.taken {
				r.eventuallyFailed(service, "web-tls", "1")
				same(t, secret)
				return
			}
			r.secret("web-tls", func(s *corev1.Secret) string {
				if len(s.Data) != 2 {
					return "there are more than two keys"
				}
				return r.issued("web." + r.name + ".svc")(s)
			})
			r.eventuallySigned(service)
		})
	}
}

// The Secret is garbage-collected with its Service.
func TestOpenShiftSecretGoesWithItsService(t *testing.T) {
	r := newOpenShift(t)
	service, secret := r.served("web")
	if err := kube.Delete(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(secret), &corev1.Secret{}); client.IgnoreNotFound(err) != nil || err == nil {
			return "the Secret is still there"
		}
		return ""
	})
}
