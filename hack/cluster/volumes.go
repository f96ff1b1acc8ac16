package cluster

import (
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
)

// VolumePath returns the folder on this machine in which a container of the pod would have a
// volume, as written by the kubelet: tls.crt of a Secret is <folder>/tls.crt. The kubelet updates
// it within about a second of a change.
func (c *Cluster) VolumePath(pod *corev1.Pod, volume string) (string, error) {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Name == volume {
			folder := c.path(pod.Spec.NodeName, "pods", string(pod.UID), "volumes", plugin(&pod.Spec.Volumes[i]), volume)
			_, err := os.Stat(folder)
			return folder, err
		}
	}
	return "", fmt.Errorf("pod %s/%s has no volume %q", pod.Namespace, pod.Name, volume)
}

// plugin returns the name of the kubelet's folder for volumes of this kind.
func plugin(volume *corev1.Volume) string {
	switch {
	case volume.Secret != nil:
		return "kubernetes.io~secret"
	case volume.ConfigMap != nil:
		return "kubernetes.io~configmap"
	case volume.DownwardAPI != nil:
		return "kubernetes.io~downward-api"
	case volume.EmptyDir != nil:
		return "kubernetes.io~empty-dir"
	default:
		return "kubernetes.io~projected"
	}
}

// VolumeFile returns the content of a file in such a folder. It returns an error if the file does
// not exist yet.
func (c *Cluster) VolumeFile(pod *corev1.Pod, volume, name string) ([]byte, error) {
	folder, err := c.VolumePath(pod, volume)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(folder, name))
}
