package controllers_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// configMap creates a ConfigMap in the realm.
func (r realm) configMap(name string, annotations, data map[string]string, adjust ...func(*corev1.ConfigMap)) *corev1.ConfigMap {
	r.Helper()
	configMap := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name, Annotations: annotations}, Data: data,
	}
	for _, a := range adjust {
		a(configMap)
	}
	return create(r.T, configMap)
}

// eventuallyHolds waits until the data of a ConfigMap are these and no others, and leaves the
// ConfigMap as it was read last in the argument.
func eventuallyHolds(t *testing.T, configMap *corev1.ConfigMap, want func() map[string]string) {
	t.Helper()
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(configMap), configMap); err != nil {
			return err.Error()
		}
		expected := want()
		for key, value := range expected {
			if got, ok := configMap.Data[key]; got != value || !ok {
				return fmt.Sprintf("data[%q] is %q, want %q (%v)", key, got, value, configMap.Annotations)
			}
		}
		if len(configMap.Data) != len(expected) {
			return fmt.Sprintf("there are %d keys, want %d", len(configMap.Data), len(expected))
		}
		return ""
	})
}

// published returns the trust bundle of the realm's CA.
func (r realm) published() string {
	r.Helper()
	var published corev1.ConfigMap
	key := client.ObjectKey{Namespace: operatorNamespace, Name: r.ca.TrustBundleConfigMapName()}
	eventually(r.T, func(ctx context.Context) string {
		if err := kube.Get(ctx, key, &published); err != nil {
			return err.Error()
		}
		if published.Data[r.ca.Spec.TrustBundle.Key] == "" {
			return "no bundle is published"
		}
		return ""
	})
	return published.Data[r.ca.Spec.TrustBundle.Key]
}

// exactly returns the data of a ConfigMap as OpenShift fills it.
func (r realm) exactly() map[string]string { return map[string]string{"service-ca.crt": r.published()} }

// settle returns when the operator has processed all earlier changes of ConfigMaps: it has filled
// one that was created later.
func (r realm) settle() {
	r.Helper()
	later := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: r.name, GenerateName: "settle-", Annotations: map[string]string{v1alpha1.AnnotationInjectCABundle: r.ca.Name},
	}}
	if err := kube.Create(r.Context(), later); err != nil {
		r.Fatal(err)
	}
	eventuallyHolds(r.T, later, r.exactly)
	if err := kube.Delete(r.Context(), later); err != nil {
		r.Fatal(err)
	}
}

// inject-cabundle on a ConfigMap: data becomes exactly service-ca.crt, and binaryData is kept. The
// value is case-insensitive, and the alpha annotation works too.
func TestOpenShiftInjectCABundle(t *testing.T) {
	for name, tc := range map[string]struct {
		annotation, value string
		injected          bool
	}{
		"true":        {beta + "inject-cabundle", "true", true},
		"capitalized": {beta + "inject-cabundle", "True", true},
		"upper case":  {beta + "inject-cabundle", "TRUE", true},
		"alpha":       {alpha + "inject-cabundle", "true", true},
		"mixed case":  {alpha + "inject-cabundle", "tRuE", true},
		"false":       {beta + "inject-cabundle", "false", false},
		"yes":         {beta + "inject-cabundle", "yes", false},
		"empty":       {alpha + "inject-cabundle", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newOpenShift(t)
			configMap := r.configMap("trust", map[string]string{tc.annotation: tc.value}, map[string]string{"other": "data"},
				func(c *corev1.ConfigMap) { c.BinaryData = map[string][]byte{"binary": {0xff}} })
			if !tc.injected {
				r.settle()
				same(t, configMap)
				return
			}
			eventuallyHolds(t, configMap, r.exactly)
			if len(configMap.BinaryData) != 1 || configMap.BinaryData["binary"][0] != 0xff {
				t.Errorf("binaryData is %v", configMap.BinaryData)
			}
		})
	}
}

// An injected ConfigMap names the owning component that OpenShift names, unless another component
// has claimed it.
func TestOpenShiftOwningComponent(t *testing.T) {
	for claimed, want := range map[string]string{"": "service-ca", "Monitoring": "Monitoring"} {
		t.Run("claimed by "+claimed, func(t *testing.T) {
			r := newOpenShift(t)
			annotations := map[string]string{beta + "inject-cabundle": "true"}
			if claimed != "" {
				annotations["openshift.io/owning-component"] = claimed
			}
			configMap := r.configMap("trust", annotations, nil)
			eventuallyHolds(t, configMap, r.exactly)
			has(t, configMap.Annotations, map[string]string{"openshift.io/owning-component": want})
		})
	}
}

// The data stay exact: keys added later are removed, and changed or removed keys are restored.
func TestOpenShiftInjectCABundleStaysExact(t *testing.T) {
	for name, change := range map[string]func(*corev1.ConfigMap){
		"key added":      func(c *corev1.ConfigMap) { c.Data["more"] = "data" },
		"bundle changed": func(c *corev1.ConfigMap) { c.Data["service-ca.crt"] += "more" },
		"bundle removed": func(c *corev1.ConfigMap) { delete(c.Data, "service-ca.crt") },
		"data removed":   func(c *corev1.ConfigMap) { c.Data = nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := newOpenShift(t)
			configMap := r.configMap("trust", map[string]string{beta + "inject-cabundle": "true"}, nil)
			eventuallyHolds(t, configMap, r.exactly)
			update(t, configMap, change)
			eventuallyHolds(t, configMap, r.exactly)
			settled := configMap.DeepCopy()
			r.settle()
			same(t, settled)
		})
	}
}

// inject-vulnerable-legacy-cabundle works only for the one ConfigMap name, and only without the
// other annotations. It injects the bundle and the CA of the service accounts.
func TestOpenShiftLegacyBundle(t *testing.T) {
	const legacy = alpha + "inject-vulnerable-legacy-cabundle"
	r := newOpenShift(t)
	withRoot := func() map[string]string {
		var root corev1.ConfigMap
		if err := kube.Get(t.Context(), client.ObjectKey{Namespace: r.name, Name: "kube-root-ca.crt"}, &root); err != nil {
			return nil // the controller manager has not created it yet
		}
		return map[string]string{"service-ca.crt": r.published() + root.Data["ca.crt"]}
	}
	configMap := r.configMap("openshift-service-ca.crt", map[string]string{legacy: "true"}, map[string]string{"other": "data"})
	eventuallyHolds(t, configMap, withRoot)
	if got := len(parse(t, []byte(configMap.Data["service-ca.crt"]))); got != len(r.publishedRoots())+1 {
		t.Errorf("there are %d certificates in the legacy bundle", got)
	}
	other := r.configMap("another-name", map[string]string{legacy: "true"}, nil)
	r.settle()
	same(t, other)

	update(t, configMap, func(c *corev1.ConfigMap) { c.Annotations[beta+"inject-cabundle"] = "true" })
	eventuallyHolds(t, configMap, r.exactly)
	update(t, configMap, func(c *corev1.ConfigMap) { delete(c.Annotations, beta+"inject-cabundle") })
	eventuallyHolds(t, configMap, withRoot)
}

// The legacy bundle is also injected where its ConfigMap was created before the root CA that it
// needs, as can happen in a new namespace.
func TestOpenShiftLegacyBundleWaitsForTheRootCA(t *testing.T) {
	name := realmName(t)
	allow := forbid(t, fmt.Sprintf("object.metadata.name == 'kube-root-ca.crt' && object.metadata.namespace == '%s'", name))
	r := newOpenShift(t)
	configMap := r.configMap("openshift-service-ca.crt", map[string]string{alpha + "inject-vulnerable-legacy-cabundle": "true"}, nil)
	r.settle()
	allow()
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(configMap), configMap); err != nil {
			return err.Error()
		}
		if len(configMap.Data["service-ca.crt"]) <= len(r.published()) {
			return "there is no legacy bundle"
		}
		return ""
	})
}
