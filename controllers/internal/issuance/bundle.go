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

// bundleKey is where charts expect the bundle in a serving certificate's Secret.
const bundleKey = "ca.crt"

// The reasons for which an object gets no bundle.
const (
	ReasonInvalidKey        = "InvalidCABundleKey"
	ReasonInvalidTruststore = "InvalidTruststore"
	ReasonKeyNotOurs        = "KeyNotOurs"
	ReasonInjectionRefused  = "InjectionRefused"
)

// injectionKey returns the key under which an annotation on a Secret asks for a bundle beside the certificate; empty where none does.
func injectionKey(secret *corev1.Secret) string {
	if secret == nil || secret.Annotations[v1alpha1.AnnotationInjectCABundle] == "" {
		return ""
	}
	return cmp.Or(secret.Annotations[v1alpha1.AnnotationCABundleKey], v1alpha1.DefaultCABundleKey)
}

// bundleMarker returns what the mark on a Secret says of the bundle in it: its hash, and its key.
func bundleMarker(secret *corev1.Secret) (hash, key string) {
	hash, key, _ = strings.Cut(secret.Annotations[v1alpha1.AnnotationCABundleHash], "/")
	return hash, cmp.Or(key, bundleKey)
}

// staleBundleKeys returns the keys of a Secret, given as a digest, that hold the bundle which its mark proves to be ours, and that are not to be kept.
func staleBundleKeys(secret *corev1.Secret, keep []string) []string {
	hash, marked := bundleMarker(secret)
	return slices.DeleteFunc([]string{bundleKey, marked}, func(key string) bool {
		return hash == "" || secret.StringData[key] != hash || slices.Contains(keep, key)
	})
}

// BundleHash returns the hash of the bundle that a serving certificate's Secret says it carries.
func BundleHash(secret *corev1.Secret) string {
	hash, _ := bundleMarker(secret)
	return hash
}

// CarriesBundle reports whether the bundle is to stand in the Secret, given as a digest: by the policy, or by an annotation on the Secret.
func (r SecretRef) CarriesBundle(secret *corev1.Secret) bool {
	return r.IncludesBundle() || (injectionKey(secret) != "" && r.injectionProblem(secret) == nil)
}

// injectionProblem returns why the bundle that an annotation on the Secret asks for cannot stand in it; nil when it can.
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

// bundlePlacement is where the bundle stands in a Secret.
type bundlePlacement struct {
	// keys are those under which it stands, and mark is the annotation that says so, empty without any.
	keys   []string
	marker string
	// problem is why it does not stand where an annotation on the Secret asks for it.
	problem *Problem
}

// placeBundle returns where the bundle is to stand in the Secret, given as a digest, or nil where there is none.
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
