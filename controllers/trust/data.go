package trust

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/util/csaupgrade"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// data is the door into ConfigMaps and Secrets: keys beside those of others, by server-side apply or, as OpenShift has it, the bundle alone.
type data struct {
	live client.Client
	dataKind
}

// dataKind is in what ConfigMaps and Secrets differ.
type dataKind interface {
	object() client.Object
	// value is what lies under a key; false where nothing does.
	value(object client.Object, key string) ([]byte, bool)
	// keys are those of data.
	keys(client.Object) []string
	// configuration is an apply configuration of this very version with our data and, unless it is empty, our mark. Without both it gives up every field that was
	// ours. It never makes a new object where this one has gone.
	configuration(object client.Object, mark string, data map[string][]byte) runtime.ApplyConfiguration
}

func intoConfigMap(r *Reconciler) door { return data{r.live, configMaps{}} }
func intoSecret(r *Reconciler) door    { return data{r.live, secrets{}} }

func (d data) bundle(object client.Object, key string) []byte {
	value, _ := d.value(object, key)
	return value
}

func (d data) holds(object client.Object, wanted *content) bool {
	if object.GetAnnotations()[v1alpha1.AnnotationCABundleHash] != wanted.mark(wanted.hash) {
		return false
	}
	for key, want := range wanted.data {
		if value, has := d.value(object, key); !has || !bytes.Equal(value, want) {
			return false
		}
	}
	return wanted.form == formOwn || len(d.keys(object)) == 1
}

func (d data) write(ctx context.Context, object client.Object, wanted *content) (*issuance.Obstacle, error) {
	switch {
	case wanted == nil:
		return nil, d.giveUp(ctx, object)
	case wanted.form == formOwn:
		return d.add(ctx, object, wanted)
	}
	patch, err := d.exactly(object, wanted)
	if err != nil {
		return nil, err
	}
	return nil, d.live.Patch(ctx, object, client.RawPatch(types.MergePatchType, patch), apply.Trust)
}

// add applies our keys. It yields to whoever wrote such a key before us; once the keys are ours, it puts back what was changed by hand.
func (d data) add(ctx context.Context, object client.Object, wanted *content) (*issuance.Obstacle, error) {
	options := []client.ApplyOption{apply.Trust}
	if d.bears(object, wanted) {
		if err := d.adopt(ctx, object); err != nil {
			return nil, err
		}
		options = append(options, client.ForceOwnership)
	}
	err := d.live.Apply(ctx, d.configuration(object, wanted.mark(wanted.hash), wanted.data), options...)
	if apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) {
		return issuance.NewObstacle(reasonKeyNotOurs,
			"a key of %s is somebody else's and is left alone: delete it, or name another key by annotation %s",
			strings.Join(slices.Sorted(maps.Keys(wanted.data)), ", "), v1alpha1.AnnotationCABundleKey), nil
	}
	return nil, err
}

// bears tells whether an object has a mark for all the keys that are wanted.
func (d data) bears(object client.Object, wanted *content) bool {
	_, key, carries := readMark(object)
	hadTruststore := strings.HasSuffix(object.GetAnnotations()[v1alpha1.AnnotationCABundleHash], withTruststore)
	return carries && key == wanted.key && (wanted.truststore == "" || hadTruststore)
}

// adopt makes what we patched into an object, as long as it asked by OpenShift's annotation, a part of what we apply: or that
// would stay when we give up.
func (d data) adopt(ctx context.Context, object client.Object) error {
	manager := string(apply.Trust)
	patch, err := csaupgrade.UpgradeManagedFieldsPatch(object, sets.New(manager), manager)
	if err != nil || !wrote(object, metav1.ManagedFieldsOperationUpdate) {
		return err
	}
	return d.live.Patch(ctx, object, client.RawPatch(types.JSONPatchType, patch), apply.Trust)
}

// giveUp leaves an object as if we had never been there; where data was all ours, as OpenShift has it, the bundle stays, as there.
func (d data) giveUp(ctx context.Context, object client.Object) error {
	if err := d.live.Apply(ctx, d.configuration(object, "", nil), apply.Trust); err != nil {
		return err
	}
	if err := d.live.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
		return err
	}
	if _, _, carries := readMark(object); !carries {
		return nil
	}
	return apply.Annotations(ctx, d.live, apply.Trust, object, map[string]*string{v1alpha1.AnnotationCABundleHash: nil})
}

// exactly is a merge patch of this very version that makes data the bundle and nothing else.
func (d data) exactly(object client.Object, wanted *content) ([]byte, error) {
	data := map[string]any{}
	for _, key := range d.keys(object) {
		data[key] = nil
	}
	data[wanted.key] = string(wanted.bundle())
	return json.Marshal(map[string]any{
		"metadata": map[string]any{
			"uid": object.GetUID(), "resourceVersion": object.GetResourceVersion(),
			"annotations": map[string]any{v1alpha1.AnnotationCABundleHash: wanted.mark(wanted.hash)},
		},
		"data": data,
	})
}

type configMaps struct{}

func (configMaps) object() client.Object { return &corev1.ConfigMap{} }

func (configMaps) value(object client.Object, key string) ([]byte, bool) {
	configMap, _ := object.(*corev1.ConfigMap)
	if text, has := configMap.Data[key]; has {
		return []byte(text), true
	}
	value, has := configMap.BinaryData[key]
	return value, has
}

func (configMaps) keys(object client.Object) []string {
	configMap, _ := object.(*corev1.ConfigMap)
	return slices.Collect(maps.Keys(configMap.Data))
}

func (configMaps) configuration(object client.Object, mark string, data map[string][]byte) runtime.ApplyConfiguration {
	configuration := coreac.ConfigMap(object.GetName(), object.GetNamespace()).
		WithUID(object.GetUID()).WithResourceVersion(object.GetResourceVersion())
	if mark != "" {
		configuration.WithAnnotations(map[string]string{v1alpha1.AnnotationCABundleHash: mark})
	}
	for key, value := range data {
		if key == v1alpha1.TruststoreKey {
			configuration.WithBinaryData(map[string][]byte{key: value})
			continue
		}
		configuration.WithData(map[string]string{key: string(value)})
	}
	return configuration
}

type secrets struct{}

func (secrets) object() client.Object { return &corev1.Secret{} }

func (secrets) value(object client.Object, key string) ([]byte, bool) {
	secret, _ := object.(*corev1.Secret)
	value, has := secret.Data[key]
	return value, has
}

func (secrets) keys(object client.Object) []string {
	secret, _ := object.(*corev1.Secret)
	return slices.Collect(maps.Keys(secret.Data))
}

func (secrets) configuration(object client.Object, mark string, data map[string][]byte) runtime.ApplyConfiguration {
	configuration := coreac.Secret(object.GetName(), object.GetNamespace()).
		WithUID(object.GetUID()).WithResourceVersion(object.GetResourceVersion())
	if mark != "" {
		configuration.WithAnnotations(map[string]string{v1alpha1.AnnotationCABundleHash: mark})
	}
	if len(data) > 0 {
		configuration.WithData(data)
	}
	return configuration
}
