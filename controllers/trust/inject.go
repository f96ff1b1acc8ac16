package trust

import (
	"encoding/json"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// The reasons for which a ConfigMap gets no bundle.
const (
	reasonInvalidKey = "InvalidCABundleKey"
	reasonKeyNotOurs = "KeyNotOurs"
	reasonRefused    = "ConfigMapRefused"
	reasonNoRootCA   = "NoRootCA"
)

// content is what a ConfigMap should hold.
type content struct {
	request
	value string
	// hash is that of the ServiceCA's bundle, for everybody who counts who carries it.
	hash string
}

// fill is what a request comes to, with the bundle of its CA and, for the legacy form, the root CA of the API server.
func (q request) fill(bundle []byte, apiServerRoot string) content {
	filled := content{request: q, value: string(bundle), hash: pki.Hash(bundle)}
	if q.form == formLegacy {
		filled.value = strings.TrimRight(filled.value, "\n") + "\n" + apiServerRoot
	}
	return filled
}

// mark is the annotation on what carries the bundle: its hash and, unless that is the usual one, the key under which it lies. It
// is how we know our own key again, even when somebody has changed it by hand.
func (c content) mark() string {
	if c.key == v1alpha1.DefaultCABundleKey {
		return c.hash
	}
	return c.hash + "/" + c.key
}

// readMark is the hash of the bundle that an object carries, and its key; false when it carries none.
func readMark(object metav1.Object) (hash, key string, carries bool) {
	mark, carries := object.GetAnnotations()[v1alpha1.AnnotationCABundleHash]
	hash, key, named := strings.Cut(mark, "/")
	if !named {
		key = v1alpha1.DefaultCABundleKey
	}
	return hash, key, carries
}

// current tells whether a ConfigMap holds what it asks for.
func (c content) current(configMap *corev1.ConfigMap) bool {
	if configMap.Data[c.key] != c.value || configMap.Annotations[v1alpha1.AnnotationCABundleHash] != c.mark() {
		return false
	}
	return c.form == formOwn || len(configMap.Data) == 1
}

func (q request) check() *issuance.Obstacle {
	if problems := validation.IsConfigMapKey(q.key); len(problems) > 0 {
		return issuance.NewObstacle(reasonInvalidKey, "annotation %s: %.64q is no key: %s", v1alpha1.AnnotationCABundleKey, q.key, problems[0])
	}
	return nil
}

// own is the one key and the annotation that are ours.
func (c content) own(configMap *corev1.ConfigMap) *coreac.ConfigMapApplyConfiguration {
	return identity(configMap).
		WithAnnotations(map[string]string{v1alpha1.AnnotationCABundleHash: c.mark()}).
		WithData(map[string]string{c.key: c.value})
}

// identity is an apply configuration of this very version; applied alone, it gives up every field that was ours. It never makes
// a new object where this one has gone.
func identity(configMap *corev1.ConfigMap) *coreac.ConfigMapApplyConfiguration {
	return coreac.ConfigMap(configMap.Name, configMap.Namespace).
		WithUID(configMap.UID).WithResourceVersion(configMap.ResourceVersion)
}

// exactly is a merge patch of this very version that makes data the bundle and nothing else.
func (c content) exactly(configMap *corev1.ConfigMap) ([]byte, error) {
	data := map[string]any{}
	for key := range configMap.Data {
		data[key] = nil
	}
	data[c.key] = c.value
	return json.Marshal(map[string]any{
		"metadata": map[string]any{
			"uid": configMap.UID, "resourceVersion": configMap.ResourceVersion,
			"annotations": map[string]any{v1alpha1.AnnotationCABundleHash: c.mark()},
		},
		"data": data,
	})
}
