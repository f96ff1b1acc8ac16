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

// writtenVersions holds the versions of ConfigMaps that the operator wrote, or read and verified. A
// ConfigMap need not be read while the cache has the same version.
type writtenVersions struct {
	mu       sync.Mutex
	versions map[types.NamespacedName]version
}

// version is a version of a ConfigMap, with its only key and the hash of the bundle under it.
type version struct {
	resourceVersion string
	key, hash       unique.Handle[string]
}

// store records the content of a ConfigMap that the operator created.
func (w *writtenVersions) store(key types.NamespacedName, configMap *corev1.ConfigMap) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.versions, key)
	if len(configMap.Data) != 1 || len(configMap.BinaryData) > 0 {
		return // a webhook changed it
	}
	if w.versions == nil {
		w.versions = map[types.NamespacedName]version{}
	}
	for name, bundle := range configMap.Data {
		w.versions[key] = version{configMap.ResourceVersion, unique.Make(name), unique.Make(pki.Hash([]byte(bundle)))}
	}
}

// forget drops a ConfigMap, and reports whether it was recorded.
func (w *writtenVersions) forget(key types.NamespacedName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, remembered := w.versions[key]
	delete(w.versions, key)
	return remembered
}

// lookUp returns the ConfigMap that has these metadata, with an empty value if it does not hold
// this bundle; nil if its version is not recorded.
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
	// The cache strips managedFields. Only ConfigMaps that the operator created are recorded.
	configMap.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: string(apply.Publish)}}
	return configMap
}
