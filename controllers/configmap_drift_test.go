package controllers_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// The operator reverts manual changes to its key, and leaves what other managers own untouched.
func TestConfigMapDriftIsReverted(t *testing.T) {
	const key = v1alpha1.DefaultCABundleKey
	data := map[string]string{"mine": "stays"}
	for name, drift := range map[string]func(*corev1.ConfigMap){
		"bundle changed":             func(c *corev1.ConfigMap) { c.Data[key] += "more" },
		"bundle emptied":             func(c *corev1.ConfigMap) { c.Data[key] = "" },
		"bundle removed":             func(c *corev1.ConfigMap) { delete(c.Data, key) },
		"mark changed":               func(c *corev1.ConfigMap) { c.Annotations[v1alpha1.AnnotationCABundleHash] = "0" },
		"mark removed":               func(c *corev1.ConfigMap) { delete(c.Annotations, v1alpha1.AnnotationCABundleHash) },
		"bundle and mark removed":    func(c *corev1.ConfigMap) { c.Data, c.Annotations = data, injectsOf(c) },
		"field ownership taken away": func(c *corev1.ConfigMap) { c.ManagedFields = []metav1.ManagedFieldsEntry{{}} },
		"bundle moved to binaryData": func(c *corev1.ConfigMap) {
			c.BinaryData = map[string][]byte{"other": []byte(c.Data[key])}
			delete(c.Data, key)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRealm(t)
			configMap := r.configMap("trust", r.injects(), data)
			eventuallyHolds(t, configMap, r.with(key, data))
			mark := configMap.Annotations[v1alpha1.AnnotationCABundleHash]
			update(t, configMap, drift)
			eventuallyHolds(t, configMap, r.with(key, data))
			eventually(t, func(ctx context.Context) string {
				if err := kube.Get(ctx, client.ObjectKeyFromObject(configMap), configMap); err != nil {
					return err.Error()
				}
				if got := configMap.Annotations[v1alpha1.AnnotationCABundleHash]; got != mark {
					return "the mark is " + got
				}
				return ""
			})
			r.settle()
			errorOn(t, configMap)
		})
	}
}

// injectsOf returns only the annotation that asks for the bundle.
func injectsOf(configMap *corev1.ConfigMap) map[string]string {
	return map[string]string{v1alpha1.AnnotationInjectCABundle: configMap.Annotations[v1alpha1.AnnotationInjectCABundle]}
}

// The API server rejects a key that is in both data and binaryData. A bundle key that is already in
// binaryData is reported, and the bundle is written once that key is removed.
func TestConfigMapKeyTakenInBinaryData(t *testing.T) {
	r := newRealm(t)
	configMap := r.configMap("trust", r.injects(), nil, func(c *corev1.ConfigMap) {
		c.BinaryData = map[string][]byte{v1alpha1.DefaultCABundleKey: {0xff}}
	})
	errorOn(t, configMap, "InjectionRefused: ", v1alpha1.DefaultCABundleKey)
	update(t, configMap, func(c *corev1.ConfigMap) { c.BinaryData = nil })
	errorOn(t, configMap)
	eventuallyHolds(t, configMap, r.exactly)
}

// An immutable ConfigMap is reported as one that cannot be filled, and keeps the bundle that it
// has.
func TestConfigMapImmutable(t *testing.T) {
	for name, annotations := range map[string]func(realm) map[string]string{
		"by ours":        func(r realm) map[string]string { return r.injects() },
		"by OpenShift's": func(realm) map[string]string { return map[string]string{beta + "inject-cabundle": "true"} },
	} {
		t.Run(name, func(t *testing.T) {
			r := newOpenShift(t)
			data := map[string]string{"mine": "stays"}
			empty := r.configMap("empty", annotations(r), data, func(c *corev1.ConfigMap) { c.Immutable = new(true) })
			errorOn(t, empty, "InjectionRefused: ", "immutable")
			event(t, empty, corev1.EventTypeWarning, "InjectionRefused", "immutable")
			eventuallyHolds(t, empty, func() map[string]string { return data })

			filled := r.configMap("filled", annotations(r), nil)
			eventuallyHolds(t, filled, r.exactly)
			update(t, filled, func(c *corev1.ConfigMap) { c.Immutable = new(true) })
			before := r.exactly()
			r.loseKey()
			errorOn(t, filled, "InjectionRefused: ", "immutable")
			eventuallyHolds(t, filled, func() map[string]string { return before })
		})
	}
}

// A ConfigMap in a namespace that is being deleted blocks nothing and is not created again.
func TestConfigMapInATerminatingNamespace(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	guarded := r.configMap("guarded", r.injects(), nil, func(c *corev1.ConfigMap) { c.Finalizers = []string{"example.org/guard"} })
	plain := r.configMap("plain", r.injects(), nil)
	eventuallyHolds(t, guarded, r.exactly)
	eventuallyHolds(t, plain, r.exactly)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
	if err := kube.Delete(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	r.gone(plain)
	r.loseKey()
	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(plain), plain); !apierrors.IsNotFound(err) {
		t.Errorf("the ConfigMap was made again (%v)", err)
	}
	unguard(t, guarded.DeepCopy())
	r.gone(namespace)
}

// gone waits until an object no longer exists.
func (r realm) gone(object client.Object) {
	r.Helper()
	eventually(r.T, func(ctx context.Context) string {
		if err := r.admin().Get(ctx, client.ObjectKeyFromObject(object), object); !apierrors.IsNotFound(err) {
			return object.GetName() + " is still there"
		}
		return ""
	})
}

// A GitOps controller that applies its manifest repeatedly meets no conflict, and removes nothing
// of the operator's.
func TestConfigMapRepeatedGitOpsApply(t *testing.T) {
	r := newRealm(t)
	data := map[string]string{"mine": "stays"}
	configMap, err := r.gitops("trust", r.injects(), data)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kube.Delete(context.Background(), configMap) })
	holds := r.with(v1alpha1.DefaultCABundleKey, data)
	eventuallyHolds(t, configMap, holds)
	settled := configMap.DeepCopy()
	for range 10 {
		if _, err := r.gitops("trust", r.injects(), data); err != nil {
			t.Fatal(err)
		}
		same(t, settled)
	}
	stop := follow(t, settled)
	r.loseKey()
	for _, value := range []string{"changed", "again"} {
		data["mine"] = value
		if _, err := r.gitops("trust", r.injects(), data); err != nil {
			t.Fatal(err)
		}
		eventuallyHolds(t, configMap, holds)
	}
	owns(t, configMap, ownKeys(v1alpha1.DefaultCABundleKey)...)
	for _, state := range stop() {
		if state.Data[v1alpha1.DefaultCABundleKey] == "" {
			t.Error("the bundle was gone for a moment")
		}
	}
}

// The same holds for client-side apply, which removes only the fields that it once wrote.
func TestConfigMapReplacedByItsManifest(t *testing.T) {
	r := newRealm(t)
	data := map[string]string{"mine": "stays"}
	configMap := r.configMap("trust", r.injects(), data)
	holds := r.with(v1alpha1.DefaultCABundleKey, data)
	eventuallyHolds(t, configMap, holds)
	// A third replacement would be reported as repeatedly overwritten.
	for range 2 {
		replacement := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "trust", Annotations: r.injects()}, Data: data,
		}
		if err := kube.Update(t.Context(), replacement); err != nil {
			t.Fatal(err)
		}
		eventuallyHolds(t, configMap, holds)
		owns(t, configMap, ownKeys(v1alpha1.DefaultCABundleKey)...)
	}
	force := coreac.ConfigMap("trust", r.name).WithData(map[string]string{v1alpha1.DefaultCABundleKey: "by force"})
	if err := kube.Apply(t.Context(), force, client.FieldOwner("stranger"), client.ForceOwnership); err != nil {
		t.Fatal(err)
	}
	eventuallyHolds(t, configMap, holds)
	owns(t, configMap, ownKeys(v1alpha1.DefaultCABundleKey)...)
}
