package injector

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/util/csaupgrade"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// dataWriter injects bundles into ConfigMaps and Secrets. In formOwn it applies its keys beside
// those of other clients by server-side apply; in OpenShift's forms it makes the bundle the only
// key.
type dataWriter struct {
	live  client.Client
	clock clock.PassiveClock
	dataKind
}

// dataKind covers the differences between ConfigMaps and Secrets.
type dataKind interface {
	object() client.Object
	// field returns the field that holds a key of the operator.
	field(key string) string
	// value returns the value of a key; false if the object does not have the key.
	value(object client.Object, key string) ([]byte, bool)
	// encoded returns a value as JSON represents it under a key.
	encoded(key string, value []byte) any
	// keys returns the keys of data.
	keys(client.Object) []string
	// configuration returns an apply configuration for exactly this version of the object, with the
	// operator's data and annotations. Without both, applying it gives up every field of the
	// operator. It never creates an object in place of one that was deleted.
	configuration(object client.Object, annotations map[string]string, data map[string][]byte) runtime.ApplyConfiguration
}

func newConfigMapWriter(r *Reconciler) bundleWriter { return dataWriter{r.live, r.clock, configMaps{}} }
func newSecretWriter(r *Reconciler) bundleWriter    { return dataWriter{r.live, r.clock, secrets{}} }

func (w dataWriter) bundle(object client.Object, key string) []byte {
	value, _ := w.value(object, key)
	return value
}

func (w dataWriter) holds(object client.Object, wanted *desiredContent) bool {
	if object.GetAnnotations()[v1alpha1.AnnotationCABundleHash] != wanted.marker() {
		return false
	}
	for key, want := range wanted.data {
		if value, has := w.value(object, key); !has || !bytes.Equal(value, want) {
			return false
		}
	}
	if wanted.form != formOwn {
		return len(w.keys(object)) == 1
	}
	stale, _ := w.staleKeys(object, wanted.data)
	return len(stale) == 0 && w.fieldOwners(object).applied.HasAll(slices.Collect(maps.Keys(wanted.data))...)
}

func (w dataWriter) write(ctx context.Context, object client.Object, wanted *desiredContent) (*issuance.Problem, error) {
	switch {
	case wanted == nil:
		return nil, w.removeInjected(ctx, object)
	case wanted.form == formOwn:
		return w.applyKeys(ctx, object, wanted)
	}
	annotations := map[string]any{v1alpha1.AnnotationCABundleHash: wanted.marker()}
	if since := w.since(object, wanted); since != "" {
		annotations[v1alpha1.AnnotationCABundleSince] = since
	}
	if object.GetAnnotations()[issuance.AnnotationOwningComponent] == "" {
		annotations[issuance.AnnotationOwningComponent] = issuance.OwningComponent
	}
	others := slices.DeleteFunc(w.keys(object), func(key string) bool { return key == wanted.key })
	return nil, w.patch(ctx, object, annotations, wanted.data, others)
}

// applyKeys applies the operator's keys and reverts changes that other clients made to them. It
// leaves a key alone that another client wrote before the operator did, and returns a problem.
func (w dataWriter) applyKeys(ctx context.Context, object client.Object, wanted *desiredContent) (*issuance.Problem, error) {
	if foreign := w.foreignKeys(object, wanted); len(foreign) > 0 {
		return issuance.NewProblem(reasonKeyNotOurs, "key %s is somebody else's and is left alone: delete it, or name another key by annotation %s",
			strings.Join(foreign, ", "), v1alpha1.AnnotationCABundleKey), nil
	}
	since := w.since(object, wanted)
	if _, persistent := w.staleKeys(object, wanted.data); len(persistent) > 0 {
		// One write changes both keys and the marker: at every moment one of the keys has the
		// bundle, and the marker names it.
		err := w.patch(ctx, object, map[string]any{v1alpha1.AnnotationCABundleHash: wanted.marker()}, wanted.data, persistent)
		if err != nil {
			return nil, err
		}
	}
	if err := w.upgradeManagedFields(ctx, object); err != nil {
		return nil, err
	}
	annotations := map[string]string{v1alpha1.AnnotationCABundleHash: wanted.marker()}
	if since != "" {
		annotations[v1alpha1.AnnotationCABundleSince] = since
	}
	if problem := object.GetAnnotations()[v1alpha1.AnnotationError]; strings.HasPrefix(problem, reasonOverwritten) {
		// A single write does not end a conflict with another client.
		annotations[v1alpha1.AnnotationError] = problem
	}
	return nil, w.live.Apply(ctx, w.configuration(object, annotations, wanted.data), apply.Trust, client.ForceOwnership)
}

// upgradeManagedFields turns the fields that the operator patched into fields that it applies.
// Otherwise they would remain when the operator gives up its fields.
func (w dataWriter) upgradeManagedFields(ctx context.Context, object client.Object) error {
	manager := string(apply.Trust)
	patch, err := csaupgrade.UpgradeManagedFieldsPatch(object, sets.New(manager), manager)
	if err != nil || !isManagedBy(object, metav1.ManagedFieldsOperationUpdate) {
		return err
	}
	return w.live.Patch(ctx, object, client.RawPatch(types.JSONPatchType, patch), apply.Trust)
}

// removeInjected removes everything that the operator wrote to the object. In OpenShift's forms,
// where the bundle is the only key, the bundle remains, as on OpenShift.
func (w dataWriter) removeInjected(ctx context.Context, object client.Object) error {
	if _, persistent := w.staleKeys(object, nil); len(persistent) > 0 {
		if err := w.patch(ctx, object, map[string]any{v1alpha1.AnnotationCABundleHash: nil}, nil, persistent); err != nil {
			return err
		}
	}
	if err := w.live.Apply(ctx, w.configuration(object, nil, nil), apply.Trust); err != nil {
		return err
	}
	if err := w.live.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
		return err
	}
	if _, carries := readMarker(object); !carries {
		return nil
	}
	return apply.Annotations(ctx, w.live, apply.Trust, object, map[string]*string{
		v1alpha1.AnnotationCABundleHash: nil, v1alpha1.AnnotationCABundleSince: nil,
	})
}

// patch changes annotations and keys of exactly this version of the object, and removes keys.
func (w dataWriter) patch(ctx context.Context, object client.Object, annotations map[string]any, data map[string][]byte, remove []string) error {
	changes := map[string]map[string]any{}
	change := func(key string, value any) {
		field := w.field(key)
		if changes[field] == nil {
			changes[field] = map[string]any{}
		}
		changes[field][key] = value
	}
	for _, key := range remove {
		change(key, nil)
	}
	for key, value := range data {
		change(key, w.encoded(key, value))
	}
	metadata := map[string]any{"uid": object.GetUID(), "resourceVersion": object.GetResourceVersion(), "annotations": annotations}
	patch := map[string]any{"metadata": metadata}
	for field, changed := range changes {
		patch[field] = changed
	}
	encoded, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	return w.live.Patch(ctx, object, client.RawPatch(types.MergePatchType, encoded), apply.Trust)
}

type configMaps struct{}

func (configMaps) object() client.Object { return &corev1.ConfigMap{} }

func (configMaps) field(key string) string {
	if key == v1alpha1.TruststoreKey {
		return "binaryData"
	}
	return "data"
}

func (c configMaps) value(object client.Object, key string) ([]byte, bool) {
	configMap, _ := object.(*corev1.ConfigMap)
	if c.field(key) == "data" {
		text, has := configMap.Data[key]
		return []byte(text), has
	}
	value, has := configMap.BinaryData[key]
	return value, has
}

func (c configMaps) encoded(key string, value []byte) any {
	if c.field(key) == "data" {
		return string(value)
	}
	return value
}

func (configMaps) keys(object client.Object) []string {
	configMap, _ := object.(*corev1.ConfigMap)
	return slices.Collect(maps.Keys(configMap.Data))
}

func (configMaps) configuration(object client.Object, annotations map[string]string, data map[string][]byte) runtime.ApplyConfiguration {
	configuration := coreac.ConfigMap(object.GetName(), object.GetNamespace()).
		WithUID(object.GetUID()).WithResourceVersion(object.GetResourceVersion())
	if annotations != nil {
		configuration.WithAnnotations(annotations)
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

func (secrets) field(string) string { return "data" }

func (secrets) encoded(_ string, value []byte) any { return value }

func (secrets) value(object client.Object, key string) ([]byte, bool) {
	secret, _ := object.(*corev1.Secret)
	value, has := secret.Data[key]
	return value, has
}

func (secrets) keys(object client.Object) []string {
	secret, _ := object.(*corev1.Secret)
	return slices.Collect(maps.Keys(secret.Data))
}

func (secrets) configuration(object client.Object, annotations map[string]string, data map[string][]byte) runtime.ApplyConfiguration {
	configuration := coreac.Secret(object.GetName(), object.GetNamespace()).
		WithUID(object.GetUID()).WithResourceVersion(object.GetResourceVersion())
	if annotations != nil {
		configuration.WithAnnotations(annotations)
	}
	if len(data) > 0 {
		configuration.WithData(data)
	}
	return configuration
}
