package publish

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// hashAnnotation returns the value of AnnotationPublishedHash for a ConfigMap that has the bundle
// with this hash under the key.
func hashAnnotation(hash, key string) string { return hash + "/" + key }

// fill writes the bundle to a ConfigMap and removes all other data. It reports whether anything
// changed.
func (c *claim) fill(configMap *corev1.ConfigMap, bundle []byte) (changed bool) {
	before := configMap.DeepCopy()
	metav1.SetMetaDataLabel(&configMap.ObjectMeta, v1alpha1.LabelServiceCA, c.ca.Name)
	metav1.SetMetaDataAnnotation(&configMap.ObjectMeta, v1alpha1.AnnotationPublishedHash, hashAnnotation(pki.Hash(bundle), c.bundle.Key))
	configMap.Data, configMap.BinaryData = map[string]string{c.bundle.Key: string(bundle)}, nil
	return !maps.Equal(before.Data, configMap.Data) || len(before.BinaryData) > 0 ||
		!maps.Equal(before.Labels, configMap.Labels) || !maps.Equal(before.Annotations, configMap.Annotations)
}

// isOurs reports whether the operator created the ConfigMap: its field manager shows that, or, if a
// backup was restored without managedFields, the ConfigMap holds nothing but a bundle with the hash
// in its annotation.
func isOurs(configMap *corev1.ConfigMap) bool {
	if apply.IsManagedBy(configMap, apply.Publish) {
		return true
	}
	if configMap.Labels[v1alpha1.LabelServiceCA] == "" || len(configMap.Data) != 1 || len(configMap.BinaryData) > 0 {
		return false
	}
	for key, bundle := range configMap.Data {
		if configMap.Annotations[v1alpha1.AnnotationPublishedHash] == hashAnnotation(pki.Hash([]byte(bundle)), key) {
			return true
		}
	}
	return false
}
