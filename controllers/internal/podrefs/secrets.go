// Package podrefs determines which objects a pod refers to.
package podrefs

import (
	corev1 "k8s.io/api/core/v1"
)

// SecretNames returns the names of the Secrets that a pod needs to run or to be replaced: mounted,
// projected, or in its environment. A name may occur more than once.
func SecretNames(pod *corev1.PodSpec) []string {
	var names []string
	for _, volume := range pod.Volumes {
		names = append(names, volumeSecrets(volume)...)
	}
	for _, container := range pod.InitContainers {
		names = append(names, envSecrets(container.Env, container.EnvFrom)...)
	}
	for _, container := range pod.Containers {
		names = append(names, envSecrets(container.Env, container.EnvFrom)...)
	}
	for _, container := range pod.EphemeralContainers {
		names = append(names, envSecrets(container.Env, container.EnvFrom)...)
	}
	return names
}

func volumeSecrets(volume corev1.Volume) []string {
	if volume.Secret != nil {
		return []string{volume.Secret.SecretName}
	}
	if volume.Projected == nil {
		return nil
	}
	var names []string
	for _, source := range volume.Projected.Sources {
		if source.Secret != nil {
			names = append(names, source.Secret.Name)
		}
	}
	return names
}

func envSecrets(env []corev1.EnvVar, from []corev1.EnvFromSource) []string {
	var names []string
	for _, variable := range env {
		if variable.ValueFrom != nil && variable.ValueFrom.SecretKeyRef != nil {
			names = append(names, variable.ValueFrom.SecretKeyRef.Name)
		}
	}
	for _, source := range from {
		if source.SecretRef != nil {
			names = append(names, source.SecretRef.Name)
		}
	}
	return names
}
