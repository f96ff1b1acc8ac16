package keyring_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/utils/ptr"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// have returns the CA that the keyring returns, and fails if there is none.
func (f fixture) have() *keyring.CA {
	f.Helper()
	ca, err := f.keys.Get(f.Context(), f.serviceCA)
	if err != nil {
		f.Fatal(err)
	}
	return ca
}

// TestSameCA checks that the keyring returns the same pointer while neither the status nor the
// Secret has changed, so that what is cached about the CA stays valid.
func TestSameCA(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(fixture)
		same   bool
	}{
		"nothing": {func(fixture) {}, true},
		"a compromise": {func(s fixture) {
			s.serviceCA.Spec.Rotation.Trigger, s.serviceCA.Spec.Rotation.TriggerReason = "stolen", v1alpha1.TriggerCompromise
		}, false},
		"the Secret": {func(s fixture) { s.secret.ResourceVersion = "2" }, false},
		"the status": {func(s fixture) { s.serviceCA.Status.Active.LongestDurationSeconds = ptr.To[int64](7) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t)
			before := s.have()
			s.clock.SetTime(s.clock.Now().Add(time.Hour))
			tc.change(s)
			if same := s.have() == before; same != tc.same {
				t.Errorf("it is the same: %t, want %t", same, tc.same)
			}
			s.expectReads(2)
		})
	}
}

// certify returns a certificate of a CA for a key, issued by another CA, or self-signed if issuer
// is nil.
func certify(t *testing.T, name string, serial int64, notAfter time.Time, key crypto.Signer, issuer *x509.Certificate, by crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: notAfter.Truncate(time.Second),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if issuer == nil {
		issuer = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// TestParentEnds checks that a CA whose Secret has both its parent and the renewed parent does not
// expire with the first, although the Secret does not change.
func TestParentEnds(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	keys := make([]*ecdsa.PrivateKey, 3)
	for i := range keys {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = key
	}
	soon, late := now.Add(2*time.Hour).Truncate(time.Second), now.Add(4*time.Hour).Truncate(time.Second)
	root := certify(t, "root", 1, late.Add(time.Hour), keys[0], nil, keys[0])
	parent := certify(t, "parent", 2, soon, keys[1], root, keys[0])
	renewed := certify(t, "parent", 3, late, keys[1], root, keys[0])
	signer := certify(t, "signer", 4, late.Add(time.Hour), keys[2], parent, keys[1])
	encoded := func(certificates ...*x509.Certificate) (all []byte) {
		for _, one := range certificates {
			all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one.Raw})...)
		}
		return all
	}
	private, err := keyutil.MarshalPrivateKeyToPEM(keys[2])
	if err != nil {
		t.Fatal(err)
	}
	s.secret.Data = map[string][]byte{
		corev1.TLSCertKey: encoded(signer, parent, renewed), corev1.TLSPrivateKeyKey: private, rotation.BundleKey: encoded(root),
	}
	s.serviceCA.Status.Active.Fingerprint = pki.Fingerprint(signer, parent, renewed)
	s.serviceCA.Status.TrustBundle.Hash = pki.Hash(s.secret.Data[rotation.BundleKey])
	if notAfter := s.have().NotAfter; !notAfter.Equal(soon) {
		t.Errorf("it ends %s, want %s, with its parent", notAfter, soon)
	}
	s.clock.SetTime(soon.Add(time.Minute))
	if notAfter := s.have().NotAfter; !notAfter.Equal(late) {
		t.Errorf("it ends %s, want %s, with its renewed parent", notAfter, late)
	}
}

// TestReissueBegins checks that reissues that a pause held back are spread over the time from the
// end of the pause, however long they take and whatever else changes. So are those that were due
// before this process first needed the CA.
func TestReissueBegins(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	asked := now.Add(time.Hour)
	s.clock.SetTime(asked)
	begun := func(when time.Time) {
		t.Helper()
		if got := s.have().Reissue.StartedAt; !got.Equal(when) {
			t.Errorf("at %s: it began %s, want %s", s.clock.Now(), got, when)
		}
		s.clock.SetTime(s.clock.Now().Add(2 * time.Minute))
	}
	longest := int64(0)
	changes := func(when time.Time) {
		t.Helper()
		begun(when)
		s.secret.ResourceVersion += "1"
		begun(when)
		longest++
		s.serviceCA.Status.Active.LongestDurationSeconds = &longest
		// The controller that writes the Secret calls Forget.
		s.keys.Forget("default")
		begun(when)
	}
	changes(asked)
	for range 2 {
		s.serviceCA.Spec.Rotation.Mode = v1alpha1.RotationPaused
		begun(asked)
		s.keys.Forget("default")
		s.serviceCA.Spec.Rotation.Mode = v1alpha1.RotationAutomatic
		asked = s.clock.Now()
		changes(asked)
	}
	s.serviceCA.UID = "uid-of-the-next"
	changes(s.clock.Now())
}
