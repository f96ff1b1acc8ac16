package servingcertpolicy

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
	"github.com/servingcert/operator/controllers/servingcert"
)

// shelf is a cluster with one ServiceCA, its key, one Service, and its Secret as the cache has it.
type shelf struct {
	client.Reader
	ca          *v1alpha1.ServiceCA
	key, secret *corev1.Secret
	service     *corev1.Service
}

func (s *shelf) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	switch into := into.(type) {
	case *v1alpha1.ServiceCA:
		s.ca.DeepCopyInto(into)
	case *corev1.Secret:
		if key.Namespace == s.key.Namespace {
			s.key.DeepCopyInto(into)
			return nil
		}
		s.secret.DeepCopyInto(into)
	default:
		return fmt.Errorf("nobody should read a %T", into)
	}
	return nil
}

func (s *shelf) List(_ context.Context, into client.ObjectList, _ ...client.ListOption) error {
	switch into := into.(type) {
	case *corev1.ServiceList:
		into.Items = []corev1.Service{*s.service}
	case *metav1.PartialObjectMetadataList:
		into.Items = []metav1.PartialObjectMetadata{{ObjectMeta: metav1.ObjectMeta{Name: s.service.Namespace}}}
	default:
		return fmt.Errorf("nobody should list a %T", into)
	}
	return nil
}

// newShelf is a cluster in which all is as it should be, and a Reconciler that counts in it by a clock.
func newShelf(t *testing.T, p *v1alpha1.ServingCertPolicy) (*shelf, *Reconciler, *clocktesting.FakePassiveClock) {
	t.Helper()
	root, err := pki.GenerateRoot(now, pki.RootSpec{CommonName: "signer", Duration: 1000 * time.Hour, Key: pki.KeySpecOf(v1alpha1.PrivateKey{})})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.LoadAuthority(root)
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{ca: readyCA(metav1.ConditionTrue), service: service("shop", "web", "")}
	s.ca.Status.Active = &v1alpha1.CAGeneration{Fingerprint: authority.Fingerprint()}
	s.ca.Status.TrustBundle = &v1alpha1.TrustBundleStatus{Hash: pki.Hash(root.Certificate)}
	s.key = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: s.ca.SigningKeySecretName()}, Data: map[string][]byte{
		corev1.TLSCertKey: root.Certificate, corev1.TLSPrivateKeyKey: root.PrivateKey, rotation.BundleKey: root.Certificate,
	}}
	s.service.UID, s.service.ResourceVersion = "uid-of-web", "1"
	s.service.Annotations = map[string]string{v1alpha1.AnnotationSecretName: "web-tls"}

	clock := clocktesting.NewFakePassiveClock(now)
	r := &Reconciler{View: servingcert.View{Reader: s, Rules: issuance.Rules{ClusterDomain: "cluster.local"}, Clock: clock}, Keyring: keyring.New(s, "system", clock), Clock: clock}
	ca, _, err := r.Keyring.Find(t.Context(), s, "default")
	if err != nil {
		t.Fatal(err)
	}
	want, _ := r.View.Rules.Want(s.service, p)
	pair, err := ca.Authority.Issue(now, want.Leaf, want.Duration, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.secret, err = want.Secret(pair, "", &ca.CA); err != nil {
		t.Fatal(err)
	}
	s.secret.ResourceVersion = "2"
	issuance.Digest(s.secret)
	return s, r, clock
}

// What a count has found out the next one does not look for, until something has changed, or the keyring has looked at the CA again.
func TestCountsOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*shelf, *v1alpha1.ServingCertPolicy, *clocktesting.FakePassiveClock)
		looks  bool
	}{
		"nothing": {func(*shelf, *v1alpha1.ServingCertPolicy, *clocktesting.FakePassiveClock) {}, false},
		"the Secret": {func(s *shelf, _ *v1alpha1.ServingCertPolicy, _ *clocktesting.FakePassiveClock) {
			s.secret.ResourceVersion = "3"
		}, true},
		"the Service": {func(s *shelf, _ *v1alpha1.ServingCertPolicy, _ *clocktesting.FakePassiveClock) {
			s.service.ResourceVersion = "3"
		}, true},
		"the policy": {func(_ *shelf, p *v1alpha1.ServingCertPolicy, _ *clocktesting.FakePassiveClock) { p.Generation++ }, true},
		"the CA": {func(_ *shelf, _ *v1alpha1.ServingCertPolicy, c *clocktesting.FakePassiveClock) {
			c.SetTime(now.Add(time.Hour))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPolicy()
			p.UID, p.Spec.Certificate.Duration = "uid-of-default", "100h"
			p.Spec.Certificate.Usages = []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth}
			s, r, clock := newShelf(t, p)
			issued := func() int32 {
				t.Helper()
				tallies, err := r.count(t.Context(), clock.Now(), []v1alpha1.ServingCertPolicy{*p})
				if err != nil {
					t.Fatal(err)
				}
				return tallies["default"].counts.Issued
			}
			for range 2 {
				if got := issued(); got != 1 {
					t.Fatalf("%d Services are served, want 1", got)
				}
			}
			// What cannot happen shows who looks.
			s.secret.StringData = map[string]string{corev1.TLSPrivateKeyKey: "spoilt"}
			tc.change(s, p, clock)
			if looked := issued() == 0; looked != tc.looks {
				t.Errorf("it was looked at again: %t, want %t", looked, tc.looks)
			}
		})
	}
}
