package issuance

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// bundleKey is where charts expect the bundle in a serving certificate's Secret.
const bundleKey = "ca.crt"

// soundKey stands for a private key that belongs to the certificate beside it, in a digest.
const soundKey = "sound"

// Digest replaces what a cache must not or need not hold: the private key by whether it belongs to the certificate, every other
// value but the certificate by its hash. What it found out stands in stringData, which the API server never returns: so a digest
// is known for one, and digesting it again changes nothing. It changes the Secret that it is given.
func Digest(secret *corev1.Secret) {
	if secret.StringData != nil {
		return
	}
	certificate := secret.Data[corev1.TLSCertKey]
	digest := map[string]string{}
	for key, value := range secret.Data {
		digest[key] = pki.Hash(value)
	}
	digest[corev1.TLSPrivateKeyKey] = soundKey
	if err := pki.CheckPair(pki.Pair{Certificate: certificate, PrivateKey: secret.Data[corev1.TLSPrivateKeyKey]}); err != nil {
		digest[corev1.TLSPrivateKeyKey] = err.Error()
	}
	secret.Data = map[string][]byte{corev1.TLSCertKey: certificatesAlone(certificate)}
	secret.StringData = digest
	keepWriteTime(secret)
	// It holds the whole Secret once more, where one was restored with kubectl.
	delete(secret.Annotations, corev1.LastAppliedConfigAnnotation)
}

// keepWriteTime leaves of the managed fields when we last wrote some.
func keepWriteTime(secret *corev1.Secret) {
	var kept []metav1.ManagedFieldsEntry
	for _, entry := range secret.ManagedFields {
		if entry.Manager == string(apply.ServingCert) && entry.Operation == metav1.ManagedFieldsOperationApply {
			kept = append(kept, metav1.ManagedFieldsEntry{Manager: string(apply.ServingCert), Operation: entry.Operation, Time: entry.Time})
		}
	}
	secret.ManagedFields = kept
}

// Issued is when the certificate in a digest was written, by the clock of the API server; where the Secret was written again later than
// clocks differ, it is when the certificate was signed. Zero without a certificate.
func Issued(secret *corev1.Secret) time.Time {
	leaf, err := pki.ParseLeaf(secret.Data[corev1.TLSCertKey])
	if err != nil {
		return time.Time{}
	}
	for _, entry := range secret.ManagedFields {
		if entry.Time != nil && entry.Time.Sub(leaf.IssuedAt()) < pki.ClockSkew {
			return entry.Time.Time
		}
	}
	return leaf.IssuedAt()
}

// certificatesAlone leaves out what people put beside the certificates, such as the key; of what cannot be read, the hash is left.
func certificatesAlone(encoded []byte) []byte {
	leaf, err := pki.ParseLeaf(encoded)
	switch {
	case err == nil:
		return leaf.Encode()
	case len(encoded) > 0:
		return []byte(pki.Hash(encoded))
	}
	return nil
}

// End is when the certificate in a digest ends, whoever signed it; zero when there is none that could serve.
func End(secret *corev1.Secret) time.Time {
	if secret == nil || secret.StringData[corev1.TLSPrivateKeyKey] != soundKey {
		return time.Time{}
	}
	leaf, err := pki.ParseLeaf(secret.Data[corev1.TLSCertKey])
	if err != nil {
		return time.Time{}
	}
	return leaf.NotAfter
}

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

// KeepableKey tells whether the private key in a digest is one that we made for this very Service.
func KeepableKey(secret *corev1.Secret, service *corev1.Service) bool {
	return HasOwner(secret, service) && secret.StringData[corev1.TLSPrivateKeyKey] == soundKey
}

// HasOwner tells whether the Secret goes when this very Service goes.
func HasOwner(secret metav1.Object, service *corev1.Service) bool {
	return slices.ContainsFunc(secret.GetOwnerReferences(), func(owner metav1.OwnerReference) bool {
		return owner.UID == service.UID
	})
}

func (w Want) labels() map[string]string {
	return map[string]string{
		v1alpha1.LabelService:   w.Service.Name,
		v1alpha1.LabelServiceCA: w.Policy.Spec.ServiceCAName,
	}
}

func (w Want) annotations(notAfter time.Time, ca *CA) map[string]string {
	annotations := map[string]string{}
	if w.IncludesBundle() {
		annotations[v1alpha1.AnnotationCABundleHash] = pki.Hash(ca.Bundle)
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

// BearsForeignBundle tells whether somebody marked a Secret as one that carries the bundle, which it does not.
func (w Want) BearsForeignBundle(secret *corev1.Secret) bool {
	_, marked := secret.Annotations[v1alpha1.AnnotationCABundleHash]
	_, carries := secret.StringData[bundleKey]
	return marked && !carries && !w.IncludesBundle()
}

// bearsMetadata tells whether a Secret has what annotations and labels say.
func (w Want) bearsMetadata(secret *corev1.Secret, notAfter time.Time, ca *CA) bool {
	_, bearsBundle := secret.Annotations[v1alpha1.AnnotationCABundleHash]
	return bearsBundle == w.IncludesBundle() &&
		containsAll(secret.Annotations, w.annotations(notAfter, ca)) && containsAll(secret.Labels, w.labels())
}

func containsAll(all, some map[string]string) bool {
	for key, value := range some {
		if got, ok := all[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// Apply is the Secret as it should be, with this certificate and key, and a keystore by this password where one is wanted. With a replaced
// Secret it takes effect on that very version only.
func (w Want) Apply(pair pki.Pair, password string, ca *CA, replaced *corev1.Secret) (*coreac.SecretApplyConfiguration, error) {
	leaf, err := pki.ParseLeaf(pair.Certificate)
	if err != nil {
		return nil, err
	}
	data := map[string][]byte{corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.PrivateKey}
	if w.IncludesBundle() {
		data[bundleKey] = ca.Bundle
	}
	annotations := w.annotations(leaf.NotAfter, ca)
	if w.Keystore != nil {
		keystore, err := pki.Keystore(pair, password)
		if err != nil {
			return nil, err
		}
		data[v1alpha1.KeystoreKey], annotations[v1alpha1.AnnotationKeystoreHash] = keystore, w.Keystore.mark(keystore)
	}
	secret := coreac.Secret(w.SecretName, w.Service.Namespace).
		WithType(corev1.SecretTypeTLS).
		WithLabels(w.labels()).
		WithAnnotations(annotations).
		WithOwnerReferences(metaac.OwnerReference().
			WithAPIVersion("v1").WithKind("Service").WithName(w.Service.Name).WithUID(w.Service.UID)).
		WithData(data)
	if replaced != nil {
		secret.WithUID(replaced.UID).WithResourceVersion(replaced.ResourceVersion)
	}
	return secret, nil
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
