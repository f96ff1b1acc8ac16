package issuance

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// Keystore is what a Service asks for beside its certificate, for Java.
type Keystore struct {
	// Format is what the annotation says.
	Format string
	// Password refers to the Secret with its password, as "<name>" or "<name>/<key>"; empty for none.
	Password string
	// Version identifies that Secret as it is now; empty without one, and where nobody has looked.
	Version string
}

// keystoreOf is what a Service asks for; nil where it does not. OpenShift's annotations promise two keys and no more.
func keystoreOf(service *corev1.Service, family Family) *Keystore {
	format := service.Annotations[v1alpha1.AnnotationKeystore]
	if format == "" || family.IsOpenShift() {
		return nil
	}
	return &Keystore{Format: format, Password: service.Annotations[v1alpha1.AnnotationKeystorePassword]}
}

// Check tells why there can be no such keystore; nil when there can.
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

// SplitPassword reads "<name>" or "<name>/<key>".
func SplitPassword(annotation string) (name, key string) {
	name, key, named := strings.Cut(annotation, "/")
	if !named {
		key = "password"
	}
	return name, key
}

// CheckPassword tells why no password can be found by what an annotation says; nil when one can.
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

// marker tells which keystore a Secret should have, and by which password: so that a digest says whether it has it.
func (k *Keystore) marker(keystore []byte) string { return pki.Hash(keystore) + "/" + k.Version }

// keystoreDrifted reports whether the keystore in a digest is not the one that was put there for this wish.
func (d Desired) keystoreDrifted(secret *corev1.Secret) bool {
	marker, marked := secret.Annotations[v1alpha1.AnnotationKeystoreHash]
	if d.Keystore == nil {
		return marked
	}
	hash, version, _ := strings.Cut(marker, "/")
	return secret.StringData[v1alpha1.KeystoreKey] != hash || version != d.Keystore.Version
}
