package issuance

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// bundleKey is the key where charts expect the bundle in a serving certificate's Secret.
const bundleKey = "ca.crt"

// The reasons why an object gets no bundle.
const (
	ReasonInvalidKey        = "InvalidCABundleKey"
	ReasonInvalidTruststore = "InvalidTruststore"
	ReasonKeyNotOurs        = "KeyNotOurs"
	ReasonInjectionRefused  = "InjectionRefused"
)

// injectionKey returns the key at which an annotation on a Secret requests a bundle beside the
// certificate; empty when no annotation does.
func injectionKey(secret *corev1.Secret) string {
	if secret == nil || secret.Annotations[v1alpha1.AnnotationInjectCABundle] == "" {
		return ""
	}
	return cmp.Or(secret.Annotations[v1alpha1.AnnotationCABundleKey], v1alpha1.DefaultCABundleKey)
}

// bundleMarker returns what the marker annotation of a Secret says about the bundle in it: its hash
// and its key.
func bundleMarker(secret *corev1.Secret) (hash, key string) {
	hash, key, _ = strings.Cut(secret.Annotations[v1alpha1.AnnotationCABundleHash], "/")
	return hash, cmp.Or(key, bundleKey)
}

// staleBundleKeys returns the keys of a Secret (a digest) that hold a bundle of ours, as the marker
// proves, and that are not in keep.
func staleBundleKeys(secret *corev1.Secret, keep []string) []string {
	hash, marked := bundleMarker(secret)
	return slices.DeleteFunc([]string{bundleKey, marked}, func(key string) bool {
		return hash == "" || secret.StringData[key] != hash || slices.Contains(keep, key)
	})
}

// BundleHash returns the hash of the bundle that a serving certificate's Secret carries according
// to its marker; empty without a marker.
func BundleHash(secret *corev1.Secret) string {
	hash, _ := bundleMarker(secret)
	return hash
}

// CarriesBundle reports whether the bundle belongs in the Secret (a digest): because of the policy,
// or because of an annotation on the Secret.
func (r SecretRef) CarriesBundle(secret *corev1.Secret) bool {
	return r.IncludesBundle() || (injectionKey(secret) != "" && r.injectionProblem(secret) == nil)
}

// injectionProblem returns why the bundle that an annotation on the Secret requests cannot be put
// there; nil when it can.
func (r SecretRef) injectionProblem(secret *corev1.Secret) *Problem {
	const advice = "annotate a ConfigMap or another Secret"
	key, ca := injectionKey(secret), r.Policy.Spec.ServiceCAName
	problems := validation.IsConfigMapKey(key)
	switch {
	case r.Family.IsOpenShift():
		return NewProblem(ReasonInjectionRefused, "Service %s asks by OpenShift's annotation, which promises %s and %s alone: ask by %s, or %s",
			r.Service.Name, corev1.TLSCertKey, corev1.TLSPrivateKeyKey, v1alpha1.AnnotationSecretName, advice)
	case secret.Annotations[v1alpha1.AnnotationInjectCABundle] != ca:
		return NewProblem(ReasonInjectionRefused, "annotation %s: only the bundle of ServiceCA %s, which signs the certificate here, can stand beside it: name that, or %s",
			v1alpha1.AnnotationInjectCABundle, ca, advice)
	case secret.Annotations[v1alpha1.AnnotationTruststore] != "":
		return NewProblem(ReasonInvalidTruststore, "annotation %s: there is none beside a certificate: %s", v1alpha1.AnnotationTruststore, advice)
	case len(problems) > 0:
		return NewProblem(ReasonInvalidKey, "annotation %s: %.64q is no key: %s", v1alpha1.AnnotationCABundleKey, key, problems[0])
	case key == corev1.TLSCertKey, key == corev1.TLSPrivateKeyKey, key == v1alpha1.KeystoreKey:
		return NewProblem(ReasonInvalidKey, "annotation %s: %s belongs to the certificate: name another key", v1alpha1.AnnotationCABundleKey, key)
	}
	return nil
}

// bundlePlacement is where the bundle belongs in a Secret.
type bundlePlacement struct {
	// keys are the keys that hold the bundle. marker is the value of the annotation that records
	// this, empty without keys.
	keys   []string
	marker string
	// problem is why the bundle is not put where an annotation on the Secret requests it.
	problem *Problem
}

// placeBundle returns where the bundle belongs in the Secret. The Secret is a digest, or nil when
// there is no Secret yet.
func (d Desired) placeBundle(secret *corev1.Secret, ca *CA) bundlePlacement {
	var b bundlePlacement
	hash := pki.Hash(ca.Bundle)
	if d.IncludesBundle() {
		b.keys, b.marker = []string{bundleKey}, hash
	}
	key := injectionKey(secret)
	if key == "" || (key == bundleKey && d.IncludesBundle()) {
		return b
	}
	if b.problem = d.injectionProblem(secret); b.problem != nil {
		return b
	}
	_, marked := bundleMarker(secret)
	if current, has := secret.StringData[key]; has && current != hash && key != marked {
		b.problem = NewProblem(ReasonKeyNotOurs, "key %s is somebody else's and is left alone: delete it, or name another key by annotation %s",
			key, v1alpha1.AnnotationCABundleKey)
		return b
	}
	return bundlePlacement{keys: append(b.keys, key), marker: hash + "/" + key}
}
