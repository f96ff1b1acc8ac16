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
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/conflict"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
	"github.com/servingcert/operator/controllers/servingcert"
)

// fakeCache is a cluster with one ServiceCA, its signing key, one policy, one Service and the
// digest of its Secret, at a time that the test sets.
type fakeCache struct {
	client.Reader
	ca          *v1alpha1.ServiceCA
	key, secret *corev1.Secret
	policy      *v1alpha1.ServingCertPolicy
	service     *corev1.Service
	clock       *clocktesting.FakePassiveClock
}

func (f *fakeCache) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	switch into := into.(type) {
	case *v1alpha1.ServiceCA:
		f.ca.DeepCopyInto(into)
	case *corev1.Secret:
		if key.Namespace == f.key.Namespace {
			f.key.DeepCopyInto(into)
			return nil
		}
		f.secret.DeepCopyInto(into)
	default:
		return fmt.Errorf("nobody should read a %T", into)
	}
	return nil
}

func (f *fakeCache) List(_ context.Context, into client.ObjectList, _ ...client.ListOption) error {
	switch into := into.(type) {
	case *corev1.ServiceList:
		into.Items = []corev1.Service{*f.service}
	case *metav1.PartialObjectMetadataList:
		into.Items = []metav1.PartialObjectMetadata{{ObjectMeta: metav1.ObjectMeta{Name: f.service.Namespace}}}
	default:
		return fmt.Errorf("nobody should list a %T", into)
	}
	return nil
}

// newFakeCache returns a cluster in which everything is up to date, and a Reconciler that counts in
// it.
func newFakeCache(t *testing.T) (*fakeCache, *Reconciler) {
	t.Helper()
	root, err := pki.GenerateRoot(now, pki.RootSpec{CommonName: "signer", Duration: 1000 * time.Hour, Key: pki.KeySpecOf(v1alpha1.PrivateKey{})})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.LoadAuthority(root)
	if err != nil {
		t.Fatal(err)
	}
	s := &fakeCache{
		ca: readyCA(metav1.ConditionTrue), policy: newPolicy(), service: service("shop", "web", ""), clock: clocktesting.NewFakePassiveClock(now),
	}
	s.ca.Status.Active = &v1alpha1.CAGeneration{Fingerprint: authority.Fingerprint()}
	s.ca.Status.TrustBundle = &v1alpha1.TrustBundleStatus{Hash: pki.Hash(root.Certificate)}
	s.key = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: s.ca.SigningKeySecretName()}, Data: map[string][]byte{
		corev1.TLSCertKey: root.Certificate, corev1.TLSPrivateKeyKey: root.PrivateKey, rotation.BundleKey: root.Certificate,
	}}
	s.policy.UID, s.policy.Spec.Certificate.Duration = "uid-of-default", "100h"
	s.policy.Spec.Certificate.Usages = []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth}
	s.service.UID, s.service.ResourceVersion = "uid-of-web", "1"
	s.service.Annotations = map[string]string{v1alpha1.AnnotationSecretName: "web-tls"}

	view := servingcert.View{Conflicts: &conflict.Tracker{}, Reader: s, Resolver: issuance.Resolver{ClusterDomain: "cluster.local"}, Clock: s.clock}
	r := &Reconciler{View: view, Keyring: keyring.New(s, "system", s.clock), Clock: s.clock}
	ca, _, err := r.Keyring.Find(t.Context(), s, "default")
	if err != nil {
		t.Fatal(err)
	}
	desired, _ := view.Resolver.Desired(s.service, s.policy)
	pair, err := ca.Authority.Issue(now, desired.Leaf, desired.Duration, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.secret, err = desired.Secret(pair, "", &ca.CA); err != nil {
		t.Fatal(err)
	}
	s.secret.ResourceVersion, s.secret.ManagedFields = "2", []metav1.ManagedFieldsEntry{{Manager: string(apply.ServingCert)}}
	issuance.Digest(s.secret)
	return s, r
}

// A count does not evaluate a Service again unless something changed since the last count.
func TestCountsOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*fakeCache)
		plans  bool
	}{
		"nothing":     {func(*fakeCache) {}, false},
		"the Secret":  {func(s *fakeCache) { s.secret.ResourceVersion = "3" }, true},
		"the Service": {func(s *fakeCache) { s.service.ResourceVersion = "3" }, true},
		"the policy":  {func(s *fakeCache) { s.policy.Generation++ }, true},
		"the time":    {func(s *fakeCache) { s.clock.SetTime(now.Add(time.Hour)) }, false},
		"the CA": {func(s *fakeCache) {
			s.clock.SetTime(now.Add(time.Hour))
			s.key.ResourceVersion = "3"
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, r := newFakeCache(t)
			issued := func() int32 {
				t.Helper()
				tallies, err := r.count(t.Context(), s.clock.Now(), []v1alpha1.ServingCertPolicy{*s.policy})
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
			// This change without a new resourceVersion cannot happen in a cluster; it shows
			// whether the Secret is evaluated again.
			s.secret.StringData = map[string]string{corev1.TLSPrivateKeyKey: "spoilt"}
			tc.change(s)
			if looked := issued() == 0; looked != tc.plans {
				t.Errorf("it was looked at again: %t, want %t", looked, tc.plans)
			}
		})
	}
}
