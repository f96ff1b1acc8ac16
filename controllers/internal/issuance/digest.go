package issuance

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/lru"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// matchingKey and matchingKeyPKCS1 replace a private key in a digest when it belongs to the
// certificate beside it. Which of the two depends on the key's encoding.
const (
	matchingKey      = "sound"
	matchingKeyPKCS1 = "sound, " + string(v1alpha1.PKCS1)
)

// keyMatches reports whether the private key in a digest belongs to the certificate beside it.
func keyMatches(digest *corev1.Secret) bool {
	key := digest.StringData[corev1.TLSPrivateKeyKey]
	return key == matchingKey || key == matchingKeyPKCS1
}

// hasEncoding reports whether a private key that belongs to its certificate has the encoding.
func hasEncoding(digest *corev1.Secret, encoding v1alpha1.KeyEncoding) bool {
	return (digest.StringData[corev1.TLSPrivateKeyKey] == matchingKeyPKCS1) == (encoding == v1alpha1.PKCS1)
}

// The labels of a digest that hold the certificate (in DER), the key ID of its signer, and the
// times, in Unix seconds, when it was written and of its notAfter. They are labels because a
// separate map would cost two thirds of the memory of the data it holds. Labels with these names on
// the real Secret are removed.
const (
	leafLabel     = v1alpha1.GroupName + "/leaf"
	signerLabel   = v1alpha1.GroupName + "/leaf-signer"
	issuedLabel   = v1alpha1.GroupName + "/leaf-issued"
	notAfterLabel = v1alpha1.GroupName + "/leaf-end"
)

// Digest replaces the data that a cache must not or need not hold: the private key by whether it
// belongs to the certificate, the values that may be beside it by their hashes, and unexpected keys
// by their names only. The results are in stringData, which the API server never returns. So a
// digest is recognizable, and Digest does not change a digest. Digest modifies the Secret.
func Digest(secret *corev1.Secret) {
	if IsDigest(secret) {
		return
	}
	for _, label := range []string{leafLabel, signerLabel, issuedLabel, notAfterLabel} {
		delete(secret.Labels, label)
	}
	// tls.crt may contain other things, such as the private key: only the parsed certificates are
	// kept.
	leaf, keyErr := pki.Inspect(pki.Pair{Certificate: secret.Data[corev1.TLSCertKey], PrivateKey: secret.Data[corev1.TLSPrivateKeyKey]})
	if leaf.Certificate != "" {
		metav1.SetMetaDataLabel(&secret.ObjectMeta, leafLabel, leaf.Certificate)
		metav1.SetMetaDataLabel(&secret.ObjectMeta, signerLabel, leaf.Signer)
		metav1.SetMetaDataLabel(&secret.ObjectMeta, issuedLabel, formatUnixSeconds(issuedAt(secret, leaf.IssuedAt)))
		metav1.SetMetaDataLabel(&secret.ObjectMeta, notAfterLabel, formatUnixSeconds(leaf.NotAfter))
	}
	_, marked := bundleMarker(secret)
	secret.StringData, secret.Data = digestOf(secret.Data, leaf, keyErr, marked, injectionKey(secret)), nil
	if apply.IsManagedBy(secret, apply.ServingCert) {
		secret.ManagedFields = ownManagedFields
	} else {
		secret.ManagedFields = nil
	}
	// After a restore with kubectl this annotation contains the whole Secret once more.
	delete(secret.Annotations, corev1.LastAppliedConfigAnnotation)
}

// IsDigest reports whether a Secret is a digest.
func IsDigest(secret *corev1.Secret) bool { return secret.StringData != nil }

// SameContent reports whether the Secrets of two digests have the same name, labels, annotations,
// owners and data. When they were written does not matter.
func SameContent(a, b *corev1.Secret) bool {
	return a.Namespace == b.Namespace && a.Name == b.Name && equalExcept(issuedLabel, a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations) &&
		maps.Equal(a.StringData, b.StringData) && equality.Semantic.DeepEqual(a.OwnerReferences, b.OwnerReferences)
}

// equalExcept reports whether two maps are equal, ignoring the value of one key that must be in
// both or in neither.
func equalExcept(ignoredKey string, a, b map[string]string) bool {
	for key, value := range a {
		if other, ok := b[key]; !ok || (other != value && key != ignoredKey) {
			return false
		}
	}
	return len(a) == len(b)
}

// ownManagedFields is all that digests keep of the managed fields. All digests share it; it must
// not be modified.
var ownManagedFields = []metav1.ManagedFieldsEntry{{Manager: string(apply.ServingCert)}}

// commonDigests holds the data of nearly all digests: a certificate with its key and nothing else.
// Digests with the same chain share one map, which must not be modified.
var commonDigests = lru.New(64)

// Leaf returns the certificate in a digest with its chain, or an error that says why there is none.
func Leaf(secret *corev1.Secret) (*pki.Leaf, error) {
	certificate, ok := secret.Labels[leafLabel]
	if !ok {
		return nil, errors.New(secret.StringData[corev1.TLSPrivateKeyKey])
	}
	return pki.ParseParts(certificate, secret.StringData[corev1.TLSCertKey])
}

// SignerAndExpiry returns the key ID (see pki.KeyID) that the certificate in a digest names as its
// signer, and the certificate's notAfter; false without a certificate. It does not parse the
// certificate.
func SignerAndExpiry(secret *corev1.Secret) (signer string, notAfter time.Time, ok bool) {
	notAfter = timeFromLabel(secret, notAfterLabel)
	return secret.Labels[signerLabel], notAfter, !notAfter.IsZero()
}

// formatUnixSeconds formats a time in Unix seconds: certificates are no more precise.
func formatUnixSeconds(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

// timeFromLabel returns the time in a label of a digest; zero without one.
func timeFromLabel(secret *corev1.Secret, label string) time.Time {
	since, err := strconv.ParseInt(secret.Labels[label], 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(since, 0).UTC()
}

// keyDigest returns what replaces a private key in a digest: its encoding, or why it does not
// belong to the certificate.
func keyDigest(encoding v1alpha1.KeyEncoding, keyErr error) string {
	switch {
	case keyErr != nil:
		return keyErr.Error()
	case encoding == v1alpha1.PKCS1:
		return matchingKeyPKCS1
	}
	return matchingKey
}

// maxOtherKeys limits how many unexpected keys of a Secret a digest lists at a time: a tenant may
// write a hundred thousand.
const maxOtherKeys = 32

func digestOf(data map[string][]byte, leaf pki.Parts, keyErr error, marked, injected string) map[string]string {
	var others []string
	digest := map[string]string{corev1.TLSPrivateKeyKey: keyDigest(leaf.Encoding, keyErr)}
	if leaf.Chain != "" {
		digest[corev1.TLSCertKey] = leaf.Chain
	}
	minimal := len(digest)
	for key, value := range data {
		switch key {
		case corev1.TLSCertKey, corev1.TLSPrivateKeyKey:
		case bundleKey, v1alpha1.KeystoreKey, marked, injected:
			digest[strings.Clone(key)] = pki.Hash(value)
		default:
			others = append(others, key)
		}
	}
	if len(others) > maxOtherKeys {
		slices.Sort(others)
		others = others[:maxOtherKeys]
	}
	for _, key := range others {
		digest[strings.Clone(key)] = ""
	}
	if len(digest) > minimal || keyErr != nil || len(leaf.Chain) > pki.MaxChainLength {
		return digest
	}
	return internDigest(digest[corev1.TLSPrivateKeyKey]+leaf.Chain, digest)
}

// internDigest returns one shared map for all equal digests.
func internDigest(content string, digest map[string]string) map[string]string {
	if cached, ok := commonDigests.Get(content); ok {
		digest, _ = cached.(map[string]string)
		return digest
	}
	commonDigests.Add(content, digest)
	return digest
}

// issuedAt returns when a certificate was written, by the clock of the API server. signed is when
// it was signed. If the Secret was written again later than clocks can differ, issuedAt returns
// signed.
func issuedAt(secret *corev1.Secret, signed time.Time) time.Time {
	for _, entry := range secret.ManagedFields {
		if entry.Manager == string(apply.ServingCert) && entry.Time != nil && entry.Time.Sub(signed) < pki.ClockSkew {
			return entry.Time.Time
		}
	}
	return signed
}

// IssuedAt returns when the certificate in a digest was written, by the clock of the API server as
// far as that is known; zero without a certificate.
func IssuedAt(secret *corev1.Secret) time.Time { return timeFromLabel(secret, issuedLabel) }

// NotAfter returns the notAfter of the certificate in a digest, no matter which CA signed it; zero
// when there is no certificate with a matching key.
func NotAfter(secret *corev1.Secret) time.Time {
	if secret == nil || !keyMatches(secret) {
		return time.Time{}
	}
	_, notAfter, _ := SignerAndExpiry(secret)
	return notAfter
}
