package liveintegrations_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
)

// tokenVolume returns the name of the volume with a pod's token, and an empty string if that has no
// service-ca.crt.
func tokenVolume(pod *corev1.Pod) string {
	for _, volume := range pod.Spec.Volumes {
		if !strings.HasPrefix(volume.Name, "kube-api-access-") || volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.ConfigMap != nil && source.ConfigMap.Name == "openshift-service-ca.crt" {
				return volume.Name
			}
		}
	}
	return ""
}

// A pod made for OpenShift mounts openshift-service-ca.crt, and has service-ca.crt beside its
// token. A pod that was created before the ConfigMap starts without the file, and gets it later.
func TestServiceCAFile(t *testing.T) {
	t.Parallel()
	folder, err := testoperator.Path("config", "components", "service-ca-file")
	if err != nil {
		t.Fatal(err)
	}
	policies, err := testoperator.Manifests(folder)
	if err != nil || len(policies) != 2 {
		t.Fatalf("%d objects (%v)", len(policies), err)
	}
	for _, policy := range policies {
		create(t, policy)
	}
	r := newRealm(t)
	run := func(name string, volumes ...corev1.Volume) *corev1.Pod {
		var mounts []corev1.VolumeMount
		for _, volume := range volumes {
			mounts = append(mounts, corev1.VolumeMount{Name: volume.Name, MountPath: "/etc/" + volume.Name})
		}
		return create(t, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name},
			Spec: corev1.PodSpec{Volumes: volumes, Containers: []corev1.Container{{
				Name: "client", Image: "client", ImagePullPolicy: corev1.PullIfNotPresent, VolumeMounts: mounts,
			}}},
		})
	}
	// The API server applies a new admission policy after a moment.
	attempt := 0
	var early *corev1.Pod
	eventually(t, func(context.Context) string {
		attempt++
		if early = run(fmt.Sprintf("early-%d", attempt)); tokenVolume(early) == "" {
			return "the policy adds nothing yet"
		}
		return ""
	})
	get(t, early, func(pod *corev1.Pod) string {
		if pod.Status.Phase != corev1.PodRunning {
			return "without the ConfigMap the pod is " + string(pod.Status.Phase)
		}
		return ""
	})
	if err := testoperator.Allow(t.Context(), env.kube, operatorNamespace, "publish"); err != nil {
		t.Fatal(err)
	}
	update(t, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: r.name}}, func(ca *v1alpha1.ServiceCA) {
		ca.Spec.TrustBundle.Publish = []v1alpha1.PublishedBundle{{ConfigMapName: "openshift-service-ca.crt", NamespaceSelector: metav1.LabelSelector{
			MatchLabels: map[string]string{corev1.LabelMetadataName: r.name},
		}}}
	})
	addOn := run("add-on", corev1.Volume{Name: "ca", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: "openshift-service-ca.crt"},
	}}})
	r.hasFile(early, tokenVolume(early))
	r.hasFile(addOn, tokenVolume(addOn))
	r.hasFile(addOn, "ca")
}

// hasFile waits until a volume of a pod has the bundle in service-ca.crt.
func (r realm) hasFile(pod *corev1.Pod, volume string) {
	r.Helper()
	eventually(r.T, func(ctx context.Context) string {
		if err := env.kube.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
			return err.Error()
		}
		if content, err := env.cluster.VolumeFile(pod, volume, "service-ca.crt"); err != nil || string(content) != r.bundle() {
			return fmt.Sprintf("pod %s is %s, and volume %q holds %.20q (%v)", pod.Name, pod.Status.Phase, volume, content, err)
		}
		return ""
	})
}
