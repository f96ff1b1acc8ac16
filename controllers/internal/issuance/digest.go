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

// matchingKey and matchingKeyPKCS1 stand for a private key that belongs to the certificate beside it, in a digest, by its encoding.
const (
	matchingKey      = "sound"
	matchingKeyPKCS1 = "sound, " + string(v1alpha1.PKCS1)
)

// keyMatches reports whether the private key in a digest belongs to the certificate beside it.
func keyMatches(digest *corev1.Secret) bool {
	key := digest.StringData[corev1.TLSPrivateKeyKey]
	return key == matchingKey || key == matchingKeyPKCS1
}

// hasEncoding reports whether a sound key in a digest has an encoding.
func hasEncoding(digest *corev1.Secret, encoding v1alpha1.KeyEncoding) bool {
	return (digest.StringData[corev1.TLSPrivateKeyKey] == matchingKeyPKCS1) == (encoding == v1alpha1.PKCS1)
}

// Where a digest has the certificate, in DER, whom that names as its signer, and in seconds when it was written and when it ends: among its labels, for a
// map of its own would take two thirds of what it holds. A real Secret's labels of these names do not come through.
const (
	leafLabel     = v1alpha1.GroupName + "/leaf"
	signerLabel   = v1alpha1.GroupName + "/leaf-signer"
	issuedLabel   = v1alpha1.GroupName + "/leaf-issued"
	notAfterLabel = v1alpha1.GroupName + "/leaf-end"
)

// Digest replaces what a cache must not or need not hold: the private key by whether it belongs to the certificate, what may stand beside it by
// its hash, and what has no business there by its name. What it found out stands in stringData, which the API server never returns: so a digest
// is known for one, and digesting it again changes nothing. It changes the Secret that it is given.
func Digest(secret *corev1.Secret) {
	if IsDigest(secret) {
		return
	}
	for _, label := range []string{leafLabel, signerLabel, issuedLabel, notAfterLabel} {
		delete(secret.Labels, label)
	}
	// People put other things beside the certificates, such as the key: what is kept is only what was read.
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
	// It holds the whole Secret once more, where one was restored with kubectl.
	delete(secret.Annotations, corev1.LastAppliedConfigAnnotation)
}

// IsDigest tells a digest from a Secret.
func IsDigest(secret *corev1.Secret) bool { return secret.StringData != nil }

// SameContent reports whether two digests are of Secrets with the same name, labels, annotations, owners and data, whenever they were written.
func SameContent(a, b *corev1.Secret) bool {
	return a.Namespace == b.Namespace && a.Name == b.Name && equalExcept(issuedLabel, a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations) &&
		maps.Equal(a.StringData, b.StringData) && equality.Semantic.DeepEqual(a.OwnerReferences, b.OwnerReferences)
}

// equalExcept reports whether two maps say the same, whatever they say of one key that both have or neither.
func equalExcept(ignoredKey string, a, b map[string]string) bool {
	for key, value := range a {
		if other, ok := b[key]; !ok || (other != value && key != ignoredKey) {
			return false
		}
	}
	return len(a) == len(b)
}

// ownManagedFields is all that digests keep of the managed fields, one for all: nobody changes it.
var ownManagedFields = []metav1.ManagedFieldsEntry{{Manager: string(apply.ServingCert)}}

// commonDigests are the digests of nearly all: a certificate with its key, and nothing else. Those with the same chain share one, and nobody changes it.
var commonDigests = lru.New(64)

// Leaf is the certificate in a digest, with its chain; the error says why there is none.
func Leaf(secret *corev1.Secret) (*pki.Leaf, error) {
	certificate, ok := secret.Labels[leafLabel]
	if !ok {
		return nil, errors.New(secret.StringData[corev1.TLSPrivateKeyKey])
	}
	return pki.ParseParts(certificate, secret.StringData[corev1.TLSCertKey])
}

// SignerAndExpiry is whom the certificate in a digest names as its signer, by pki.KeyID, and when it ends; false without one. It is not read for that.
func SignerAndExpiry(secret *corev1.Secret) (signer string, notAfter time.Time, ok bool) {
	notAfter = timeFromLabel(secret, notAfterLabel)
	return secret.Labels[signerLabel], notAfter, !notAfter.IsZero()
}

// formatUnixSeconds are those since 1970: it is all that a certificate says.
func formatUnixSeconds(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

// timeFromLabel is the time in a label of a digest; zero without one.
func timeFromLabel(secret *corev1.Secret, label string) time.Time {
	since, err := strconv.ParseInt(secret.Labels[label], 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(since, 0).UTC()
}

// keyDigest returns what stands for a private key in a digest: its encoding, or why it does not belong to the certificate.
func keyDigest(encoding v1alpha1.KeyEncoding, keyErr error) string {
	switch {
	case keyErr != nil:
		return keyErr.Error()
	case encoding == v1alpha1.PKCS1:
		return matchingKeyPKCS1
	}
	return matchingKey
}

// maxOtherKeys is how many keys that have no business in a Secret are known at a time: a tenant may write a hundred thousand.
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

// internDigest is the one of those that are alike.
func internDigest(content string, digest map[string]string) map[string]string {
	if cached, ok := commonDigests.Get(content); ok {
		digest, _ = cached.(map[string]string)
		return digest
	}
	commonDigests.Add(content, digest)
	return digest
}

// issuedAt is when a certificate that was signed at a time was written, by the clock of the API server; where the Secret was written again later than
// clocks differ, it is when it was signed.
func issuedAt(secret *corev1.Secret, signed time.Time) time.Time {
	for _, entry := range secret.ManagedFields {
		if entry.Manager == string(apply.ServingCert) && entry.Time != nil && entry.Time.Sub(signed) < pki.ClockSkew {
			return entry.Time.Time
		}
	}
	return signed
}

// IssuedAt is when the certificate in a digest was written, by the clock of the API server, as far as that is known. Zero without a certificate.
func IssuedAt(secret *corev1.Secret) time.Time { return timeFromLabel(secret, issuedLabel) }

// NotAfter is when the certificate in a digest ends, whoever signed it; zero when there is none that could serve.
func NotAfter(secret *corev1.Secret) time.Time {
	if secret == nil || !keyMatches(secret) {
		return time.Time{}
	}
	_, notAfter, _ := SignerAndExpiry(secret)
	return notAfter
}
