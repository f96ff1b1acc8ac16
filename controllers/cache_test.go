package controllers_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// A list runs the cache's transform twice. The second run leaves a certificate unchanged, however
// large it is and whatever text surrounds it.
func TestCachedSecretsAreWhole(t *testing.T) {
	t.Parallel()
	now := time.Date(2071, time.March, 14, 15, 9, 26, 0, time.UTC)
	spec := pki.LeafSpec{Key: pki.KeySpec{Algorithm: v1alpha1.Ed25519}}
	for i := range 30 {
		spec.DNSNames = append(spec.DNSNames, fmt.Sprintf("%d.%s.svc", i, strings.Repeat(strings.Repeat("w", 60)+".", 3)))
	}
	root, err := pki.GenerateRoot(now, pki.RootSpec{CommonName: "ca", Duration: time.Hour, Key: spec.Key})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.LoadAuthority(root)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(now, spec, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-tls", Labels: map[string]string{v1alpha1.LabelService: "web"}},
		Data:       map[string][]byte{corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.PrivateKey},
	}
	for i := range 40 {
		secret.Labels[fmt.Sprintf("%s/%d", v1alpha1.GroupName, i)] = "tenant"
	}
	transform := transformOfSecrets(t)
	var before *corev1.Secret
	for range 2 {
		cached, err := transform(secret)
		if err != nil || cached != secret {
			t.Fatalf("%v is cached: %v", cached, err)
		}
		if leaf, err := issuance.Leaf(secret); err != nil || len(leaf.Raw) < 5000 || len(leaf.DNSNames) != len(spec.DNSNames) {
			t.Errorf("the certificate is %v: %v", leaf, err)
		}
		if before != nil && !cmp.Equal(before, secret) {
			t.Errorf("(-once +twice):\n%s", cmp.Diff(before, secret))
		}
		before = secret.DeepCopy()
	}
}

func transformOfSecrets(t *testing.T) toolscache.TransformFunc {
	t.Helper()
	options, err := controllers.ManagerOptions()
	if err != nil {
		t.Fatal(err)
	}
	for object, how := range options.Cache.ByObject {
		if _, ok := object.(*corev1.Secret); ok {
			return how.Transform
		}
	}
	t.Fatal("Secrets are cached as they are")
	return nil
}
