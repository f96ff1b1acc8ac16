package issuance

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// Keystore is the keystore, for Java, that a Service requests beside its certificate.
type Keystore struct {
	// Format is the value of the annotation.
	Format string
	// Password refers to the Secret with the keystore's password, as "<name>" or "<name>/<key>";
	// empty for none.
	Password string
	// Version identifies the current content of that Secret; empty without a password Secret, and
	// before it has been read.
	Version string
}

// keystoreOf returns the keystore that a Service requests; nil when it requests none. OpenShift's
// annotations promise exactly two keys, so there is none for them.
func keystoreOf(service *corev1.Service, family Family) *Keystore {
	format := service.Annotations[v1alpha1.AnnotationKeystore]
	if format == "" || family.IsOpenShift() {
		return nil
	}
	return &Keystore{Format: format, Password: service.Annotations[v1alpha1.AnnotationKeystorePassword]}
}

// Check returns why the keystore is impossible; nil when it is possible or k is nil.
func (k *Keystore) Check() *Problem {
	switch {
	case k == nil:
		return nil
	case k.Format != v1alpha1.KeystorePKCS12:
		return NewProblem(ReasonInvalidKeystore, "annotation %s: there is no format %.64q: write %s",
			v1alpha1.AnnotationKeystore, k.Format, v1alpha1.KeystorePKCS12)
	}
	return CheckPassword(v1alpha1.AnnotationKeystorePassword, k.Password)
}

// SplitPassword parses "<name>" or "<name>/<key>". The default key is "password".
func SplitPassword(annotation string) (name, key string) {
	name, key, named := strings.Cut(annotation, "/")
	if !named {
		key = "password"
	}
	return name, key
}

// CheckPassword returns why the value of an annotation does not refer to a password; nil when it
// does or is empty.
func CheckPassword(annotation, value string) *Problem {
	if value == "" {
		return nil
	}
	name, key := SplitPassword(value)
	if len(validation.IsDNS1123Subdomain(name)) > 0 || len(validation.IsConfigMapKey(key)) > 0 {
		return NewProblem(ReasonNoPassword, "annotation %s: %.64q names no Secret and key: write <name>, or <name>/<key>", annotation, value)
	}
	return nil
}

// marker returns the value of the annotation that records the keystore's hash and the version of
// its password, so that a digest shows whether the Secret has the right keystore.
func (k *Keystore) marker(keystore []byte) string { return pki.Hash(keystore) + "/" + k.Version }

// keystoreDrifted reports whether the keystore in a digest is not the one that was written for d.
func (d Desired) keystoreDrifted(secret *corev1.Secret) bool {
	marker, marked := secret.Annotations[v1alpha1.AnnotationKeystoreHash]
	if d.Keystore == nil {
		return marked
	}
	hash, version, _ := strings.Cut(marker, "/")
	return secret.StringData[v1alpha1.KeystoreKey] != hash || version != d.Keystore.Version
}
