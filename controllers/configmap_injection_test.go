package controllers_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// The operator writes one key and one annotation, and touches nothing else.
func TestConfigMapInjectionAddsOneKey(t *testing.T) {
	r := newRealm(t)
	data := map[string]string{"config.yaml": "a: b", "ca.crt": "another"}
	configMap := r.configMap("trust", r.injects("team", "shop"), data, func(c *corev1.ConfigMap) {
		c.Labels, c.BinaryData, c.Finalizers = map[string]string{"app": "web"}, map[string][]byte{"binary": {0xff}}, []string{"example.org/guard"}
	})
	t.Cleanup(func() { unguard(t, configMap.DeepCopy()) })
	before := configMap.DeepCopy()
	eventuallyHolds(t, configMap, r.with(v1alpha1.DefaultCABundleKey, data))
	owns(t, configMap, ownKeys(v1alpha1.DefaultCABundleKey)...)

	delete(configMap.Annotations, v1alpha1.AnnotationCABundleHash)
	delete(configMap.Annotations, v1alpha1.AnnotationCABundleSince)
	if !maps.Equal(configMap.Annotations, before.Annotations) || !maps.Equal(configMap.Labels, before.Labels) ||
		!slices.Equal(configMap.Finalizers, before.Finalizers) || len(configMap.BinaryData) != 1 || configMap.BinaryData["binary"][0] != 0xff {
		t.Errorf("something else was touched: %+v", configMap)
	}
}

// The bundle is written under the key that the annotation names, and moves when that changes.
func TestConfigMapInjectionUnderAnotherKey(t *testing.T) {
	r := newRealm(t)
	data := map[string]string{"mine": "stays"}
	configMap := r.configMap("trust", r.injects(v1alpha1.AnnotationCABundleKey, "corp.pem"), data)
	eventuallyHolds(t, configMap, r.with("corp.pem", data))
	owns(t, configMap, ownKeys("corp.pem")...)

	update(t, configMap, func(c *corev1.ConfigMap) { c.Annotations[v1alpha1.AnnotationCABundleKey] = "renamed.pem" })
	eventuallyHolds(t, configMap, r.with("renamed.pem", data))
	owns(t, configMap, ownKeys("renamed.pem")...)

	update(t, configMap, func(c *corev1.ConfigMap) { delete(c.Annotations, v1alpha1.AnnotationCABundleKey) })
	eventuallyHolds(t, configMap, r.with(v1alpha1.DefaultCABundleKey, data))
	owns(t, configMap, ownKeys(v1alpha1.DefaultCABundleKey)...)
}

// An invalid key is reported in an annotation and an Event; an existing bundle stays meanwhile.
func TestConfigMapInjectionUnderAnInvalidKey(t *testing.T) {
	for name, key := range map[string]string{"slash": "a/b", "dots": "..", "space": "a b", "long": strings.Repeat("a", 254)} {
		t.Run(name, func(t *testing.T) {
			r := newRealm(t)
			configMap := r.configMap("trust", r.injects(v1alpha1.AnnotationCABundleKey, key), nil)
			quoted := key[:min(len(key), 64)]
			errorOn(t, configMap, "InvalidCABundleKey: ", v1alpha1.AnnotationCABundleKey, quoted)
			event(t, configMap, corev1.EventTypeWarning, "InvalidCABundleKey", quoted)
			if len(configMap.Data) != 0 {
				t.Errorf("the data are %v", configMap.Data)
			}
			update(t, configMap, func(c *corev1.ConfigMap) { c.Annotations[v1alpha1.AnnotationCABundleKey] = "good.pem" })
			errorOn(t, configMap)
			eventuallyHolds(t, configMap, r.with("good.pem", nil))

			update(t, configMap, func(c *corev1.ConfigMap) { c.Annotations[v1alpha1.AnnotationCABundleKey] = key })
			errorOn(t, configMap, "InvalidCABundleKey: ")
			eventuallyHolds(t, configMap, r.with("good.pem", nil))
		})
	}
}

// A ServiceCA that does not exist is reported, and the bundle is written once it does. A deleted
// ServiceCA is reported too, and its bundle stays.
func TestConfigMapInjectionOfAnUnknownServiceCA(t *testing.T) {
	r := newRealm(t)
	name := r.name + "-later"
	configMap := r.configMap("trust", map[string]string{v1alpha1.AnnotationInjectCABundle: name}, map[string]string{"mine": "stays"})
	errorOn(t, configMap, "ServiceCANotReady: ", "no ServiceCA "+name, "create it")
	event(t, configMap, corev1.EventTypeWarning, "ServiceCANotReady", name)
	eventuallyHolds(t, configMap, func() map[string]string { return map[string]string{"mine": "stays"} })

	later := create(t, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: name}})
	r.ca = later
	errorOn(t, configMap)
	holds := r.with(v1alpha1.DefaultCABundleKey, map[string]string{"mine": "stays"})
	eventuallyHolds(t, configMap, holds)

	if err := kube.Delete(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	errorOn(t, configMap, "ServiceCANotReady: ", name)
	eventuallyHolds(t, configMap, holds)
}

// The bundle of another ServiceCA replaces the previous one.
func TestConfigMapInjectionOfAnotherServiceCA(t *testing.T) {
	r := newRealm(t)
	other := newRealmIn(t, kube, r.name+"-other")
	configMap := r.configMap("trust", r.injects(), nil)
	eventuallyHolds(t, configMap, r.exactly)
	update(t, configMap, func(c *corev1.ConfigMap) { c.Annotations[v1alpha1.AnnotationInjectCABundle] = other.ca.Name })
	eventuallyHolds(t, configMap, other.exactly)
	owns(t, configMap, ownKeys(v1alpha1.DefaultCABundleKey)...)
}

// A key that another field manager wrote is reported and left alone, and used once it has been
// removed.
func TestConfigMapInjectionIntoAForeignKey(t *testing.T) {
	r := newRealm(t)
	foreign := map[string]string{v1alpha1.DefaultCABundleKey: "somebody else's", "mine": "stays"}
	configMap := r.configMap("trust", r.injects(), foreign)
	errorOn(t, configMap, "KeyNotOurs: ", v1alpha1.DefaultCABundleKey, "delete it", v1alpha1.AnnotationCABundleKey)
	event(t, configMap, corev1.EventTypeWarning, "KeyNotOurs", v1alpha1.DefaultCABundleKey)
	r.settle()
	eventuallyHolds(t, configMap, func() map[string]string { return foreign })

	update(t, configMap, func(c *corev1.ConfigMap) { delete(c.Data, v1alpha1.DefaultCABundleKey) })
	errorOn(t, configMap)
	eventuallyHolds(t, configMap, r.with(v1alpha1.DefaultCABundleKey, map[string]string{"mine": "stays"}))
	owns(t, configMap, ownKeys(v1alpha1.DefaultCABundleKey)...)
}

// The same holds for a key to which an existing bundle should move: the operator does not take it.
func TestConfigMapInjectionMovesOntoNoForeignKey(t *testing.T) {
	for name, also := range map[string]func(*corev1.ConfigMap){
		"alone":                       func(*corev1.ConfigMap) {},
		"and the bundle changed":      func(c *corev1.ConfigMap) { c.Data[v1alpha1.DefaultCABundleKey] = "changed" },
		"and the bundle removed":      func(c *corev1.ConfigMap) { delete(c.Data, v1alpha1.DefaultCABundleKey) },
		"and the foreign key changed": func(c *corev1.ConfigMap) { c.Data["ca.crt"] = "changed" },
		"and the foreign key added":   func(c *corev1.ConfigMap) { c.Data["new.crt"] = c.Data["ca.crt"] },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRealm(t)
			configMap := r.configMap("trust", r.injects(), map[string]string{"ca.crt": "somebody else's"})
			eventuallyHolds(t, configMap, r.with(v1alpha1.DefaultCABundleKey, map[string]string{"ca.crt": "somebody else's"}))
			want := ""
			update(t, configMap, func(c *corev1.ConfigMap) {
				also(c)
				c.Annotations[v1alpha1.AnnotationCABundleKey] = "ca.crt"
				want = c.Data["ca.crt"]
			})
			errorOn(t, configMap, "KeyNotOurs: ", "ca.crt")
			r.settle()
			if err := kube.Get(t.Context(), client.ObjectKeyFromObject(configMap), configMap); err != nil {
				t.Fatal(err)
			}
			if got := configMap.Data["ca.crt"]; got != want {
				t.Errorf("somebody else's key became %q", got)
			}
			update(t, configMap, func(c *corev1.ConfigMap) { delete(c.Data, "ca.crt") })
			errorOn(t, configMap)
			eventually(t, func(ctx context.Context) string {
				if err := kube.Get(ctx, client.ObjectKeyFromObject(configMap), configMap); err != nil {
					return err.Error()
				}
				if configMap.Data["ca.crt"] != r.published() {
					return "the bundle is not there"
				}
				return ""
			})
		})
	}
}

// The operator injects into no ConfigMap in which other controllers publish: neither the one with
// the API server's root CA nor its own trust-bundle ConfigMaps.
func TestConfigMapInjectionIntoWhatOthersPublish(t *testing.T) {
	r := newOpenShift(t)
	published := &corev1.ConfigMap{ObjectMeta: inOperatorNamespace("signing-cabundle")}
	root := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "kube-root-ca.crt"}}
	for name, annotations := range map[string]map[string]string{
		"ours": r.injects(), "OpenShift's": {beta + "inject-cabundle": "true"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, configMap := range []*corev1.ConfigMap{published, root} {
				var before map[string]string
				update(t, configMap, func(c *corev1.ConfigMap) {
					before = maps.Clone(c.Data)
					if c.Annotations == nil {
						c.Annotations = map[string]string{}
					}
					maps.Copy(c.Annotations, annotations)
				})
				stop := follow(t, configMap)
				r.settle()
				for _, state := range stop() {
					if !maps.Equal(state.Data, before) {
						t.Errorf("ConfigMap %s became %v", configMap.Name, state.Data)
					}
				}
				update(t, configMap, func(c *corev1.ConfigMap) {
					for key := range annotations {
						delete(c.Annotations, key)
					}
				})
			}
		})
	}
}
