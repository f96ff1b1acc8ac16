package controllers_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// mutation damages the Secret of a Service.
type mutation func(r realm, service *corev1.Service, secret *corev1.Secret)

// Every reason for which OpenShift reissues a certificate, and those that it never detects (its
// fault 8).
func TestOpenShiftReissues(t *testing.T) {
	for _, tc := range []struct {
		when    string
		corrupt mutation
	}{
		{"tls.crt cannot be parsed", func(_ realm, _ *corev1.Service, s *corev1.Secret) { s.Data["tls.crt"] = []byte("no certificate") }},
		{"the issuer is not the current CA", func(r realm, service *corev1.Service, s *corev1.Secret) {
			other, err := pki.GenerateRoot(time.Now(), pki.RootSpecOf(r.ca.Spec.Certificate))
			r.put(s, other, err, r.leafSpec(service), 730*day, time.Now())
		}},
		{"the DNS names differ", func(r realm, service *corev1.Service, s *corev1.Secret) {
			spec := r.leafSpec(service)
			spec.DNSNames = append(spec.DNSNames, "bank.example.org")
			r.put(s, r.signingPair(), nil, spec, 730*day, time.Now())
		}},
		{"a DNS name is missing", func(r realm, service *corev1.Service, s *corev1.Secret) {
			spec := r.leafSpec(service)
			spec.DNSNames = spec.DNSNames[:1]
			r.put(s, r.signingPair(), nil, spec, 730*day, time.Now())
		}},
		{"the expiry is near", func(r realm, service *corev1.Service, s *corev1.Secret) {
			r.put(s, r.signingPair(), nil, r.leafSpec(service), 730*day, time.Now().Add(-729*day))
		}},
		{"it has expired", func(r realm, service *corev1.Service, s *corev1.Secret) {
			r.put(s, r.signingPair(), nil, r.leafSpec(service), 730*day, time.Now().Add(-731*day))
		}},
		{"the ownerReference is gone", func(_ realm, _ *corev1.Service, s *corev1.Secret) { s.OwnerReferences = nil }},
		{"fault 8: tls.key is corrupt", func(_ realm, _ *corev1.Service, s *corev1.Secret) { s.Data["tls.key"] = []byte("corrupt") }},
		{"fault 8: tls.key is another's", func(r realm, service *corev1.Service, s *corev1.Secret) {
			right := s.Data["tls.crt"]
			r.put(s, r.signingPair(), nil, r.leafSpec(service), 730*day, time.Now())
			s.Data["tls.crt"] = right
		}},
		{"fault 8: NotAfter is wrong", func(r realm, service *corev1.Service, s *corev1.Secret) {
			r.put(s, r.signingPair(), nil, r.leafSpec(service), 100*day, time.Now())
		}},
		{"fault 8: the chain is broken", func(r realm, _ *corev1.Service, s *corev1.Secret) {
			s.Data["tls.crt"] = append(bytes.Clone(s.Data["tls.crt"]), r.signingPair().Certificate...)
		}},
		{"fault 8: the signature is broken", func(r realm, _ *corev1.Service, s *corev1.Secret) {
			der := bytes.Clone(leaf(r.T, s).Raw)
			der[len(der)-1] ^= 1
			s.Data["tls.crt"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		}},
		{"the extension names another Service", func(r realm, service *corev1.Service, s *corev1.Secret) {
			spec := r.leafSpec(service)
			spec.ServiceUID = "4f4e0e5c-9e0b-4f3b-8d0f-000000000000"
			r.put(s, r.signingPair(), nil, spec, 730*day, time.Now())
		}},
	} {
		t.Run(tc.when, func(t *testing.T) {
			r := newOpenShift(t)
			service, secret := r.served("web")
			before := leaf(t, secret).SerialNumber
			var corrupted []byte
			update(t, secret, func(s *corev1.Secret) {
				tc.corrupt(r, service, s)
				corrupted = s.Data["tls.crt"]
			})
			again := r.secret("web-tls", func(s *corev1.Secret) string {
				if now, err := pki.ParseLeaf(s.Data["tls.crt"]); err != nil || now.SerialNumber.Cmp(before) == 0 ||
					bytes.Equal(s.Data["tls.crt"], corrupted) {
					return "the certificate has not been issued again"
				}
				if len(s.OwnerReferences) != 1 || s.OwnerReferences[0].UID != service.UID {
					return "the Secret does not belong to the Service"
				}
				return r.issued("web."+r.name+".svc", "web."+r.name+".svc.cluster.local")(s)
			})
			expiry := leaf(t, again).NotAfter.UTC().Format(time.RFC3339)
			has(t, again.Annotations, map[string]string{beta + "expiry": expiry, alpha + "expiry": expiry})
			r.eventuallySigned(service)
		})
	}
}

// leafSpec returns the specification of a certificate by the sample's policy.
func (r realm) leafSpec(service *corev1.Service) pki.LeafSpec {
	name := service.Name + "." + service.Namespace + ".svc"
	return pki.LeafSpec{
		DNSNames:   []string{name, name + ".cluster.local"},
		Usages:     []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth},
		Key:        pki.KeySpecOf(r.policy.Spec.Certificate.PrivateKey.PrivateKey),
		ServiceUID: string(service.UID),
	}
}

func (r realm) signingPair() pki.Pair {
	secret := r.signingKey()
	return pki.Pair{Certificate: secret.Data["tls.crt"], PrivateKey: secret.Data["tls.key"]}
}

// put signs a certificate and writes it to a Secret.
func (r realm) put(secret *corev1.Secret, signer pki.Pair, err error, spec pki.LeafSpec, duration time.Duration, at time.Time) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
	authority, err := pki.LoadAuthority(signer)
	if err != nil {
		r.Fatal(err)
	}
	pair, err := authority.Issue(at, spec, duration, nil)
	if err != nil {
		r.Fatal(err)
	}
	secret.Data["tls.crt"], secret.Data["tls.key"] = pair.Certificate, pair.PrivateKey
}

// A missing Secret is created at once.
func TestOpenShiftReissuesWhatIsDeleted(t *testing.T) {
	r := newOpenShift(t)
	service, secret := r.served("web")
	if err := kube.Delete(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	again := r.secret("web-tls", func(s *corev1.Secret) string {
		if s.UID == secret.UID {
			return "the old Secret is still there"
		}
		return r.issued("web." + r.name + ".svc")(s)
	})
	if leaf(t, again).SerialNumber.Cmp(leaf(t, secret).SerialNumber) == 0 {
		t.Error("the certificate is the old one")
	}
	r.eventuallySigned(service)
}

// DNS names are compared as a set: a different order is no reason to reissue.
func TestOpenShiftComparesNamesAsASet(t *testing.T) {
	r := newOpenShift(t)
	service, secret := r.served("web", func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })
	update(t, secret, func(s *corev1.Secret) {
		spec := r.leafSpec(service)
		spec.DNSNames = slices.Clone(leaf(t, s).DNSNames)
		slices.Reverse(spec.DNSNames[1:])
		r.put(s, r.signingPair(), nil, spec, 730*day, time.Now())
	})
	serial := leaf(t, secret).SerialNumber
	r.barrier()
	kept := r.secret("web-tls", r.issued("web."+r.name+".svc", "pod-0.web."+r.name+".svc"))
	if leaf(t, kept).SerialNumber.Cmp(serial) != 0 {
		t.Error("the certificate was issued again")
	}
}

// Fault 12: the chain does not contain a root, and no two CAs have the same subject.
func TestFault12RootsStayInTheirClusterWithUniqueNames(t *testing.T) {
	r := newOpenShift(t)
	_, secret := r.served("web")
	for _, certificate := range parse(t, secret.Data["tls.crt"]) {
		if bytes.Equal(certificate.RawIssuer, certificate.RawSubject) {
			t.Errorf("the chain holds the root %s", certificate.Subject)
		}
	}
	bundle := r.publishedRoots()
	subjects := map[string]*x509.Certificate{}
	for _, root := range bundle {
		if twin := subjects[root.Subject.String()]; twin != nil {
			t.Errorf("two CAs bear the subject %s", root.Subject)
		}
		subjects[root.Subject.String()] = root
	}
}

// publishedRoots returns the roots in the trust-bundle ConfigMap.
func (r realm) publishedRoots() []*x509.Certificate {
	r.Helper()
	var published corev1.ConfigMap
	key := client.ObjectKey{Namespace: operatorNamespace, Name: r.ca.TrustBundleConfigMapName()}
	eventually(r.T, func(ctx context.Context) string {
		if err := kube.Get(ctx, key, &published); err != nil && !apierrors.IsNotFound(err) {
			r.Fatal(err)
		}
		if published.Data[r.ca.Spec.TrustBundle.Key] == "" {
			return "no bundle is published"
		}
		return ""
	})
	return parse(r.T, []byte(published.Data[r.ca.Spec.TrustBundle.Key]))
}
