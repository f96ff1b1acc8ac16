package installation

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

var now = time.Date(2031, time.March, 4, 5, 6, 7, 0, time.UTC)

// signingKey returns a new signing-key Secret of ServiceCA default, and the status that names its
// CA.
func signingKey(t *testing.T, namespace string) (*corev1.Secret, v1alpha1.ServiceCAStatus) {
	t.Helper()
	pair, err := pki.GenerateRoot(now, pki.RootSpecOf(v1alpha1.CACertificate{CommonName: "ca", Duration: "24h"}))
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.LoadAuthority(pair)
	if err != nil {
		t.Fatal(err)
	}
	signer := &rotation.Signer{Authority: authority, Root: authority.Certificate(), Source: rotation.SelfSigned}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: "default-signing-key", Labels: map[string]string{v1alpha1.LabelServiceCA: "default"},
	}}
	if err := (&rotation.State{Phase: v1alpha1.PhaseStable, Since: now, Active: signer}).Write(secret); err != nil {
		t.Fatal(err)
	}
	return secret, v1alpha1.ServiceCAStatus{Active: &v1alpha1.CAGeneration{
		Fingerprint: signer.Fingerprint(), SubjectKeyID: pki.KeyID(authority.Certificate().SubjectKeyId),
	}}
}

// TestSigningKeyOutsideAmongForgeries checks that a signing key in another namespace is detected
// among many Secrets that a tenant labelled like one, and that only a few of these are read.
func TestSigningKeyOutsideAmongForgeries(t *testing.T) {
	t.Parallel()
	secret, status := signingKey(t, "operators")
	ca := &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Status: status}
	objects := []client.Object{secret}
	for i := range 500 {
		decoy, _ := signingKey(t, "a-tenant")
		decoy.Name = fmt.Sprintf("decoy-%d", i)
		objects = append(objects, decoy)
	}
	read := 0
	c := fake.NewClientBuilder().WithObjects(objects...).WithInterceptorFuncs(interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
			read++
			return c.Get(ctx, key, object, options...)
		},
	}).Build()
	found, err := SigningKeyOutside(t.Context(), now, c, ca, "servingcert-system")
	if err != nil || found == nil || *found != client.ObjectKeyFromObject(secret) {
		t.Errorf("the key is found in %v (%v)", found, err)
	}
	if read > 20 {
		t.Errorf("%d Secrets were read", read)
	}
}
