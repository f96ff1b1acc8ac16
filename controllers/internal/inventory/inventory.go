// Package inventory tells what a pod consumes.
package inventory

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// UsesSecret tells whether a pod needs a Secret of its namespace, to run or to be replaced: mounted, projected, or in its
// environment.
func UsesSecret(pod *corev1.PodSpec, name string) bool {
	return slices.ContainsFunc(pod.Volumes, func(volume corev1.Volume) bool { return mounts(volume, name) }) ||
		slices.ContainsFunc(pod.InitContainers, func(c corev1.Container) bool { return reads(c.Env, c.EnvFrom, name) }) ||
		slices.ContainsFunc(pod.Containers, func(c corev1.Container) bool { return reads(c.Env, c.EnvFrom, name) }) ||
		slices.ContainsFunc(pod.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return reads(c.Env, c.EnvFrom, name) })
}

func mounts(volume corev1.Volume, name string) bool {
	if volume.Secret != nil && volume.Secret.SecretName == name {
		return true
	}
	return volume.Projected != nil && slices.ContainsFunc(volume.Projected.Sources, func(source corev1.VolumeProjection) bool {
		return source.Secret != nil && source.Secret.Name == name
	})
}

func reads(env []corev1.EnvVar, from []corev1.EnvFromSource, name string) bool {
	return slices.ContainsFunc(env, func(v corev1.EnvVar) bool {
		return v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil && v.ValueFrom.SecretKeyRef.Name == name
	}) || slices.ContainsFunc(from, func(source corev1.EnvFromSource) bool {
		return source.SecretRef != nil && source.SecretRef.Name == name
	})
}
