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

// canReplace reports whether a Secret is this Service's to replace: it was made for a Service of its name, or for one that has not
// the least claim any more (who still wants it is a competitor, and has been asked); or it is the very Service's by OpenShift's
// annotation, to a Service that asks by one.
func (d Desired) canReplace(secret *corev1.Secret) bool {
	if secret.Type != corev1.SecretTypeTLS {
		return false
	}
	if labeled := secret.Labels[v1alpha1.LabelService]; labeled != "" {
		return isLabeledFor(secret, labeled) || IsOwnedBy(secret, d.Service)
	}
	if IsOwnedBy(secret, d.Service) && apply.IsManagedBy(secret, apply.ServingCert) {
		// Somebody removed our label.
		return true
	}
	return d.Family.IsOpenShift() && slices.ContainsFunc(openShiftFamilies, func(family Family) bool {
		return secret.Annotations[family.key(suffixUID)] == string(d.Service.UID)
	})
}

// isLabeledFor reports whether a Secret was made for a Service of this name: it bears our label, and has that Service, or nobody, as
// its owner.
func isLabeledFor(secret *corev1.Secret, name string) bool {
	return secret.Labels[v1alpha1.LabelService] == name && (len(secret.OwnerReferences) == 0 ||
		slices.ContainsFunc(secret.OwnerReferences, func(owner metav1.OwnerReference) bool {
			return owner.APIVersion == "v1" && owner.Kind == "Service" && owner.Name == name
		}))
}

// KeepsPrivateKey reports whether a renewal keeps the private key in a digest: the policy wants that, and the certificate beside the
// key was signed for this very Service by the CA or by an earlier generation of it that was not compromised. Any other key may
// be one that a tenant, or a thief of a signing key, put there.
func (d Desired) KeepsPrivateKey(secret *corev1.Secret, ca *CA) bool {
	if d.Policy.Spec.Certificate.PrivateKey.RotationPolicy != v1alpha1.RotateNever || secret == nil ||
		!IsOwnedBy(secret, d.Service) || !keyMatches(secret) {
		return false
	}
	leaf, err := Leaf(secret)
	return err == nil && leaf.VerifyHostname(d.Leaf.DNSNames[0]) == nil &&
		slices.ContainsFunc(ca.generations(), func(one *x509.Certificate) bool { return leaf.CheckIssuer(one, ca.Signatures) == nil })
}

// IsOwnedBy reports whether the Secret goes when this very Service goes.
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

// hasMetadata reports whether a Secret has what annotations and labels say.
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

// content is what of a Secret is ours.
type content struct {
	labels, annotations map[string]string
	data                map[string][]byte
}

// content is the Secret with this certificate and key, and a keystore by this password where one is wanted. over is the digest of the one that is
// there, nil without one.
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

// Secret is the Secret as it is made, where there is none.
func (d Desired) Secret(pair pki.Pair, password string, ca *CA) (*corev1.Secret, error) {
	wanted, err := d.content(pair, password, ca, nil)
	if d.Family.IsOpenShift() && err == nil {
		// Only here: no digest says whether somebody else has claimed a Secret since.
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

// Patch is a JSON merge patch (RFC 7386) that makes a Secret as it should be, in the very version of its digest. It leaves alone what others
// put there, and removes what was ours and is not wanted any more: what has the hash in our mark.
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

// ownerReferences are the Service, and whom else others named; but no Service that the Secret was made for before.
func (d Desired) ownerReferences(existing *corev1.Secret) []metav1.OwnerReference {
	return append(slices.DeleteFunc(slices.Clone(existing.OwnerReferences), func(owner metav1.OwnerReference) bool {
		before := owner.Name == d.Service.Name || owner.Name == existing.Labels[v1alpha1.LabelService]
		return owner.UID == d.Service.UID || (owner.APIVersion == "v1" && owner.Kind == "Service" && before)
	}), d.ownerReference())
}

// UnexpectedKeys are the keys of a Secret, a digest, that OpenShift's annotation does not allow; nil where nothing forbids them.
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
