package servingcert

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// served returns the digest of a Secret of Service web, whose certificate is valid for duration,
// and the CA that signed it.
func served(t *testing.T, now time.Time, duration time.Duration) (*pki.Authority, *corev1.Secret) {
	t.Helper()
	root, err := pki.GenerateRoot(now, pki.RootSpec{CommonName: "root", Duration: 10 * duration, Key: pki.KeySpec{Algorithm: v1alpha1.ECDSA, Size: 256}})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.LoadAuthority(root)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(now, pki.LeafSpec{DNSNames: []string{"web.shop.svc"}, Key: quick}, duration, nil)
	if err != nil {
		t.Fatal(err)
	}
	return authority, digested(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web-tls", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: "web"}},
		},
		Data: map[string][]byte{corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.PrivateKey},
	})
}

// A key is urgent if the current certificate is unusable, due for renewal because of its age, or in
// the last third of its lifetime, or if the Service reports a problem. All other Services wait
// until that last third, whatever the policy wants of the next certificate.
func TestKeyDeadline(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Second)
	authority, there := served(t, now, 9*time.Hour)
	roots := pki.NewBundle(authority.Certificate()).Pool()
	for _, tc := range []struct {
		name     string
		after    time.Duration
		secret   *corev1.Secret
		renewal  bool
		reported string
		want     time.Duration
	}{
		{"at first", 0, there, false, "", 6 * time.Hour},
		{"later", 5 * time.Hour, there, false, "", time.Hour},
		{"in the last third", 6 * time.Hour, there, false, "", 0},
		{"nearly ended", 8 * time.Hour, there, false, "", 0},
		{"ended", 10 * time.Hour, there, false, "", 0},
		{"due for its age", time.Hour, there, true, "", 0},
		{"told of an obstacle", time.Hour, there, false, "NoPolicy: none", 0},
		{"refused", 0, nil, false, "SecretRefused: quota", ResyncPeriod},
		{"none", 0, nil, false, "", 0},
	} {
		service := serviceRequesting("web", "web-tls")
		if tc.reported != "" {
			service.Annotations[v1alpha1.AnnotationError] = tc.reported
		}
		s := input{
			now: now.Add(tc.after), service: service, secret: tc.secret, ca: &keyring.CA{CA: issuance.CA{Roots: roots}},
			desired: issuance.Desired{Leaf: pki.LeafSpec{DNSNames: []string{"web.shop.svc"}}, Duration: 90 * time.Hour},
		}
		if got := s.keyDeadline(issuance.Plan{Renewal: tc.renewal}); got != tc.want {
			t.Errorf("%s: it waits %s, want %s", tc.name, got, tc.want)
		}
	}
}

// A key that could not be written because of a server error is kept for the next reconciliation. It
// is not kept if the API server rejected the write, or if another action failed.
func TestKeyOutlastsFault(t *testing.T) {
	t.Parallel()
	fault := apierrors.NewInternalError(errors.New("no webhook"))
	for name, tc := range map[string]struct {
		action issuance.Action
		err    error
		kept   bool
	}{
		"a fault":          {issuance.Issue, fault, true},
		"a refusal":        {issuance.Issue, apierrors.NewForbidden(corev1.Resource("secrets"), "web-tls", nil), false},
		"no Secret":        {issuance.Issue, apierrors.NewNotFound(corev1.Resource("secrets"), "web-tls"), false},
		"another's repair": {issuance.Repair, fault, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, _, _ := newTestQueue(t)
			made, err := pki.NewKey(quick)
			if err != nil {
				t.Fatal(err)
			}
			live := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
				Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
					return tc.err
				},
			}).Build()
			r := &Reconciler{Live: live, KeyQueue: l, RejectionBackoff: NewRejectionBackoff()}
			service := serviceRequesting("web", "web-tls")
			in := input{service: service, generatedKey: made, ca: &keyring.CA{}, desired: issuance.Desired{
				SecretRef: issuance.SecretRef{Service: service, Policy: &v1alpha1.ServingCertPolicy{}}, Leaf: pki.LeafSpec{DNSNames: []string{"web.shop.svc"}},
			}}
			in.desired.Policy.Spec.Certificate.PrivateKey.RotationPolicy = v1alpha1.RotateNever
			authority, there := served(t, time.Now(), time.Hour)
			in.secret, in.ca.Certificate = there, authority.Certificate()
			_, err = r.execute(t.Context(), in, issuance.Plan{Action: tc.action})
			if key := l.take(named("web")); (key == made) != tc.kept {
				t.Errorf("%v, and the key is there: %t, want %t", err, key == made, tc.kept)
			}
		})
	}
}

// A key that already has a certificate, because the write succeeded without a response, is not used
// for another certificate.
func TestKeyServesOnce(t *testing.T) {
	t.Parallel()
	now := time.Now()
	authority, there := served(t, now, time.Hour)
	made, err := pki.NewKey(quick)
	if err != nil {
		t.Fatal(err)
	}
	written, err := authority.Issue(now, pki.LeafSpec{DNSNames: []string{"web.shop.svc"}, Key: quick}, time.Hour, made)
	if err != nil {
		t.Fatal(err)
	}
	after := digested(&corev1.Secret{Data: map[string][]byte{corev1.TLSCertKey: written.Certificate, corev1.TLSPrivateKeyKey: written.PrivateKey}})
	for name, tc := range map[string]struct {
		secret *corev1.Secret
		used   bool
	}{"none": {nil, true}, "another": {there, true}, "its own": {after, false}} {
		desired := issuance.Desired{SecretRef: issuance.SecretRef{Policy: &v1alpha1.ServingCertPolicy{}}}
		key, err := (&Reconciler{}).keyFor(t.Context(), input{secret: tc.secret, generatedKey: made, desired: desired, ca: &keyring.CA{}})
		if err != nil || (key == made) != tc.used {
			t.Errorf("beside the certificate of %s it is used: %t, want %t; %v", name, key == made, tc.used, err)
		}
	}
}
