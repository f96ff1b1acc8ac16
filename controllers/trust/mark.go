package trust

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

// mark is the annotation on an object that carries a bundle. A tenant may write it: it proves nothing but what its hashes confirm.
type mark struct {
	// hash is that of the CA's bundle, and key where the bundle lies.
	hash, key string
	// truststore reports whether there is a truststore too, and truststoreHash is its hash, empty in marks of earlier versions.
	truststore     bool
	truststoreHash string
	openShift      bool
}

// mark returns the mark on an object with this content.
func (c *content) mark() string {
	mark := c.hash
	if c.key != v1alpha1.DefaultCABundleKey {
		mark += "/" + c.key
	}
	if c.form != formOwn {
		return mark + asOpenShift
	}
	if c.truststore != "" {
		mark += withTruststore + ":" + pki.Hash(c.data[v1alpha1.TruststoreKey])
	}
	return mark
}

// readMark returns the mark of an object, and whether it has one.
func readMark(object metav1.Object) (read mark, marked bool) {
	written, marked := object.GetAnnotations()[v1alpha1.AnnotationCABundleHash]
	written, read.openShift = strings.CutSuffix(written, asOpenShift)
	written, truststore, with := strings.Cut(written, withTruststore)
	read.truststore, read.truststoreHash = with, strings.TrimPrefix(truststore, ":")
	var named bool
	if read.hash, read.key, named = strings.Cut(written, "/"); !named {
		read.key = v1alpha1.DefaultCABundleKey
	}
	return read, marked
}

// since returns the annotation that says since when the bundle has been under its key: now, where the operator has not written it there before;
// empty where that is not known.
func (d data) since(object client.Object, wanted *content) string {
	before, marked := readMark(object)
	if marked && before.key == wanted.key {
		return object.GetAnnotations()[v1alpha1.AnnotationCABundleSince]
	}
	return d.clock.Now().UTC().Format(time.RFC3339)
}

// names reports whether the mark says that the operator wrote a key.
func (m mark) names(key string) bool {
	return key == m.key || (m.truststore && key == v1alpha1.TruststoreKey)
}

// proves reports whether a value is what the operator wrote under a key in its own form: it has the hash in the mark.
func (m mark) proves(key string, value []byte) bool {
	if m.openShift {
		return false
	}
	return (key == m.key && pki.Hash(value) == m.hash) || (key == v1alpha1.TruststoreKey && pki.Hash(value) == m.truststoreHash)
}

// marked tells whether we left something on an object.
func marked(object metav1.Object) bool {
	_, carries := readMark(object)
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
