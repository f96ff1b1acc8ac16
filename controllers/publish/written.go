package publish

import (
	"sync"
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// writtenVersions remembers the ConfigMaps that the operator wrote, or read and found right. While the cache has
// the same version of one, it need not be read.
type writtenVersions struct {
	mu       sync.Mutex
	versions map[types.NamespacedName]version
}

// version is a version of a ConfigMap, with its one key and the hash of the bundle under it.
type version struct {
	resourceVersion string
	key, hash       unique.Handle[string]
}

// store remembers what is in a ConfigMap of the operator's.
func (w *writtenVersions) store(key types.NamespacedName, configMap *corev1.ConfigMap) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.versions, key)
	if len(configMap.Data) != 1 || len(configMap.BinaryData) > 0 {
		return // as a webhook left it
	}
	if w.versions == nil {
		w.versions = map[types.NamespacedName]version{}
	}
	for name, bundle := range configMap.Data {
		w.versions[key] = version{configMap.ResourceVersion, unique.Make(name), unique.Make(pki.Hash([]byte(bundle)))}
	}
}

// forget forgets a ConfigMap, and reports whether it was remembered.
func (w *writtenVersions) forget(key types.NamespacedName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, remembered := w.versions[key]
	delete(w.versions, key)
	return remembered
}

// lookUp returns the ConfigMap that has these metadata, with an empty value where it does not hold this bundle;
// nil where its version is not remembered.
func (w *writtenVersions) lookUp(key types.NamespacedName, metadata *metav1.PartialObjectMetadata, bundle []byte) *corev1.ConfigMap {
	w.mu.Lock()
	defer w.mu.Unlock()
	known, ok := w.versions[key]
	if !ok || known.resourceVersion != metadata.ResourceVersion {
		return nil
	}
	if known.hash.Value() != pki.Hash(bundle) {
		bundle = nil
	}
	configMap := &corev1.ConfigMap{ObjectMeta: *metadata.ObjectMeta.DeepCopy(), Data: map[string]string{known.key.Value(): string(bundle)}}
	// The cache leaves the managers out; only what the operator made is remembered.
	configMap.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: string(apply.Publish)}}
	return configMap
}
