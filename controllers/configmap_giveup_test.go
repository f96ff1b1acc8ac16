package controllers_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// removed waits until a ConfigMap is as if the operator had never written to it: it has these data,
// and no annotation and no field of the operator's.
func removed(t *testing.T, configMap *corev1.ConfigMap, data map[string]string) {
	t.Helper()
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(configMap), configMap); err != nil {
			return err.Error()
		}
		if owned := ownedBy(t, configMap, trustManager); len(owned) > 0 {
			return "we own " + owned[0]
		}
		return ""
	})
	eventuallyHolds(t, configMap, func() map[string]string { return data })
	hasNot(t, configMap.Annotations, v1alpha1.AnnotationCABundleHash, v1alpha1.AnnotationCABundleSince, v1alpha1.AnnotationError)
}

// When the annotation is removed, the operator removes its key, and leaves everything else.
func TestBundleRemovedWithTheAnnotation(t *testing.T) {
	const key = v1alpha1.DefaultCABundleKey
	others := map[string]string{"mine": "stays"}
	for name, tc := range map[string]struct {
		before, change func(*corev1.ConfigMap)
		want           map[string]string
	}{
		"annotation removed": {
			change: func(c *corev1.ConfigMap) { delete(c.Annotations, v1alpha1.AnnotationInjectCABundle) }, want: others,
		},
		"annotation emptied": {
			change: func(c *corev1.ConfigMap) { c.Annotations[v1alpha1.AnnotationInjectCABundle] = "" }, want: others,
		},
		"all annotations removed, ours too": {
			change: func(c *corev1.ConfigMap) { c.Annotations = nil }, want: others,
		},
		"all removed at once": {
			change: func(c *corev1.ConfigMap) { c.Annotations, c.Data = nil, nil }, want: nil,
		},
		"the key becomes somebody else's": {
			change: func(c *corev1.ConfigMap) {
				delete(c.Annotations, v1alpha1.AnnotationInjectCABundle)
				c.Data[key] = "from now on mine"
			},
			want: map[string]string{"mine": "stays", key: "from now on mine"},
		},
		"after drift": {
			before: func(c *corev1.ConfigMap) { c.Data[key] = "drift" },
			change: func(c *corev1.ConfigMap) { delete(c.Annotations, v1alpha1.AnnotationInjectCABundle) }, want: others,
		},
		"after an error": {
			before: func(c *corev1.ConfigMap) { c.Annotations[v1alpha1.AnnotationCABundleKey] = "a/b" },
			change: func(c *corev1.ConfigMap) { delete(c.Annotations, v1alpha1.AnnotationInjectCABundle) }, want: others,
		},
		"after an error, all annotations removed": {
			before: func(c *corev1.ConfigMap) { c.Annotations[v1alpha1.AnnotationInjectCABundle] = "unknown" },
			change: func(c *corev1.ConfigMap) { c.Annotations = nil }, want: others,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRealm(t)
			configMap := r.configMap("trust", r.injects("team", "shop"), others)
			eventuallyHolds(t, configMap, r.with(key, others))
			if tc.before != nil {
				update(t, configMap, tc.before)
				r.settle()
			}
			update(t, configMap, tc.change)
			removed(t, configMap, tc.want)
			settled := configMap.DeepCopy()
			r.settle()
			same(t, settled)
		})
	}
}

// A GitOps controller opts out by applying a manifest without the annotation.
func TestBundleRemovedByGitOps(t *testing.T) {
	r := newRealm(t)
	data := map[string]string{"mine": "stays"}
	configMap, err := r.gitops("trust", r.injects(), data)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kube.Delete(context.Background(), configMap) })
	eventuallyHolds(t, configMap, r.with(v1alpha1.DefaultCABundleKey, data))
	if _, err := r.gitops("trust", nil, data); err != nil {
		t.Fatal(err)
	}
	removed(t, configMap, data)
}

// A ConfigMap with both annotations gets the operator's own injection, which touches no other key;
// one that changes from one annotation to the other gets what the new one means.
func TestConfigMapChangesItsAnnotation(t *testing.T) {
	const key, theirs = v1alpha1.DefaultCABundleKey, beta + "inject-cabundle"
	r := newOpenShift(t)
	data := map[string]string{"mine": "stays"}
	configMap := r.configMap("trust", r.injects(theirs, "true"), data)
	eventuallyHolds(t, configMap, r.with(key, data))
	r.settle()
	eventuallyHolds(t, configMap, r.with(key, data))

	update(t, configMap, func(c *corev1.ConfigMap) { delete(c.Annotations, v1alpha1.AnnotationInjectCABundle) })
	eventuallyHolds(t, configMap, r.exactly)

	update(t, configMap, func(c *corev1.ConfigMap) {
		c.Annotations = r.injects()
		c.Data["mine"] = "again"
	})
	data["mine"] = "again"
	eventuallyHolds(t, configMap, r.with(key, data))
	update(t, configMap, func(c *corev1.ConfigMap) { c.Annotations = nil })
	removed(t, configMap, data)
}
