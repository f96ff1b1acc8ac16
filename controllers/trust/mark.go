package trust

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
)

// withTruststore ends the mark on what has a truststore beside its bundle.
const withTruststore = "+" + v1alpha1.KeystorePKCS12

// mark is the annotation on what carries the bundle: its hash and, unless that is the usual one, the key under which it lies. It
// is how we know our own key again, even when somebody has changed it by hand.
func (q request) mark(hash string) string {
	mark := hash
	if q.key != v1alpha1.DefaultCABundleKey {
		mark += "/" + q.key
	}
	if q.truststore != "" {
		mark += withTruststore
	}
	return mark
}

// readMark is the hash of the bundle that an object carries, and its key; false when it carries none.
func readMark(object metav1.Object) (hash, key string, carries bool) {
	mark, carries := object.GetAnnotations()[v1alpha1.AnnotationCABundleHash]
	hash, key, named := strings.Cut(strings.TrimSuffix(mark, withTruststore), "/")
	if !named {
		key = v1alpha1.DefaultCABundleKey
	}
	return hash, key, carries
}

// marked tells whether we left something on an object.
func marked(object metav1.Object) bool {
	_, _, carries := readMark(object)
	_, told := object.GetAnnotations()[v1alpha1.AnnotationError]
	return carries || told || wrote(object, metav1.ManagedFieldsOperationApply)
}

// wrote tells whether a field is ours by this operation.
func wrote(object metav1.Object, operation metav1.ManagedFieldsOperationType) bool {
	return slices.ContainsFunc(object.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == string(apply.Trust) && entry.Operation == operation
	})
}

// Slim leaves of the managed fields of an object only that some are applied by us: the trace that nobody removes by editing it.
func Slim(object metav1.Object) {
	var applied []metav1.ManagedFieldsEntry
	if wrote(object, metav1.ManagedFieldsOperationApply) {
		applied = []metav1.ManagedFieldsEntry{{Manager: string(apply.Trust), Operation: metav1.ManagedFieldsOperationApply}}
	}
	object.SetManagedFields(applied)
}
