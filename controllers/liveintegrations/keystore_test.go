package liveintegrations_test

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/servingcert/operator/api/v1alpha1"
)

// A Service's certificate is also available as a keystore, whose bytes stay the same until the
// certificate or the password changes.
func TestKeystore(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	password := create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "password", Labels: map[string]string{v1alpha1.LabelKeystorePassword: ""}},
		StringData: map[string]string{"password": "changeit", "other": "different"},
	})
	service := r.service("web")
	update(t, service, func(s *corev1.Service) {
		s.Annotations = map[string]string{v1alpha1.AnnotationSecretName: "web-tls", v1alpha1.AnnotationKeystore: "jks"}
	})
	get(t, service, func(s *corev1.Service) string {
		return contains(s.Annotations[v1alpha1.AnnotationError], "there is no format \"jks\"")
	})
	update(t, service, func(s *corev1.Service) {
		s.Annotations[v1alpha1.AnnotationKeystore], s.Annotations[v1alpha1.AnnotationKeystorePassword] = "pkcs12", "nowhere"
	})
	get(t, service, func(s *corev1.Service) string {
		return contains(s.Annotations[v1alpha1.AnnotationError], "there is no Secret \"nowhere\"")
	})
	update(t, service, func(s *corev1.Service) { s.Annotations[v1alpha1.AnnotationKeystorePassword] = ".." })
	get(t, service, func(s *corev1.Service) string {
		return contains(s.Annotations[v1alpha1.AnnotationError], "names no Secret and key")
	})
	update(t, service, func(s *corev1.Service) { s.Annotations[v1alpha1.AnnotationKeystorePassword] = "password" })
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "web-tls"}}
	get(t, secret, func(s *corev1.Secret) string { return keystore(s, "changeit") })
	first, certificate := secret.Data[v1alpha1.KeystoreKey], secret.Data[corev1.TLSCertKey]

	update(t, secret, func(s *corev1.Secret) { delete(s.Data, v1alpha1.KeystoreKey) })
	get(t, secret, func(s *corev1.Secret) string {
		return keystore(s, "changeit") + same("the keystore", string(s.Data[v1alpha1.KeystoreKey]), string(first))
	})
	update(t, service, func(s *corev1.Service) { s.Annotations[v1alpha1.AnnotationKeystorePassword] = "password/other" })
	get(t, secret, func(s *corev1.Secret) string { return keystore(s, "different") })
	update(t, password, func(s *corev1.Secret) { s.StringData = map[string]string{"other": "another"} })
	get(t, secret, func(s *corev1.Secret) string {
		return keystore(s, "another") + same("the certificate", string(s.Data[corev1.TLSCertKey]), string(certificate))
	})
	update(t, service, func(s *corev1.Service) { delete(s.Annotations, v1alpha1.AnnotationKeystore) })
	get(t, secret, func(s *corev1.Secret) string {
		if _, has := s.Data[v1alpha1.KeystoreKey]; has {
			return "the keystore is still there"
		}
		return same("the certificate", string(s.Data[corev1.TLSCertKey]), string(certificate))
	})
}

func contains(text, part string) string {
	if !strings.Contains(text, part) {
		return fmt.Sprintf("%q does not say %q", text, part)
	}
	return ""
}

// keystore returns what is wrong with the keystore of a Secret, and an empty string if it holds the
// Secret's certificate.
func keystore(secret *corev1.Secret, password string) string {
	_, leaf, _, err := pkcs12.DecodeChain(secret.Data[v1alpha1.KeystoreKey], password)
	if err != nil {
		return "the keystore: " + err.Error()
	}
	if block, _ := pem.Decode(secret.Data[corev1.TLSCertKey]); !bytes.Equal(block.Bytes, leaf.Raw) {
		return "the keystore holds another certificate"
	}
	return ""
}
