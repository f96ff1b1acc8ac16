package issuance_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// TestIssuedAt checks that the API server's clock determines when a certificate was written, since
// our own clock may be wrong, and that later writes do not count.
func TestIssuedAt(t *testing.T) {
	t.Parallel()
	authority := newSigner(t, now.Add(-day))
	pair, err := authority.Issue(now, pki.LeafSpec{DNSNames: []string{"web.shop.svc"}, Key: pki.KeySpec{Algorithm: "Ed25519"}}, day, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed := now.Truncate(time.Second)
	wrote := func(manager string, operation metav1.ManagedFieldsOperationType, after time.Duration) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Operation: operation, Time: new(metav1.NewTime(signed.Add(after)))}
	}
	const ours, update = "servingcert-certificate", metav1.ManagedFieldsOperationUpdate
	for name, tc := range map[string]struct {
		fields []metav1.ManagedFieldsEntry
		want   time.Duration
	}{
		"nobody wrote":              {nil, 0},
		"at once":                   {[]metav1.ManagedFieldsEntry{wrote(ours, update, 2*time.Second)}, 2 * time.Second},
		"the signer's clock behind": {[]metav1.ManagedFieldsEntry{wrote(ours, update, 4*time.Minute)}, 4 * time.Minute},
		"the signer's clock ahead":  {[]metav1.ManagedFieldsEntry{wrote(ours, update, -50*time.Minute)}, -50 * time.Minute},
		"another annotation, later": {[]metav1.ManagedFieldsEntry{wrote(ours, update, time.Hour)}, 0},
		"somebody else":             {[]metav1.ManagedFieldsEntry{wrote("kubectl", update, 2*time.Second)}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{ManagedFields: tc.fields}, Data: map[string][]byte{
				corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.PrivateKey,
			}}
			issuance.Digest(secret)
			if got := issuance.IssuedAt(secret).Sub(signed); got != tc.want {
				t.Errorf("it was written %s after it was signed, want %s", got, tc.want)
			}
		})
	}
	if got := issuance.IssuedAt(&corev1.Secret{}); !got.IsZero() {
		t.Errorf("no certificate was issued %s", got)
	}
}
