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

// injection returns the key under which an annotation on a Secret asks for a bundle beside the certificate; empty where none does.
func injection(secret *corev1.Secret) string {
	if secret == nil || secret.Annotations[v1alpha1.AnnotationInjectCABundle] == "" {
		return ""
	}
	return cmp.Or(secret.Annotations[v1alpha1.AnnotationCABundleKey], v1alpha1.DefaultCABundleKey)
}

// markedBundle returns what the mark on a Secret says of the bundle in it: its hash, and its key.
func markedBundle(secret *corev1.Secret) (hash, key string) {
	hash, key, _ = strings.Cut(secret.Annotations[v1alpha1.AnnotationCABundleHash], "/")
	return hash, cmp.Or(key, bundleKey)
}

// leftBundles returns the keys of a Secret, given as a digest, that hold the bundle which its mark proves to be ours, and that are not to be kept.
func leftBundles(secret *corev1.Secret, keep []string) []string {
	hash, marked := markedBundle(secret)
	return slices.DeleteFunc([]string{bundleKey, marked}, func(key string) bool {
		return hash == "" || secret.StringData[key] != hash || slices.Contains(keep, key)
	})
}

// BundleHash returns the hash of the bundle that a serving certificate's Secret says it carries.
func BundleHash(secret *corev1.Secret) string {
	hash, _ := markedBundle(secret)
	return hash
}

// CarriesBundle reports whether the bundle is to stand in the Secret, given as a digest: by the policy, or by an annotation on the Secret.
func (t Target) CarriesBundle(secret *corev1.Secret) bool {
	return t.IncludesBundle() || (injection(secret) != "" && t.injectable(secret) == nil)
}

// injectable returns why the bundle that an annotation on the Secret asks for cannot stand in it; nil when it can.
func (t Target) injectable(secret *corev1.Secret) *Obstacle {
	const elsewhere = "annotate a ConfigMap or another Secret"
	key, ca := injection(secret), t.Policy.Spec.ServiceCAName
	problems := validation.IsConfigMapKey(key)
	switch {
	case t.Family.IsOpenShift():
		return NewObstacle(ReasonInjectionRefused, "Service %s asks by OpenShift's annotation, which promises %s and %s alone: ask by %s, or %s",
			t.Service.Name, corev1.TLSCertKey, corev1.TLSPrivateKeyKey, v1alpha1.AnnotationSecretName, elsewhere)
	case secret.Annotations[v1alpha1.AnnotationInjectCABundle] != ca:
		return NewObstacle(ReasonInjectionRefused, "annotation %s: only the bundle of ServiceCA %s, which signs the certificate here, can stand beside it: name that, or %s",
			v1alpha1.AnnotationInjectCABundle, ca, elsewhere)
	case secret.Annotations[v1alpha1.AnnotationTruststore] != "":
		return NewObstacle(ReasonInvalidTruststore, "annotation %s: there is none beside a certificate: %s", v1alpha1.AnnotationTruststore, elsewhere)
	case len(problems) > 0:
		return NewObstacle(ReasonInvalidKey, "annotation %s: %.64q is no key: %s", v1alpha1.AnnotationCABundleKey, key, problems[0])
	case key == corev1.TLSCertKey, key == corev1.TLSPrivateKeyKey, key == v1alpha1.KeystoreKey:
		return NewObstacle(ReasonInvalidKey, "annotation %s: %s belongs to the certificate: name another key", v1alpha1.AnnotationCABundleKey, key)
	}
	return nil
}

// bundles is where the bundle stands in a Secret.
type bundles struct {
	// keys are those under which it stands, and mark is the annotation that says so, empty without any.
	keys []string
	mark string
	// obstacle is why it does not stand where an annotation on the Secret asks for it.
	obstacle *Obstacle
}

// bundles returns where the bundle is to stand in the Secret, given as a digest, or nil where there is none.
func (w Want) bundles(secret *corev1.Secret, ca *CA) bundles {
	var b bundles
	hash := pki.Hash(ca.Bundle)
	if w.IncludesBundle() {
		b.keys, b.mark = []string{bundleKey}, hash
	}
	key := injection(secret)
	if key == "" || (key == bundleKey && w.IncludesBundle()) {
		return b
	}
	if b.obstacle = w.injectable(secret); b.obstacle != nil {
		return b
	}
	_, marked := markedBundle(secret)
	if held, has := secret.StringData[key]; has && held != hash && key != marked {
		b.obstacle = NewObstacle(ReasonKeyNotOurs, "key %s is somebody else's and is left alone: delete it, or name another key by annotation %s",
			key, v1alpha1.AnnotationCABundleKey)
		return b
	}
	return bundles{keys: append(b.keys, key), mark: hash + "/" + key}
}
