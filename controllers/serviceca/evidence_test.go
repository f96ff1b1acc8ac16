package serviceca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
	"github.com/servingcert/operator/controllers/servingcert"
)

// TestUntrusted checks that a certificate forged by a tenant, whose signer has the name and key ID
// of the real one, does not make other certificates count as untrusted, and that a certificate that
// cannot be reissued is not counted.
func TestUntrusted(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	state := s.settle()
	genuine, err := state.Active.Issue(now, pki.LeafSpec{
		DNSNames: []string{"web.shop.svc"}, Usages: []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth}, Key: pki.KeySpec{Algorithm: v1alpha1.Ed25519},
	}, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	ours := state.Active.Certificate()
	sameSubject := generateCA(t, "", nil, func(c *x509.Certificate) { c.Subject, c.SubjectKeyId = ours.Subject, ours.SubjectKeyId })
	forged := pemOf(forge(t, sameSubject))
	lost := *state
	lost.Active, lost.Next = nil, state.Active
	secret := func(name string, certificate []byte) client.Object {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{v1alpha1.LabelServiceCA: "default"}},
			Data:       map[string][]byte{corev1.TLSCertKey: certificate},
		}
	}
	for name, tc := range map[string]struct {
		state   *rotation.State
		secrets []client.Object
		want    int32
	}{
		"all genuine":         {state, []client.Object{secret("a", genuine.Certificate), secret("b", genuine.Certificate)}, 0},
		"a forged one":        {state, []client.Object{secret("a", forged), secret("b", genuine.Certificate), secret("c", genuine.Certificate)}, 1},
		"forged, and blocked": {state, []client.Object{secret("in-vain", forged), secret("z", genuine.Certificate)}, 0},
		"the key was lost":    {&lost, []client.Object{secret("a", genuine.Certificate)}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &Reconciler{
				Cache: fake.NewClientBuilder().WithObjects(tc.secrets...).WithInterceptorFuncs(interceptor.Funcs{List: digesting}).Build(), Clock: clocktesting.NewFakePassiveClock(now),
				Claims: func(context.Context) (func(*corev1.Secret) servingcert.Claim, error) {
					return func(secret *corev1.Secret) servingcert.Claim {
						return servingcert.Claim{Wanted: true, Unresolvable: secret.Name == "in-vain"}
					}, nil
				},
			}
			evidence := clusterEvidence{certificates: map[string]int32{}}
			if err := r.countSecrets(t.Context(), "default", "", tc.state, &evidence); err != nil {
				t.Fatal(err)
			}
			if evidence.untrusted != tc.want {
				t.Errorf("%d certificates are said not to chain to the bundle, want %d", evidence.untrusted, tc.want)
			}
		})
	}
}

// forge returns a serving certificate signed by this CA.
func forge(t *testing.T, by *testCA) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return generateCAWith(t, "web.shop.svc", key, by, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
}

// digesting lists Secrets as the operator's cache does, which holds digests.
func digesting(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
	err := c.List(ctx, list, options...)
	if secrets, ok := list.(*corev1.SecretList); ok {
		for i := range secrets.Items {
			issuance.Digest(&secrets.Items[i])
		}
	}
	return err
}
