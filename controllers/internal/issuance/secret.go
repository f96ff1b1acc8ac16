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

// mayReplace tells whether a Secret is this Service's to replace: it was made for a Service of its name, or for one that has not
// the least claim any more (who still wants it is a rival, and has been asked); or it is the very Service's by OpenShift's
// annotation, to a Service that asks by one.
func (w Want) mayReplace(secret *corev1.Secret) bool {
	if secret.Type != corev1.SecretTypeTLS {
		return false
	}
	if made := secret.Labels[v1alpha1.LabelService]; made != "" {
		return bearsNameOf(secret, made) || HasOwner(secret, w.Service)
	}
	if HasOwner(secret, w.Service) && apply.MadeBy(secret, apply.ServingCert) {
		// Somebody removed our label.
		return true
	}
	return w.Family.IsOpenShift() && slices.ContainsFunc(openShiftFamilies, func(family Family) bool {
		return secret.Annotations[family.key(suffixUID)] == string(w.Service.UID)
	})
}

// bearsNameOf tells whether a Secret was made for a Service of this name: it bears our label, and has that Service, or nobody, as
// its owner.
func bearsNameOf(secret *corev1.Secret, name string) bool {
	return secret.Labels[v1alpha1.LabelService] == name && (len(secret.OwnerReferences) == 0 ||
		slices.ContainsFunc(secret.OwnerReferences, func(owner metav1.OwnerReference) bool {
			return owner.APIVersion == "v1" && owner.Kind == "Service" && owner.Name == name
		}))
}

// KeepsKey reports whether a renewal keeps the private key in a digest: the policy wants that, and the certificate beside the
// key was signed for this very Service by the CA or by an earlier generation of it that was not compromised. Any other key may
// be one that a tenant, or a thief of a signing key, put there.
func (w Want) KeepsKey(secret *corev1.Secret, ca *CA) bool {
	if w.Policy.Spec.Certificate.PrivateKey.RotationPolicy != v1alpha1.RotateNever || secret == nil ||
		!HasOwner(secret, w.Service) || !isSound(secret) {
		return false
	}
	leaf, err := Leaf(secret)
	return err == nil && leaf.VerifyHostname(w.Leaf.DNSNames[0]) == nil &&
		slices.ContainsFunc(ca.generations(), func(one *x509.Certificate) bool { return leaf.IssuedBy(one, ca.Signatures) == nil })
}

// HasOwner tells whether the Secret goes when this very Service goes.
func HasOwner(secret metav1.Object, service *corev1.Service) bool {
	return slices.ContainsFunc(secret.GetOwnerReferences(), func(owner metav1.OwnerReference) bool {
		return owner.UID == service.UID
	})
}

// Labels returns the labels of the Secret.
func (w Want) Labels() map[string]string {
	return map[string]string{
		v1alpha1.LabelService:   w.Service.Name,
		v1alpha1.LabelServiceCA: w.Policy.Spec.ServiceCAName,
	}
}

func (w Want) annotations(notAfter time.Time, bundles bundles) map[string]string {
	annotations := map[string]string{}
	if bundles.mark != "" {
		annotations[v1alpha1.AnnotationCABundleHash] = bundles.mark
	}
	if w.Family.IsOpenShift() {
		annotations[w.Family.key(suffixUID)] = string(w.Service.UID)
		annotations[w.Family.key(suffixName)] = w.Service.Name
		for _, family := range openShiftFamilies {
			annotations[family.key(suffixExpiry)] = notAfter.UTC().Format(time.RFC3339)
		}
	}
	return annotations
}

// bearsMetadata tells whether a Secret has what annotations and labels say.
func (w Want) bearsMetadata(secret *corev1.Secret, notAfter time.Time, bundles bundles) bool {
	_, bearsBundle := secret.Annotations[v1alpha1.AnnotationCABundleHash]
	return bearsBundle == (bundles.mark != "") &&
		containsAll(secret.Annotations, w.annotations(notAfter, bundles)) && containsAll(secret.Labels, w.Labels())
}

func containsAll(all, some map[string]string) bool {
	for key, value := range some {
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
func (w Want) content(pair pki.Pair, password string, ca *CA, over *corev1.Secret) (content, error) {
	leaf, err := pair.Leaf()
	if err != nil {
		return content{}, err
	}
	bundles := w.bundles(over, ca)
	wanted := content{w.Labels(), w.annotations(leaf.NotAfter, bundles), map[string][]byte{
		corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.PrivateKey,
	}}
	if over != nil {
		if replaced := recordReplaced(over, leaf); replaced != "" {
			wanted.annotations[v1alpha1.AnnotationReplaced] = replaced
		}
	}
	for _, key := range bundles.keys {
		wanted.data[key] = ca.Bundle
	}
	if w.Keystore != nil {
		keystore, err := pki.Keystore(pair, password)
		if err != nil {
			return content{}, err
		}
		wanted.data[v1alpha1.KeystoreKey], wanted.annotations[v1alpha1.AnnotationKeystoreHash] = keystore, w.Keystore.mark(keystore)
	}
	return wanted, nil
}

// Secret is the Secret as it is made, where there is none.
func (w Want) Secret(pair pki.Pair, password string, ca *CA) (*corev1.Secret, error) {
	wanted, err := w.content(pair, password, ca, nil)
	if w.Family.IsOpenShift() && err == nil {
		// Only here: no digest says whether somebody else has claimed a Secret since.
		wanted.annotations[AnnotationOwningComponent] = OwningComponent
		wanted.annotations[annotationDescription] = fmt.Sprintf("The serving certificate and its key for %s.%s.svc, which Service %s asks for by %s.",
			w.Service.Name, w.Service.Namespace, w.Service.Name, w.Family.key(suffixSecretName))
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.Service.Namespace, Name: w.SecretName, Labels: wanted.labels, Annotations: wanted.annotations,
			OwnerReferences: []metav1.OwnerReference{w.owner()},
		},
		Type: corev1.SecretTypeTLS,
		Data: wanted.data,
	}, err
}

// Patch is a JSON merge patch (RFC 7386) that makes a Secret as it should be, in the very version of its digest. It leaves alone what others
// put there, and removes what was ours and is not wanted any more: what has the hash in our mark.
func (w Want) Patch(pair pki.Pair, password string, ca *CA, over *corev1.Secret) ([]byte, error) {
	wanted, err := w.content(pair, password, ca, over)
	if err != nil {
		return nil, err
	}
	annotations, data := map[string]any{}, map[string]any{}
	for _, mark := range []string{v1alpha1.AnnotationCABundleHash, v1alpha1.AnnotationKeystoreHash} {
		if _, has := over.Annotations[mark]; has {
			annotations[mark] = nil
		}
	}
	for _, key := range leftBundles(over, nil) {
		data[key] = nil
	}
	if hash, _, _ := strings.Cut(over.Annotations[v1alpha1.AnnotationKeystoreHash], "/"); hash != "" && over.StringData[v1alpha1.KeystoreKey] == hash {
		data[v1alpha1.KeystoreKey] = nil
	}
	for _, family := range openShiftFamilies {
		for _, suffix := range []string{suffixUID, suffixName, suffixExpiry} {
			if _, there := over.Annotations[family.key(suffix)]; there {
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
			"uid": over.UID, "resourceVersion": over.ResourceVersion,
			"labels": wanted.labels, "annotations": annotations, "ownerReferences": w.owners(over),
		},
		"data": data,
	})
}

func (w Want) owner() metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "v1", Kind: "Service", Name: w.Service.Name, UID: w.Service.UID}
}

// owners are the Service, and whom else others named; but no Service that the Secret was made for before.
func (w Want) owners(over *corev1.Secret) []metav1.OwnerReference {
	return append(slices.DeleteFunc(slices.Clone(over.OwnerReferences), func(owner metav1.OwnerReference) bool {
		before := owner.Name == w.Service.Name || owner.Name == over.Labels[v1alpha1.LabelService]
		return owner.UID == w.Service.UID || (owner.APIVersion == "v1" && owner.Kind == "Service" && before)
	}), w.owner())
}

// Surplus are the keys of a Secret, a digest, that OpenShift's annotation does not allow; nil where nothing forbids them.
func (w Want) Surplus(secret *corev1.Secret) []string {
	if !w.Family.IsOpenShift() {
		return nil
	}
	var surplus []string
	for key := range secret.StringData {
		if key != corev1.TLSCertKey && key != corev1.TLSPrivateKeyKey {
			surplus = append(surplus, key)
		}
	}
	slices.Sort(surplus)
	return surplus
}
