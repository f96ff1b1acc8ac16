package issuance

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// canReplace reports whether the Service may replace a Secret. It may if the Secret was made for a
// Service of its name, or for a Service that no longer has any claim (one that still requests the
// Secret is a competitor, which Plan has checked before). A Service that requests by an OpenShift
// annotation may also replace a Secret whose OpenShift annotation names the Service's UID.
func (d Desired) canReplace(secret *corev1.Secret) bool {
	if secret.Type != corev1.SecretTypeTLS {
		return false
	}
	if labeled := secret.Labels[v1alpha1.LabelService]; labeled != "" {
		return isLabeledFor(secret, labeled) || IsOwnedBy(secret, d.Service)
	}
	if IsOwnedBy(secret, d.Service) && apply.IsManagedBy(secret, apply.ServingCert) {
		// Our label was removed.
		return true
	}
	return d.Family.IsOpenShift() && slices.ContainsFunc(openShiftFamilies, func(family Family) bool {
		return secret.Annotations[family.key(suffixUID)] == string(d.Service.UID)
	})
}

// isLabeledFor reports whether a Secret was made for a Service of this name: it has our label, and
// its owner is that Service, or it has no owner.
func isLabeledFor(secret *corev1.Secret, name string) bool {
	return secret.Labels[v1alpha1.LabelService] == name && (len(secret.OwnerReferences) == 0 ||
		slices.ContainsFunc(secret.OwnerReferences, func(owner metav1.OwnerReference) bool {
			return owner.APIVersion == "v1" && owner.Kind == "Service" && owner.Name == name
		}))
}

// KeepsPrivateKey reports whether a renewal keeps the private key in a digest. It does if the
// policy says so, and if the certificate beside the key was signed for this Service by the CA or by
// an earlier generation that was not compromised. Any other key may have been put there by a
// tenant, or by an attacker with a stolen signing key.
func (d Desired) KeepsPrivateKey(secret *corev1.Secret, ca *CA) bool {
	if d.Policy.Spec.Certificate.PrivateKey.RotationPolicy != v1alpha1.RotateNever || secret == nil ||
		!IsOwnedBy(secret, d.Service) || !keyMatches(secret) {
		return false
	}
	leaf, err := Leaf(secret)
	return err == nil && leaf.VerifyHostname(d.Leaf.DNSNames[0]) == nil &&
		slices.ContainsFunc(ca.generations(), func(one *x509.Certificate) bool { return leaf.CheckIssuer(one, ca.Signatures) == nil })
}

// IsOwnedBy reports whether the Secret is owned by this Service, by its UID, and so is deleted with
// it.
func IsOwnedBy(secret metav1.Object, service *corev1.Service) bool {
	return slices.ContainsFunc(secret.GetOwnerReferences(), func(owner metav1.OwnerReference) bool {
		return owner.UID == service.UID
	})
}

// Labels returns the labels of the Secret.
func (d Desired) Labels() map[string]string {
	return map[string]string{
		v1alpha1.LabelService:   d.Service.Name,
		v1alpha1.LabelServiceCA: d.Policy.Spec.ServiceCAName,
	}
}

func (d Desired) annotations(notAfter time.Time, bundles bundlePlacement) map[string]string {
	annotations := map[string]string{}
	if bundles.marker != "" {
		annotations[v1alpha1.AnnotationCABundleHash] = bundles.marker
	}
	if d.Family.IsOpenShift() {
		annotations[d.Family.key(suffixUID)] = string(d.Service.UID)
		annotations[d.Family.key(suffixName)] = d.Service.Name
		for _, family := range openShiftFamilies {
			annotations[family.key(suffixExpiry)] = notAfter.UTC().Format(time.RFC3339)
		}
	}
	return annotations
}

// hasMetadata reports whether a Secret has the desired annotations and labels.
func (d Desired) hasMetadata(secret *corev1.Secret, notAfter time.Time, bundles bundlePlacement) bool {
	_, hasMarker := secret.Annotations[v1alpha1.AnnotationCABundleHash]
	return hasMarker == (bundles.marker != "") &&
		containsAll(secret.Annotations, d.annotations(notAfter, bundles)) && containsAll(secret.Labels, d.Labels())
}

func containsAll(all, subset map[string]string) bool {
	for key, value := range subset {
		if got, ok := all[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// content is the part of a Secret that the operator owns.
type content struct {
	labels, annotations map[string]string
	data                map[string][]byte
}

// content returns the content of the Secret for this certificate and key. A keystore, if one is
// desired, gets this password. existing is the digest of the existing Secret, nil without one.
func (d Desired) content(pair pki.Pair, password string, ca *CA, existing *corev1.Secret) (content, error) {
	leaf, err := pair.Leaf()
	if err != nil {
		return content{}, err
	}
	bundles := d.placeBundle(existing, ca)
	wanted := content{d.Labels(), d.annotations(leaf.NotAfter, bundles), map[string][]byte{
		corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.PrivateKey,
	}}
	if existing != nil {
		if replaced := recordReplaced(existing, leaf); replaced != "" {
			wanted.annotations[v1alpha1.AnnotationReplaced] = replaced
		}
	}
	for _, key := range bundles.keys {
		wanted.data[key] = ca.Bundle
	}
	if d.Keystore != nil {
		keystore, err := pki.Keystore(pair, password)
		if err != nil {
			return content{}, err
		}
		wanted.data[v1alpha1.KeystoreKey], wanted.annotations[v1alpha1.AnnotationKeystoreHash] = keystore, d.Keystore.marker(keystore)
	}
	return wanted, nil
}

// Secret returns the Secret to create when there is none.
func (d Desired) Secret(pair pki.Pair, password string, ca *CA) (*corev1.Secret, error) {
	wanted, err := d.content(pair, password, ca, nil)
	if d.Family.IsOpenShift() && err == nil {
		// Only on creation: a digest does not say whether another component has claimed the Secret
		// since.
		wanted.annotations[AnnotationOwningComponent] = OwningComponent
		wanted.annotations[annotationDescription] = fmt.Sprintf("The serving certificate and its key for %s.%s.svc, which Service %s asks for by %s.",
			d.Service.Name, d.Service.Namespace, d.Service.Name, d.Family.key(suffixSecretName))
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Service.Namespace, Name: d.SecretName, Labels: wanted.labels, Annotations: wanted.annotations,
			OwnerReferences: []metav1.OwnerReference{d.ownerReference()},
		},
		Type: corev1.SecretTypeTLS,
		Data: wanted.data,
	}, err
}

// Patch returns a JSON merge patch (RFC 7386) that brings a Secret to its desired state. The patch
// applies to the exact version of the digest only. It keeps what other writers put there, and it
// removes what is ours and no longer desired: the values whose hash is in our markers.
func (d Desired) Patch(pair pki.Pair, password string, ca *CA, existing *corev1.Secret) ([]byte, error) {
	wanted, err := d.content(pair, password, ca, existing)
	if err != nil {
		return nil, err
	}
	annotations, data := map[string]any{}, map[string]any{}
	for _, annotation := range []string{v1alpha1.AnnotationCABundleHash, v1alpha1.AnnotationKeystoreHash} {
		if _, has := existing.Annotations[annotation]; has {
			annotations[annotation] = nil
		}
	}
	for _, key := range staleBundleKeys(existing, nil) {
		data[key] = nil
	}
	if hash, _, _ := strings.Cut(existing.Annotations[v1alpha1.AnnotationKeystoreHash], "/"); hash != "" && existing.StringData[v1alpha1.KeystoreKey] == hash {
		data[v1alpha1.KeystoreKey] = nil
	}
	for _, family := range openShiftFamilies {
		for _, suffix := range []string{suffixUID, suffixName, suffixExpiry} {
			if _, ok := existing.Annotations[family.key(suffix)]; ok {
				annotations[family.key(suffix)] = nil
			}
		}
	}
	for key, value := range wanted.annotations {
		annotations[key] = value
	}
	for key, value := range wanted.data {
		data[key] = value
	}
	return json.Marshal(map[string]any{
		"metadata": map[string]any{
			"uid": existing.UID, "resourceVersion": existing.ResourceVersion,
			"labels": wanted.labels, "annotations": annotations, "ownerReferences": d.ownerReferences(existing),
		},
		"data": data,
	})
}

func (d Desired) ownerReference() metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "v1", Kind: "Service", Name: d.Service.Name, UID: d.Service.UID}
}

// ownerReferences returns the Service and the owners that others set, without any Service that the
// Secret was made for before.
func (d Desired) ownerReferences(existing *corev1.Secret) []metav1.OwnerReference {
	return append(slices.DeleteFunc(slices.Clone(existing.OwnerReferences), func(owner metav1.OwnerReference) bool {
		before := owner.Name == d.Service.Name || owner.Name == existing.Labels[v1alpha1.LabelService]
		return owner.UID == d.Service.UID || (owner.APIVersion == "v1" && owner.Kind == "Service" && before)
	}), d.ownerReference())
}

// UnexpectedKeys returns the keys of a Secret (a digest) that OpenShift's annotations do not allow;
// nil when the Service does not request by one of them.
func (d Desired) UnexpectedKeys(secret *corev1.Secret) []string {
	if !d.Family.IsOpenShift() {
		return nil
	}
	var unexpected []string
	for key := range secret.StringData {
		if key != corev1.TLSCertKey && key != corev1.TLSPrivateKeyKey {
			unexpected = append(unexpected, key)
		}
	}
	slices.Sort(unexpected)
	return unexpected
}
