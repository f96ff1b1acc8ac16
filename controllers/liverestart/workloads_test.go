package liverestart_test

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// reads changes a pod so that it reads the certificate in a certain way.
type reads func(*corev1.PodSpec)

// byVolume mounts the Secret as files that the kubelet refreshes.
func byVolume(pod *corev1.PodSpec) {
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: "tls", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secretName}}})
	pod.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "tls", MountPath: "/tls"}}
}

func bySubPath(pod *corev1.PodSpec) {
	byVolume(pod)
	pod.Containers[0].VolumeMounts[0].SubPath = corev1.TLSCertKey
}

func byVariable(pod *corev1.PodSpec) {
	pod.Containers[0].Env = []corev1.EnvVar{{Name: "CERTIFICATE", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: secretName}, Key: corev1.TLSCertKey,
	}}}}
}

// andConfig makes a pod need a ConfigMap as well.
func andConfig(pod *corev1.PodSpec) {
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: "config"},
	}}})
	pod.Containers[0].VolumeMounts = append(pod.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "config", MountPath: "/config"})
}

func (r *realm) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: r.name, Name: name}
}

func template(name string, how ...reads) corev1.PodTemplateSpec {
	made := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			ServiceAccountName: "default", AutomountServiceAccountToken: new(false), TerminationGracePeriodSeconds: new(int64(0)),
			Containers: []corev1.Container{{Name: "main", Image: "example.com/anything", ImagePullPolicy: corev1.PullIfNotPresent}},
		},
	}
	for _, one := range how {
		one(&made.Spec)
	}
	return made
}

func selector(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
}

func (r *realm) deployment(name string, how ...reads) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: r.meta(name), Spec: appsv1.DeploymentSpec{Selector: selector(name), Template: template(name, how...)}}
}

func (r *realm) statefulSet(name string, how ...reads) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{ObjectMeta: r.meta(name), Spec: appsv1.StatefulSetSpec{
		Replicas: new(int32(2)), Selector: selector(name), Template: template(name, how...),
	}}
}

func (r *realm) daemonSet(name string, how ...reads) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{ObjectMeta: r.meta(name), Spec: appsv1.DaemonSetSpec{Selector: selector(name), Template: template(name, how...)}}
}

// run creates workloads and waits until they are available.
func (r *realm) run(workloads ...client.Object) {
	r.Helper()
	for _, w := range workloads {
		r.create(w)
	}
	for _, w := range workloads {
		r.available(w)
	}
}

func (r *realm) available(w client.Object) {
	r.Helper()
	eventually(r.T, func(ctx context.Context) error {
		if err := env.kube.Get(ctx, client.ObjectKeyFromObject(w), w); err != nil {
			return err
		}
		available, wanted := int32(0), int32(-1)
		switch o := w.(type) {
		case *appsv1.Deployment:
			available, wanted = o.Status.AvailableReplicas, *o.Spec.Replicas
		case *appsv1.StatefulSet:
			available, wanted = o.Status.AvailableReplicas, *o.Spec.Replicas
		case *appsv1.DaemonSet:
			available, wanted = o.Status.NumberAvailable, max(o.Status.DesiredNumberScheduled, 1)
		}
		if available != wanted {
			return fmt.Errorf("%s has %d available pods of %d", w.GetName(), available, wanted)
		}
		return nil
	})
}

// pods returns the UIDs of a workload's pods.
func (r *realm) pods(name string) map[string]bool {
	r.Helper()
	var list corev1.PodList
	if err := env.kube.List(r.Context(), &list, client.InNamespace(r.name), client.MatchingLabels{"app": name}); err != nil {
		r.Fatal(err)
	}
	names := map[string]bool{}
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil {
			names[string(pod.UID)] = true
		}
	}
	return names
}

// rollouts returns how often a workload's template was changed since its creation.
func (r *realm) rollouts(w client.Object) int64 {
	r.Helper()
	if err := env.kube.Get(r.Context(), client.ObjectKeyFromObject(w), w); err != nil {
		r.Fatal(err)
	}
	return w.GetGeneration() - 1
}

func stampOf(w client.Object) string {
	switch o := w.(type) {
	case *appsv1.Deployment:
		return o.Spec.Template.Annotations[v1alpha1.AnnotationRestartedAt]
	case *appsv1.StatefulSet:
		return o.Spec.Template.Annotations[v1alpha1.AnnotationRestartedAt]
	case *appsv1.DaemonSet:
		return o.Spec.Template.Annotations[v1alpha1.AnnotationRestartedAt]
	}
	return ""
}
