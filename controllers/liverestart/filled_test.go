package liverestart_test

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// trustBy mounts the ConfigMap trust.
func trustBy(subPath string) reads {
	return func(pod *corev1.PodSpec) {
		pod.Volumes = []corev1.Volume{{Name: "trust", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: "trust"},
		}}}}
		pod.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "trust", MountPath: "/trust", SubPath: subPath}}
	}
}

// trustByVariable reads the bundle from an optional variable, so the container starts without it.
func trustByVariable(pod *corev1.PodSpec) {
	pod.Containers[0].Env = []corev1.EnvVar{{Name: "CA", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: "trust"}, Key: v1alpha1.DefaultCABundleKey, Optional: new(true),
	}}}}
}

// A workload that reads the bundle only once, and started before the bundle was written, is
// restarted once. One whose files the kubelet refreshes is not restarted.
func TestFilledAfterTheStart(t *testing.T) {
	t.Parallel()
	r := newRealm(t, rolling(1))
	config := &corev1.ConfigMap{ObjectMeta: r.meta("trust"), Data: map[string]string{"app.conf": ""}}
	r.create(config)
	file, variable := r.deployment("file", trustBy(v1alpha1.DefaultCABundleKey)), r.deployment("variable", trustByVariable)
	live, other := r.deployment("live", trustBy("")), r.deployment("other", trustBy("app.conf"))
	r.run(file, variable, live, other)
	pods := map[string]map[string]bool{"file": r.pods("file"), "variable": r.pods("variable")}
	edit(t, config, func(c *corev1.ConfigMap) {
		c.Annotations = map[string]string{v1alpha1.AnnotationInjectCABundle: "default"}
	})
	for name, before := range pods {
		r.restartedSince(name, before)
	}
	r.done()
	for w, want := range map[client.Object]int64{file: 1, variable: 1, live: 0, other: 0} {
		if got := r.rollouts(w); got != want {
			t.Errorf("%s was restarted %d times, want %d", w.GetName(), got, want)
		}
	}
	// When the tenant removes the bundle, it is written again, and nothing is restarted.
	edit(t, config, func(c *corev1.ConfigMap) { delete(c.Data, v1alpha1.DefaultCABundleKey) })
	eventually(t, func(ctx context.Context) error {
		if err := env.kube.Get(ctx, client.ObjectKeyFromObject(config), config); err != nil {
			return err
		}
		if config.Data[v1alpha1.DefaultCABundleKey] == "" {
			return errors.New("the bundle is not back")
		}
		return nil
	})
	r.done()
	if got := r.rollouts(file); got != 1 {
		t.Errorf("it was restarted %d times, want once", got)
	}
}
