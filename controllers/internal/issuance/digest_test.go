package issuance_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
)

func TestDigest(t *testing.T) {
	s := newIssuedFixture(t, certificateEdit(func(c *v1alpha1.ServingCertificate) { c.CABundle = v1alpha1.CABundleInclude }))
	s.secret.Data["password"] = []byte("hunter2")
	s.secret.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "servingcert"}}
	digest := s.digest()
	if digest.Data != nil {
		t.Errorf("data: %v", digest.Data)
	}
	if leaf, err := issuance.Leaf(digest); err != nil || !leaf.Equal(s.leaf().Certificate) {
		t.Errorf("its certificate is another one: %v", err)
	}
	wantSigner, wantEnd := pki.KeyID(s.ca.CA.Certificate.SubjectKeyId), s.leaf().NotAfter
	if signer, notAfter, signed := issuance.SignerAndExpiry(digest); !signed || signer != wantSigner || !notAfter.Equal(wantEnd) {
		t.Errorf("%t: signed by %s until %s, want %s and %s", signed, signer, notAfter, wantSigner, wantEnd)
	}
	want := map[string]string{"tls.key": "sound", "ca.crt": pki.Hash(s.ca.Bundle), "password": ""}
	if diff := cmp.Diff(want, digest.StringData); diff != "" {
		t.Errorf("stringData (-want +got):\n%s", diff)
	}
	if digest.ManagedFields != nil {
		t.Error("the managed fields are kept")
	}
	for key, want := range s.secret.Labels {
		if got := digest.Labels[key]; got != want {
			t.Errorf("label %s is %q, want %q", key, got, want)
		}
	}
	if diff := cmp.Diff(s.secret.OwnerReferences, digest.OwnerReferences); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
}

// TestSameContent checks that digests that differ only in when they were written have the same
// content, and that any other difference counts.
func TestSameContent(t *testing.T) {
	t.Parallel()
	s := newIssuedFixture(t)
	for name, tc := range map[string]struct {
		change func(*corev1.Secret)
		want   bool
	}{
		"nothing": {func(*corev1.Secret) {}, true},
		"when the API server wrote it": {func(s *corev1.Secret) {
			s.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "servingcert-certificate", Time: new(metav1.NewTime(now.Add(2 * time.Second)))}}
		}, true},
		"a label more":       {func(s *corev1.Secret) { s.Labels["app"] = "web" }, false},
		"a label less":       {func(s *corev1.Secret) { delete(s.Labels, v1alpha1.LabelServiceCA) }, false},
		"a label":            {func(s *corev1.Secret) { s.Labels[v1alpha1.LabelServiceCA] = "other" }, false},
		"an annotation":      {func(s *corev1.Secret) { s.Annotations = map[string]string{"note": "x"} }, false},
		"its owner":          {func(s *corev1.Secret) { s.OwnerReferences[0].UID = "other" }, false},
		"another key beside": {func(s *corev1.Secret) { s.Data["ca.crt"] = []byte("x") }, false},
		"no certificate":     {func(s *corev1.Secret) { delete(s.Data, "tls.crt") }, false},
		"its key":            {func(s *corev1.Secret) { s.Data["tls.key"] = []byte("x") }, false},
		"its name":           {func(s *corev1.Secret) { s.Name = "other" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed := s.secret.DeepCopy()
			tc.change(changed)
			issuance.Digest(changed)
			if got := issuance.SameContent(s.digest(), changed); got != tc.want {
				t.Errorf("the same: %t, want %t", got, tc.want)
			}
		})
	}
}

// TestDigestOfManyKeys checks that a digest stays small however many keys a tenant writes, and that
// the keys that OpenShift's annotations do not allow are all removed over several rounds.
func TestDigestOfManyKeys(t *testing.T) {
	t.Parallel()
	const many = 1000
	secret := secretOf(labelled("web"), func(s *corev1.Secret) { s.Data = map[string][]byte{} })
	for i := range many {
		secret.Data[strconv.Itoa(i)] = nil
	}
	desired := issuance.Desired{SecretRef: issuance.SecretRef{Family: issuance.OpenShift}}
	for rounds := 0; len(secret.Data) > 0; rounds++ {
		digest := secret.DeepCopy()
		issuance.Digest(digest)
		unexpected := desired.UnexpectedKeys(digest)
		if len(digest.StringData) > 50 || len(unexpected) == 0 || rounds == many {
			t.Fatalf("of %d keys the digest holds %d, of which %d are to be removed", len(secret.Data), len(digest.StringData), len(unexpected))
		}
		for _, key := range unexpected {
			delete(secret.Data, key)
		}
	}
}

// TestDigestKeepsNoKey checks that a digest contains no private key, wherever the Secret holds one,
// and that digesting it again changes nothing.
func TestDigestKeepsNoKey(t *testing.T) {
	s := newIssuedFixture(t)
	sound, other := s.pair(), newIssuedFixture(t).pair()
	values := map[string][]byte{
		"nothing": nil, "empty": {}, "garbage": []byte("garbage"), "certificate": sound.Certificate, "key": sound.PrivateKey,
		"another key": other.PrivateKey, "half a key": sound.PrivateKey[:120],
		"certificate and key":       slices.Concat(sound.Certificate, sound.PrivateKey),
		"key and certificate":       slices.Concat(sound.PrivateKey, sound.Certificate),
		"key in half a certificate": slices.Concat(sound.PrivateKey, sound.Certificate[:100]),
	}
	value := rapid.SampledFrom(slices.Sorted(maps.Keys(values)))
	rapid.Check(t, func(t *rapid.T) {
		secret := secretOf(labelled("web"), func(s *corev1.Secret) { s.Data = map[string][]byte{} })
		for key, name := range rapid.MapOfN(rapid.SampledFrom([]string{"tls.crt", "tls.key", "ca.crt", "key.pem"}), value, 0, 4).Draw(t, "data") {
			secret.Data[key] = values[name]
		}
		if rapid.Bool().Draw(t, "applied by kubectl") {
			encoded, err := json.Marshal(secret)
			secret.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: string(must(t, encoded, err)), "note": "kept"}
		}
		given := secret.DeepCopy()
		issuance.Digest(secret)
		for _, key := range [][]byte{sound.PrivateKey, other.PrivateKey} {
			if holds := whereIs(key, secret); holds != "" {
				t.Errorf("%s of the digest holds a private key", holds)
			}
		}
		if note := secret.Annotations["note"]; note != given.Annotations["note"] {
			t.Errorf("the annotation of others is %q", note)
		}
		before, unreadable := pki.ParseLeaf(given.Data["tls.crt"])
		after, err := issuance.Leaf(secret)
		if (err == nil) != (unreadable == nil) || (err == nil && !after.Equal(before.Certificate)) {
			t.Errorf("the certificate in the digest is %v, %v; in the Secret %v, %v", after, err, before, unreadable)
		}
		again := secret.DeepCopy()
		issuance.Digest(again)
		if diff := cmp.Diff(secret, again); diff != "" {
			t.Errorf("digested twice (-once +twice):\n%s", diff)
		}
	})
}

// whereIs returns where in a Secret a part of a PEM key appears, verbatim or in base64.
func whereIs(key []byte, secret *corev1.Secret) string {
	lines := strings.Split(string(key), "\n")
	places := map[string]string{}
	for name, value := range secret.Data {
		places["data."+name] = string(value)
	}
	for name, value := range secret.StringData {
		places["stringData."+name] = value
	}
	for name, value := range secret.Annotations {
		places["annotation "+name] = value
	}
	for name, value := range secret.Labels {
		places["label "+name] = value
	}
	for name, value := range places {
		if strings.Contains(value, lines[1][:40]) {
			return name
		}
		for candidate := range strings.FieldsFuncSeq(value, func(r rune) bool { return strings.ContainsRune(`"{}:,`, r) }) {
			if decoded, err := base64.StdEncoding.DecodeString(candidate); err == nil && strings.Contains(string(decoded), lines[1][:40]) {
				return name
			}
		}
	}
	return ""
}

// TestDigestIgnoresTheTenantsLabel checks that a label set by a tenant is never taken for a
// digest's certificate, signer or notAfter.
func TestDigestIgnoresTheTenantsLabel(t *testing.T) {
	t.Parallel()
	s := newIssuedFixture(t)
	genuine := s.digest()
	made := 0
	for key := range genuine.Labels {
		if _, ok := s.secret.Labels[key]; !ok {
			s.secret.Labels[key] = "3193700966"
			made++
		}
	}
	if again := s.digest(); made != 4 || !cmp.Equal(genuine.Labels, again.Labels) {
		t.Errorf("the labels of the digest are %q, want %q", again.Labels, genuine.Labels)
	}
	delete(s.secret.Data, "tls.crt")
	digest := s.digest()
	leaf, err := issuance.Leaf(digest)
	if signer, notAfter, signed := issuance.SignerAndExpiry(digest); err == nil || signed || signer != "" || !issuance.IssuedAt(digest).IsZero() {
		t.Errorf("a Secret without a certificate has %v, by %q, from %s until %s", leaf, signer, issuance.IssuedAt(digest), notAfter)
	}
}
