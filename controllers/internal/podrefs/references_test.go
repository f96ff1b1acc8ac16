package podrefs_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/randfill"

	"github.com/servingcert/operator/controllers/internal/podrefs"
)

func mounting(name string, mounts ...corev1.VolumeMount) corev1.Container {
	return corev1.Container{Name: name, VolumeMounts: mounts}
}

func mount(volume string) corev1.VolumeMount {
	return corev1.VolumeMount{Name: volume, MountPath: "/" + volume}
}

func subPath(volume string) corev1.VolumeMount {
	return corev1.VolumeMount{Name: volume, MountPath: "/file", SubPath: "tls.crt"}
}

func named(name string, volume corev1.Volume) corev1.Volume {
	volume.Name = name
	return volume
}

func bundles(sources ...*corev1.ClusterTrustBundleProjection) corev1.Volume {
	volume := corev1.Volume{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{}}}
	for _, source := range sources {
		volume.Projected.Sources = append(volume.Projected.Sources, corev1.VolumeProjection{ClusterTrustBundle: source})
	}
	return volume
}

// How a container reads an object determines what it reads and whether it keeps it.
func TestReferences(t *testing.T) {
	t.Parallel()
	tls := []corev1.Volume{named("v", secretVolume("tls"))}
	frozen := podrefs.Reference{Kind: podrefs.Secret, Name: "tls", Container: "main", Frozen: true}
	refreshed := podrefs.Reference{Kind: podrefs.Secret, Name: "tls", Container: "main"}
	sidecar := mounting("sidecar", mount("v"))
	sidecar.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	for name, tc := range map[string]struct {
		pod  corev1.PodSpec
		want []podrefs.Reference
	}{
		"nothing":                     {corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}}, nil},
		"a volume that nobody mounts": {corev1.PodSpec{Volumes: tls, Containers: []corev1.Container{{Name: "main"}}}, nil},
		"a volume":                    {corev1.PodSpec{Volumes: tls, Containers: []corev1.Container{mounting("main", mount("v"))}}, []podrefs.Reference{refreshed}},
		"a subPath":                   {corev1.PodSpec{Volumes: tls, Containers: []corev1.Container{mounting("main", subPath("v"))}}, []podrefs.Reference{frozen}},
		"a subPathExpr": {corev1.PodSpec{Volumes: tls, Containers: []corev1.Container{
			mounting("main", corev1.VolumeMount{Name: "v", SubPathExpr: "$(POD)"})}}, []podrefs.Reference{frozen}},
		"a volume and its subPath": {corev1.PodSpec{Volumes: tls, Containers: []corev1.Container{mounting("main", mount("v"), subPath("v"))}}, []podrefs.Reference{frozen}},
		"a variable":               {corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Env: variable("tls")}}}, []podrefs.Reference{frozen}},
		"all variables": {corev1.PodSpec{Containers: []corev1.Container{{Name: "main", EnvFrom: variables("tls")}}}, []podrefs.Reference{
			{Kind: podrefs.ConfigMap, Name: "a-configmap", Container: "main", Frozen: true}, frozen}},
		"a volume of an init container alone": {corev1.PodSpec{Volumes: tls, InitContainers: []corev1.Container{mounting("init", mount("v"))}}, []podrefs.Reference{
			{Kind: podrefs.Secret, Name: "tls", Container: "init", Frozen: true}}},
		"a volume of an init container, and of the main one": {corev1.PodSpec{
			Volumes: tls, InitContainers: []corev1.Container{mounting("init", mount("v"))}, Containers: []corev1.Container{mounting("main", mount("v"))},
		}, []podrefs.Reference{{Kind: podrefs.Secret, Name: "tls", Container: "init"}, refreshed}},
		"a sidecar": {corev1.PodSpec{Volumes: tls, InitContainers: []corev1.Container{sidecar}}, []podrefs.Reference{
			{Kind: podrefs.Secret, Name: "tls", Container: "sidecar"}}},
		"a debug container": {corev1.PodSpec{Volumes: tls, EphemeralContainers: []corev1.EphemeralContainer{{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon(mounting("debug", mount("v")))}}}, []podrefs.Reference{
			{Kind: podrefs.Secret, Name: "tls", Container: "debug"}}},
		"bundles": {corev1.PodSpec{
			Volumes: []corev1.Volume{named("v", bundles(
				&corev1.ClusterTrustBundleProjection{SignerName: new("servingcert.dev/default")},
				&corev1.ClusterTrustBundleProjection{Name: new("servingcert.dev:corp:2026")},
				&corev1.ClusterTrustBundleProjection{SignerName: new("example.com/servingcert.dev")},
				&corev1.ClusterTrustBundleProjection{Name: new("servingcert.dev")},
			))},
			Containers: []corev1.Container{mounting("main", mount("v"))},
		}, []podrefs.Reference{
			{Kind: podrefs.ClusterTrustBundle, Name: "corp", Container: "main"}, {Kind: podrefs.ClusterTrustBundle, Name: "default", Container: "main"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, podrefs.References(&tc.pod)); diff != "" {
				t.Errorf("uses (-want +got):\n%s", diff)
			}
		})
	}
}

// References returns the same for a stripped pod as for the whole one.
func TestStripForCache(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c"}
	filler := randfill.NewWithSeed(time.Now().UnixNano()).NilChance(0.3).NumElements(0, 3).MaxDepth(12).Funcs(
		func(s *string, c randfill.Continue) { *s = names[c.Intn(len(names))] },
	)
	matches := 0
	for range 300 {
		var pod corev1.PodSpec
		filler.Fill(&pod)
		for i := range pod.Volumes {
			pod.Volumes[i].Name = names[i]
		}
		stripped := podrefs.StripForCache(&pod)
		want := podrefs.References(&pod)
		matches += len(want)
		if diff := cmp.Diff(want, podrefs.References(&stripped)); diff != "" {
			t.Fatalf("uses (-whole +slim):\n%s", diff)
		}
		if len(stripped.NodeSelector)+len(stripped.Tolerations) > 0 || (len(stripped.Containers) > 0 && stripped.Containers[0].Image != "") {
			t.Fatal("it holds what nobody reads")
		}
	}
	if matches == 0 {
		t.Error("no pod reads anything: nothing was shown")
	}
}

// A container holds what existed at its start; one that has yet to start will read what exists
// then.
func TestStartedAt(t *testing.T) {
	t.Parallel()
	made := time.Date(2071, time.March, 14, 15, 0, 0, 0, time.UTC)
	running := func(after time.Duration) corev1.ContainerState {
		return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(made.Add(after))}}
	}
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{StartedAt: metav1.NewTime(made.Add(time.Second)), FinishedAt: metav1.NewTime(made.Add(time.Hour))}}
	for name, tc := range map[string]struct {
		state corev1.ContainerState
		init  bool
		want  time.Duration
		known bool
	}{
		"it runs":                           {running(time.Minute), false, time.Minute, true},
		"the node's clock is behind":        {running(-time.Hour), false, 0, true},
		"it waits":                          {corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}, false, 0, false},
		"it has ended":                      {ended, false, 0, false},
		"it has ended, as it should":        {ended, true, time.Second, true},
		"it still prepares what others use": {running(time.Minute), true, time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(made)}}
			statuses := []corev1.ContainerStatus{{Name: "other"}, {Name: "main", State: tc.state}}
			if pod.Status.ContainerStatuses = statuses; tc.init {
				pod.Spec.InitContainers = []corev1.Container{{Name: "main"}}
				pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses = statuses, nil
			}
			got, ok := podrefs.StartedAt(pod, "main")
			if ok != tc.known || (ok && !got.Equal(made.Add(tc.want))) {
				t.Errorf("it started %s (%t), want %s (%t)", got.Sub(made), ok, tc.want, tc.known)
			}
		})
	}
	if _, ok := podrefs.StartedAt(&corev1.Pod{}, "main"); ok {
		t.Error("a container without a status has started")
	}
}
