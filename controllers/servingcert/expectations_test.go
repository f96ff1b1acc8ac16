package servingcert

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/conflict"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/policy"
)

// A Secret whose event shows it as the last reconciliation created it does not reconcile its
// Service again. A Secret that was changed on the way does, as does an event after a further
// reconciliation, and a second event. Services that compete for the Secret are reconciled in any
// case.
func TestExpectations(t *testing.T) {
	t.Parallel()
	key, pair, other := client.ObjectKey{Namespace: "shop", Name: "web"}, newPair(t), newPair(t)
	made := func() *corev1.Secret {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop", Name: "web-tls", Labels: map[string]string{v1alpha1.LabelService: "web"},
				Annotations:     map[string]string{v1alpha1.AnnotationCABundleHash: "hash"},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: "web", UID: "uid"}},
			},
			Type: corev1.SecretTypeTLS,
			Data: map[string][]byte{corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.PrivateKey, "ca.crt": []byte("bundle")},
		}
	}
	for name, tc := range map[string]struct {
		before func(*Expectations)
		edit   func(*corev1.Secret)
		again  bool
		// competitor is the other Service that requests the Secret of the event; rival if it is
		// empty.
		competitor string
	}{
		"as it was made":     {},
		"another label":      {edit: func(s *corev1.Secret) { s.Labels["team"] = "a" }, again: true},
		"another annotation": {edit: func(s *corev1.Secret) { s.Annotations[v1alpha1.AnnotationCABundleHash] = "other" }, again: true},
		"no owner":           {edit: func(s *corev1.Secret) { s.OwnerReferences = nil }, again: true},
		"another name":       {edit: func(s *corev1.Secret) { s.Name = "other" }, again: true, competitor: "rival2"},
		"another bundle":     {edit: func(s *corev1.Secret) { s.Data["ca.crt"] = []byte("other") }, again: true},
		"another pair": {edit: func(s *corev1.Secret) {
			s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey] = other.Certificate, other.PrivateKey
		}, again: true},
		"another private key": {edit: func(s *corev1.Secret) { s.Data[corev1.TLSPrivateKeyKey] = other.PrivateKey }, again: true},
		"another key beside":  {edit: func(s *corev1.Secret) { s.Data["more"] = nil }, again: true},
		"a new look":          {before: func(e *Expectations) { e.forget(key) }, again: true},
		"a second time":       {before: func(e *Expectations) { e.observed(digested(made())) }, again: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Reconciler{Expectations: &Expectations{}, View: View{PolicySets: &policy.SetCache{}, Reader: reading(
				t, serviceRequesting("web", "web-tls"), serviceRequesting("rival", "web-tls"), serviceRequesting("rival2", "other"),
			)}}
			r.Expectations.expect(key, made())
			came := made()
			if tc.before != nil {
				tc.before(r.Expectations)
			}
			if tc.edit != nil {
				tc.edit(came)
			}
			got := map[string]bool{}
			for _, request := range r.servicesOfSecret(t.Context(), digested(came)) {
				got[request.Name] = true
			}
			want := map[string]bool{"rival": true}
			if tc.competitor != "" {
				want = map[string]bool{tc.competitor: true}
			}
			if tc.again {
				want["web"] = true
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The Secret that is sent is the one that was meant, and no event is expected for a Secret that
// could not be created.
func TestCreateSetsExpectation(t *testing.T) {
	t.Parallel()
	var refusal error
	var sent *corev1.Secret
	c := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		Create: func(_ context.Context, _ client.WithWatch, object client.Object, _ ...client.CreateOption) error {
			secret, _ := object.(*corev1.Secret)
			sent = secret.DeepCopy()
			return refusal
		},
	}).Build()
	r := &Reconciler{Client: c, Expectations: &Expectations{}, RejectionBackoff: NewRejectionBackoff(), View: View{Conflicts: &conflict.Tracker{}}, Clock: clock.RealClock{}, KeyQueue: newKeyQueue(1, nil, nil)}
	service, pair := serviceRequesting("web", "web-tls"), newPair(t)
	labels := map[string]string{v1alpha1.LabelService: "web"}
	create := func() error {
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-tls", Labels: maps.Clone(labels)},
			Data:       map[string][]byte{corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.PrivateKey},
		}
		return r.create(t.Context(), input{service: service, ca: &keyring.CA{}, desired: issuance.Desired{SecretRef: issuance.SecretRef{Policy: &v1alpha1.ServingCertPolicy{}}}}, secret)
	}
	if err := create(); err != nil || len(r.Expectations.secrets) != 1 {
		t.Errorf("made: %v, and %d are expected", err, len(r.Expectations.secrets))
	}
	if diff := cmp.Diff(labels, sent.Labels); diff != "" || !bytes.Equal(sent.Data[corev1.TLSPrivateKeyKey], pair.PrivateKey) {
		t.Errorf("what is sent is another Secret; labels (-want +got):\n%s", diff)
	}
	refusal = apierrors.NewForbidden(corev1.Resource("secrets"), "web-tls", nil)
	if err := create(); err == nil || len(r.Expectations.secrets) != 0 {
		t.Errorf("refused: %v, and %d are expected", err, len(r.Expectations.secrets))
	}
	r.Expectations.expect(client.ObjectKeyFromObject(service), sent)
	if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(service)}); err != nil || len(r.Expectations.secrets) != 0 {
		t.Errorf("looked at again: %v, and %d are expected", err, len(r.Expectations.secrets))
	}
}

func newPair(t *testing.T) pki.Pair {
	t.Helper()
	pair, err := pki.GenerateRoot(time.Now(), pki.RootSpec{CommonName: "root", Duration: time.Hour, Key: pki.KeySpec{Algorithm: v1alpha1.ECDSA, Size: 256}})
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func digested(secret *corev1.Secret) *corev1.Secret {
	issuance.Digest(secret)
	return secret
}

func serviceRequesting(name, secretName string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: name, Annotations: map[string]string{v1alpha1.AnnotationSecretName: secretName},
	}}
}

func reading(t *testing.T, services ...client.Object) client.Reader {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(services...).WithIndex(&corev1.Service{}, indexSecretName, func(object client.Object) []string {
		service, _ := object.(*corev1.Service)
		return []string{requestedWithOtherPrefix(issuance.Resolver{}, service)}
	}).Build()
}
