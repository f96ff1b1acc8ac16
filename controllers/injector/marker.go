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
	// withTruststore ends the mark on an object with a truststore beside its bundle; the hash of the truststore follows.
	withTruststore = "+" + v1alpha1.KeystorePKCS12
	// asOpenShift ends the mark on an object that asked by an annotation of OpenShift.
	asOpenShift = "+openshift"
)

// bundleMarker is the annotation on an object that carries a bundle. A tenant may write it: it proves nothing but what its hashes confirm.
type bundleMarker struct {
	// hash is that of the CA's bundle, and key where the bundle lies.
	hash, key string
	// truststore reports whether there is a truststore too, and truststoreHash is its hash, empty in marks of earlier versions.
	truststore     bool
	truststoreHash string
	openShift      bool
}

// marker returns the mark on an object with this content.
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

// readMarker returns the mark of an object, and whether it has one.
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

// since returns the annotation that says since when the bundle has been under its key: now, where the operator has not written it there before;
// empty where that is not known.
func (w dataWriter) since(object client.Object, wanted *desiredContent) string {
	before, marked := readMarker(object)
	if marked && before.key == wanted.key {
		return object.GetAnnotations()[v1alpha1.AnnotationCABundleSince]
	}
	return w.clock.Now().UTC().Format(time.RFC3339)
}

// namesKey reports whether the mark says that the operator wrote a key.
func (m bundleMarker) namesKey(key string) bool {
	return key == m.key || (m.truststore && key == v1alpha1.TruststoreKey)
}

// matchesHash reports whether a value is what the operator wrote under a key in its own form: it has the hash in the mark.
func (m bundleMarker) matchesHash(key string, value []byte) bool {
	if m.openShift {
		return false
	}
	return (key == m.key && pki.Hash(value) == m.hash) || (key == v1alpha1.TruststoreKey && pki.Hash(value) == m.truststoreHash)
}

// isMarked reports whether we left something on an object.
func isMarked(object metav1.Object) bool {
	_, carries := readMarker(object)
	_, reported := object.GetAnnotations()[v1alpha1.AnnotationError]
	return carries || reported || isManagedBy(object, metav1.ManagedFieldsOperationApply)
}

// isManagedBy reports whether a field is ours by this operation.
func isManagedBy(object metav1.Object, operation metav1.ManagedFieldsOperationType) bool {
	return slices.ContainsFunc(object.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == string(apply.Trust) && entry.Operation == operation
	})
}

// StripForCache leaves of the managed fields of an object only that some are applied by us: the trace that nobody removes by editing it.
func StripForCache(object metav1.Object) {
	var applied []metav1.ManagedFieldsEntry
	if isManagedBy(object, metav1.ManagedFieldsOperationApply) {
		applied = []metav1.ManagedFieldsEntry{{Manager: string(apply.Trust), Operation: metav1.ManagedFieldsOperationApply}}
	}
	object.SetManagedFields(applied)
}
