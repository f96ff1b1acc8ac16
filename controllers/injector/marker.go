package injector

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/pki"
)

const (
	// withTruststore precedes the truststore's hash in the marker of an object that has a
	// truststore beside its bundle.
	withTruststore = "+" + v1alpha1.KeystorePKCS12
	// asOpenShift ends the marker of an object that requested the bundle by an OpenShift
	// annotation.
	asOpenShift = "+openshift"
)

// bundleMarker is the content of the annotation AnnotationCABundleHash. A tenant can write the
// annotation, so it proves only what its hashes confirm.
type bundleMarker struct {
	// hash is the hash of the CA's bundle, and key is the key that holds the bundle.
	hash, key string
	// truststore reports whether the object also has a truststore. truststoreHash is its hash,
	// which is empty in markers of earlier versions.
	truststore     bool
	truststoreHash string
	openShift      bool
}

// marker returns the marker for an object with this content.
func (c *desiredContent) marker() string {
	marker := c.hash
	if c.key != v1alpha1.DefaultCABundleKey {
		marker += "/" + c.key
	}
	if c.form != formOwn {
		return marker + asOpenShift
	}
	if c.truststore != "" {
		marker += withTruststore + ":" + pki.Hash(c.data[v1alpha1.TruststoreKey])
	}
	return marker
}

// readMarker returns the marker of an object, and whether the object has one.
func readMarker(object metav1.Object) (marker bundleMarker, marked bool) {
	written, marked := object.GetAnnotations()[v1alpha1.AnnotationCABundleHash]
	written, marker.openShift = strings.CutSuffix(written, asOpenShift)
	written, truststore, with := strings.Cut(written, withTruststore)
	marker.truststore, marker.truststoreHash = with, strings.TrimPrefix(truststore, ":")
	var named bool
	if marker.hash, marker.key, named = strings.Cut(written, "/"); !named {
		marker.key = v1alpha1.DefaultCABundleKey
	}
	return marker, marked
}

// since returns the value of AnnotationCABundleSince: the time at which the operator first wrote
// the bundle under its key. It is now if the operator has not written it there before, and empty if
// the time is not known.
func (w dataWriter) since(object client.Object, wanted *desiredContent) string {
	before, marked := readMarker(object)
	if marked && before.key == wanted.key {
		return object.GetAnnotations()[v1alpha1.AnnotationCABundleSince]
	}
	return w.clock.Now().UTC().Format(time.RFC3339)
}

// namesKey reports whether, according to the marker, the operator wrote the key.
func (m bundleMarker) namesKey(key string) bool {
	return key == m.key || (m.truststore && key == v1alpha1.TruststoreKey)
}

// matchesHash reports whether the operator wrote this value under this key in formOwn, because the
// value has the hash in the marker.
func (m bundleMarker) matchesHash(key string, value []byte) bool {
	if m.openShift {
		return false
	}
	return (key == m.key && pki.Hash(value) == m.hash) || (key == v1alpha1.TruststoreKey && pki.Hash(value) == m.truststoreHash)
}

// isMarked reports whether the object still has something that the operator wrote.
func isMarked(object metav1.Object) bool {
	_, carries := readMarker(object)
	_, reported := object.GetAnnotations()[v1alpha1.AnnotationError]
	return carries || reported || isManagedBy(object, metav1.ManagedFieldsOperationApply)
}

// isManagedBy reports whether the operator manages a field of the object by this operation.
func isManagedBy(object metav1.Object, operation metav1.ManagedFieldsOperationType) bool {
	return slices.ContainsFunc(object.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == string(apply.Trust) && entry.Operation == operation
	})
}

// StripForCache reduces the managedFields of an object to whether the operator applied any. Clients
// do not remove this trace by editing the object.
func StripForCache(object metav1.Object) {
	var applied []metav1.ManagedFieldsEntry
	if isManagedBy(object, metav1.ManagedFieldsOperationApply) {
		applied = []metav1.ManagedFieldsEntry{{Manager: string(apply.Trust), Operation: metav1.ManagedFieldsOperationApply}}
	}
	object.SetManagedFields(applied)
}
