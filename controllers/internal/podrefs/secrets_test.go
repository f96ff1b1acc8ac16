package podrefs_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/controllers/internal/podrefs"
)

func secretVolume(name string) corev1.Volume {
	return corev1.Volume{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}}
}

func variable(name string) []corev1.EnvVar {
	return []corev1.EnvVar{{Name: "A", Value: "a"}, {Name: "B", ValueFrom: &corev1.EnvVarSource{
		SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: "tls.crt"},
	}}}
}

func variables(name string) []corev1.EnvFromSource {
	return []corev1.EnvFromSource{
		{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "a-configmap"}}},
		{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}},
	}
}

// Every Secret that a pod needs is returned, wherever the pod names it: one that is missing would
// be deleted under a running pod.
func TestSecretNames(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		pod  corev1.PodSpec
		want []string
	}{
		"nothing":  {},
		"a volume": {corev1.PodSpec{Volumes: []corev1.Volume{secretVolume("tls")}}, []string{"tls"}},
		"volumes of other kinds": {corev1.PodSpec{Volumes: []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}},
		}}, nil},
		"a projected volume": {corev1.PodSpec{Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}},
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "tls"}}},
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "more"}}},
			},
		}}}}}, []string{"tls", "more"}},
		"a variable of a container":        {corev1.PodSpec{Containers: []corev1.Container{{Env: variable("tls")}}}, []string{"tls"}},
		"all variables of a container":     {corev1.PodSpec{Containers: []corev1.Container{{EnvFrom: variables("tls")}}}, []string{"tls"}},
		"a variable of an init container":  {corev1.PodSpec{InitContainers: []corev1.Container{{Env: variable("tls")}}}, []string{"tls"}},
		"all of an init container":         {corev1.PodSpec{InitContainers: []corev1.Container{{EnvFrom: variables("tls")}}}, []string{"tls"}},
		"a variable of a debug container":  {corev1.PodSpec{EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Env: variable("tls")}}}}, []string{"tls"}},
		"all of a debug container":         {corev1.PodSpec{EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{EnvFrom: variables("tls")}}}}, []string{"tls"}},
		"several containers and a volume":  {corev1.PodSpec{Volumes: []corev1.Volume{secretVolume("a")}, Containers: []corev1.Container{{Env: variable("b")}, {EnvFrom: variables("c")}}}, []string{"a", "b", "c"}},
		"a variable of another kind alone": {corev1.PodSpec{Containers: []corev1.Container{{Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{}}}}}}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := podrefs.SecretNames(&tc.pod); !slices.Equal(got, tc.want) {
				t.Errorf("the pod needs %q, want %q", got, tc.want)
			}
		})
	}
}
