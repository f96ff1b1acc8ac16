package podrefs_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/controllers/internal/podrefs"
)

// StartWithout names containers that read exactly this key by its subPath, in an optional variable
// or in an init container.
func TestStartWithout(t *testing.T) {
	t.Parallel()
	const key = "service-ca.crt"
	trust := corev1.LocalObjectReference{Name: "trust"}
	mount := func(subPath string, optional bool, items ...corev1.KeyToPath) *corev1.PodSpec {
		return &corev1.PodSpec{
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: trust, Optional: &optional, Items: items,
			}}}},
			Containers: []corev1.Container{{Name: "main", VolumeMounts: []corev1.VolumeMount{{Name: "v", SubPath: subPath}}}},
		}
	}
	variable := func(name string, optional *bool) *corev1.PodSpec {
		return &corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{
			ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: trust, Key: name, Optional: optional},
		}}}}}}
	}
	all := func(optional *bool) *corev1.PodSpec {
		return &corev1.PodSpec{Containers: []corev1.Container{{Name: "main", EnvFrom: []corev1.EnvFromSource{{
			ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: trust, Optional: optional},
		}}}}}
	}
	initial := mount("", false)
	initial.InitContainers, initial.Containers = initial.Containers, nil
	secret := &corev1.PodSpec{Containers: []corev1.Container{{Name: "main", EnvFrom: []corev1.EnvFromSource{{
		SecretRef: &corev1.SecretEnvSource{LocalObjectReference: trust, Optional: new(true)},
	}}}}}
	for name, tc := range map[string]struct {
		pod *corev1.PodSpec
		// filled: whether the container starts without the key if the object exists without it.
		// whole: whether it does if the object is created together with the key.
		filled, whole bool
	}{
		"a file":                       {mount(key, false), true, false},
		"a file, by another way":       {mount("./"+key, false), true, false},
		"a file of an optional object": {mount(key, true), true, true},
		"another file":                 {mount("app.conf", true), false, false},
		"a file elsewhere":             {mount("ca.pem", true, corev1.KeyToPath{Key: key, Path: "ca.pem"}), true, true},
		"a file that is waited for":    {mount("ca.pem", false, corev1.KeyToPath{Key: key, Path: "ca.pem"}), false, false},
		"a file that is not there":     {mount(key, true, corev1.KeyToPath{Key: "app.conf", Path: "app.conf"}), false, false},
		"a directory with the file":    {mount("certs", true, corev1.KeyToPath{Key: key, Path: "certs/ca.pem"}), true, true},
		"another directory":            {mount("cert", true, corev1.KeyToPath{Key: key, Path: "certs/ca.pem"}), false, false},
		"a volume":                     {mount("", true), false, false},
		"an init container's volume":   {initial, true, false},
		"a variable":                   {variable(key, new(true)), true, true},
		"a variable that is needed":    {variable(key, nil), false, false},
		"another variable":             {variable("app.conf", new(true)), false, false},
		"all variables":                {all(nil), true, false},
		"all of an optional object":    {all(new(true)), true, true},
		"of another kind":              {secret, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stripped := podrefs.StripForCache(tc.pod)
			for _, source := range []podrefs.Source{{Keys: []string{key}}, {Keys: []string{key}, Whole: true}} {
				source.Kind, source.Name = podrefs.ConfigMap, "trust"
				want := (tc.whole && source.Whole) || (tc.filled && !source.Whole)
				if got := slices.Contains(podrefs.StartWithout(&stripped, source), "main"); got != want {
					t.Errorf("created whole %t: it starts without: %t, want %t", source.Whole, got, want)
				}
			}
		})
	}
}
