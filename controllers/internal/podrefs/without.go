package podrefs

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// Source is an object with keys that a container may start without.
type Source struct {
	Kind Kind
	Name string
	// Keys are the keys that may be missing; none stands for all keys.
	Keys []string
	// Whole: the object is created together with these keys. A pod that needs the object then does
	// not start before the keys exist.
	Whole bool
}

// StartWithout returns the names of the containers of a pod that keep what they read from a source
// at their start, and that start although its keys do not exist yet: they read optional variables,
// or files that are mounted by their subPath or that only init containers read.
func StartWithout(pod *corev1.PodSpec, source Source) []string {
	paths := map[string][]string{}
	for i := range pod.Volumes {
		paths[pod.Volumes[i].Name] = source.paths(&pod.Volumes[i])
	}
	refreshed := refreshedVolumes(pod)
	var names []string
	for _, c := range allContainers(pod) {
		mounts := slices.ContainsFunc(c.VolumeMounts, func(mount corev1.VolumeMount) bool {
			files := paths[mount.Name]
			switch {
			case mount.SubPath != "":
				return slices.ContainsFunc(files, func(file string) bool { return isBelow(file, path.Clean(mount.SubPath)) }) ||
					(len(files) > 0 && len(source.Keys) == 0)
			case mount.SubPathExpr != "" || !refreshed[mount.Name]:
				return len(files) > 0
			}
			return false
		})
		if mounts || source.inVariables(&c.Container) {
			names = append(names, c.Name)
		}
	}
	return names
}

// isBelow reports whether a path in a volume is that of a mount, or of a file in the directory that
// is mounted.
func isBelow(file, mounted string) bool {
	return file == mounted || strings.HasPrefix(file, mounted+"/")
}

// refreshedVolumes returns the volumes that are mounted by a container that runs as long as the
// pod.
func refreshedVolumes(pod *corev1.PodSpec) map[string]bool {
	refreshed := map[string]bool{}
	for _, c := range allContainers(pod) {
		for _, mount := range c.VolumeMounts {
			refreshed[mount.Name] = refreshed[mount.Name] || c.longRunning
		}
	}
	return refreshed
}

// matches reports whether a reference is to the source and does not delay the start of the pod
// until the source has its keys.
func (s Source) matches(kind Kind, name string, optional *bool) bool {
	return kind == s.Kind && name == s.Name && (!s.Whole || ptr.Deref(optional, false))
}

// has reports whether a key is one of those that may be missing.
func (s Source) has(key string) bool { return len(s.Keys) == 0 || slices.Contains(s.Keys, key) }

// inVariables reports whether a container reads a key into a variable and starts without it. For a
// variable that is not optional, the container waits for the key.
func (s Source) inVariables(c *corev1.Container) bool {
	return slices.ContainsFunc(c.Env, func(variable corev1.EnvVar) bool {
		from := ptr.Deref(variable.ValueFrom, corev1.EnvVarSource{})
		secret, configMap := from.SecretKeyRef, from.ConfigMapKeyRef
		return (secret != nil && ptr.Deref(secret.Optional, false) && s.matches(Secret, secret.Name, secret.Optional) && s.has(secret.Key)) ||
			(configMap != nil && ptr.Deref(configMap.Optional, false) && s.matches(ConfigMap, configMap.Name, configMap.Optional) && s.has(configMap.Key))
	}) || slices.ContainsFunc(c.EnvFrom, func(from corev1.EnvFromSource) bool {
		return (from.SecretRef != nil && s.matches(Secret, from.SecretRef.Name, from.SecretRef.Optional)) ||
			(from.ConfigMapRef != nil && s.matches(ConfigMap, from.ConfigMapRef.Name, from.ConfigMapRef.Optional))
	})
}

// paths returns the paths of the keys in a volume.
func (s Source) paths(volume *corev1.Volume) []string {
	var names []string
	add := func(kind Kind, name string, optional *bool, items []corev1.KeyToPath) {
		if !s.matches(kind, name, optional) {
			return
		}
		names = append(names, s.pathsOf(ptr.Deref(optional, false), items)...)
	}
	switch projected := volume.Projected; {
	case volume.Secret != nil:
		add(Secret, volume.Secret.SecretName, volume.Secret.Optional, volume.Secret.Items)
	case volume.ConfigMap != nil:
		add(ConfigMap, volume.ConfigMap.Name, volume.ConfigMap.Optional, volume.ConfigMap.Items)
	case projected != nil:
		for _, from := range projected.Sources {
			if from.Secret != nil {
				add(Secret, from.Secret.Name, from.Secret.Optional, from.Secret.Items)
			}
			if from.ConfigMap != nil {
				add(ConfigMap, from.ConfigMap.Name, from.ConfigMap.Optional, from.ConfigMap.Items)
			}
		}
	}
	return names
}

// pathsOf returns the paths of the keys among the items of a volume; of all keys where it has no
// items, which the path "" stands for where the keys are not known.
func (s Source) pathsOf(optional bool, items []corev1.KeyToPath) []string {
	if len(items) == 0 && len(s.Keys) == 0 {
		return []string{""}
	}
	if len(items) == 0 {
		return s.Keys
	}
	var names []string
	for _, item := range items {
		// If the volume is not optional, the pod waits for the keys that it names.
		if s.has(item.Key) && optional {
			names = append(names, path.Clean(item.Path))
		}
	}
	return names
}
