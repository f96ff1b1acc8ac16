package podrefs

import (
	"cmp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Kind is the kind of an object that a pod reads.
type Kind string

// The kinds of objects that a pod may read.
const (
	Secret             Kind = "Secret"
	ConfigMap          Kind = "ConfigMap"
	ClusterTrustBundle Kind = "ClusterTrustBundle"
)

// Reference is an object that a container of a pod reads.
type Reference struct {
	Kind Kind
	// Name is the name of the object or, for a ClusterTrustBundle, of the ServiceCA to whose signer
	// it is linked.
	Name      string
	Container string
	// Frozen: the container keeps what it read at its start, whatever the kubelet refreshes.
	Frozen bool
}

// target is the object of a reference.
type target struct {
	kind Kind
	name string
}

// References returns the objects that each container of a pod reads, in a stable order and each
// object once per container. A reference is frozen if any of its uses is: an environment variable,
// a file mounted by its subPath, or a volume that only init containers mount, so that no container
// reads it any more once the pod runs.
func References(pod *corev1.PodSpec) []Reference {
	volumes := map[string][]target{}
	for i := range pod.Volumes {
		volumes[pod.Volumes[i].Name] = volumeTargets(&pod.Volumes[i])
	}
	refreshed := refreshedVolumes(pod)
	var refs []Reference
	for _, c := range allContainers(pod) {
		refs = append(refs, c.envReferences()...)
		for _, mount := range c.VolumeMounts {
			frozen := mount.SubPath != "" || mount.SubPathExpr != "" || !refreshed[mount.Name]
			for _, o := range volumes[mount.Name] {
				refs = append(refs, Reference{o.kind, o.name, c.Name, frozen})
			}
		}
	}
	return deduplicate(refs)
}

// deduplicate sorts references and merges equal ones.
func deduplicate(refs []Reference) []Reference {
	slices.SortFunc(refs, func(a, b Reference) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Container, b.Container))
	})
	var merged []Reference
	for _, ref := range refs {
		if n := len(merged); n > 0 && merged[n-1].Kind == ref.Kind && merged[n-1].Name == ref.Name && merged[n-1].Container == ref.Container {
			merged[n-1].Frozen = merged[n-1].Frozen || ref.Frozen
			continue
		}
		merged = append(merged, ref)
	}
	return merged
}

// container is a container of a pod. A longRunning one runs as long as the pod does.
type container struct {
	corev1.Container
	longRunning bool
}

func allContainers(pod *corev1.PodSpec) []container {
	var containers []container
	for _, c := range pod.InitContainers {
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		containers = append(containers, container{c, sidecar})
	}
	for _, c := range pod.Containers {
		containers = append(containers, container{c, true})
	}
	for _, c := range pod.EphemeralContainers {
		containers = append(containers, container{corev1.Container(c.EphemeralContainerCommon), true})
	}
	return containers
}

func (c *container) envReferences() []Reference {
	var refs []Reference
	add := func(kind Kind, name string) { refs = append(refs, Reference{kind, name, c.Name, true}) }
	for _, variable := range c.Env {
		switch from := variable.ValueFrom; {
		case from == nil:
		case from.SecretKeyRef != nil:
			add(Secret, from.SecretKeyRef.Name)
		case from.ConfigMapKeyRef != nil:
			add(ConfigMap, from.ConfigMapKeyRef.Name)
		}
	}
	for _, from := range c.EnvFrom {
		switch {
		case from.SecretRef != nil:
			add(Secret, from.SecretRef.Name)
		case from.ConfigMapRef != nil:
			add(ConfigMap, from.ConfigMapRef.Name)
		}
	}
	return refs
}

// volumeTargets returns the objects that a volume contains.
func volumeTargets(volume *corev1.Volume) []target {
	switch {
	case volume.Secret != nil:
		return []target{{Secret, volume.Secret.SecretName}}
	case volume.ConfigMap != nil:
		return []target{{ConfigMap, volume.ConfigMap.Name}}
	case volume.Projected == nil:
		return nil
	}
	var targets []target
	for _, source := range volume.Projected.Sources {
		switch {
		case source.Secret != nil:
			targets = append(targets, target{Secret, source.Secret.Name})
		case source.ConfigMap != nil:
			targets = append(targets, target{ConfigMap, source.ConfigMap.Name})
		case source.ClusterTrustBundle != nil:
			if ca := serviceCAOf(source.ClusterTrustBundle); ca != "" {
				targets = append(targets, target{ClusterTrustBundle, ca})
			}
		}
	}
	return targets
}

// serviceCAOf returns the name of the ServiceCA whose bundle a projection mounts, either by its
// signer or by the name of the ClusterTrustBundle, which begins with the signer (KEP-3257); empty
// for the bundles of other signers.
func serviceCAOf(projection *corev1.ClusterTrustBundleProjection) string {
	if projection.SignerName != nil {
		ca, ours := strings.CutPrefix(*projection.SignerName, v1alpha1.GroupName+"/")
		if ours {
			return ca
		}
	}
	if projection.Name != nil {
		rest, ours := strings.CutPrefix(*projection.Name, v1alpha1.GroupName+":")
		if ca, _, linked := strings.Cut(rest, ":"); ours && linked {
			return ca
		}
	}
	return ""
}

// StripForCache reduces a pod, for a cache, to the fields that References and StartWithout read.
func StripForCache(pod *corev1.PodSpec) corev1.PodSpec {
	var stripped corev1.PodSpec
	for i := range pod.Volumes {
		if volume := &pod.Volumes[i]; len(volumeTargets(volume)) > 0 {
			stripped.Volumes = append(stripped.Volumes, corev1.Volume{Name: volume.Name, VolumeSource: corev1.VolumeSource{
				Secret: volume.Secret, ConfigMap: volume.ConfigMap, Projected: volume.Projected,
			}})
		}
	}
	for _, c := range pod.InitContainers {
		container := stripContainer(c)
		container.RestartPolicy = c.RestartPolicy
		stripped.InitContainers = append(stripped.InitContainers, container)
	}
	for _, c := range pod.Containers {
		stripped.Containers = append(stripped.Containers, stripContainer(c))
	}
	for _, c := range pod.EphemeralContainers {
		stripped.EphemeralContainers = append(stripped.EphemeralContainers, corev1.EphemeralContainer{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon(stripContainer(corev1.Container(c.EphemeralContainerCommon))),
		})
	}
	return stripped
}

func stripContainer(c corev1.Container) corev1.Container {
	stripped := corev1.Container{Name: c.Name, EnvFrom: c.EnvFrom}
	for _, variable := range c.Env {
		if from := variable.ValueFrom; from != nil && (from.SecretKeyRef != nil || from.ConfigMapKeyRef != nil) {
			stripped.Env = append(stripped.Env, corev1.EnvVar{ValueFrom: &corev1.EnvVarSource{
				SecretKeyRef: from.SecretKeyRef, ConfigMapKeyRef: from.ConfigMapKeyRef,
			}})
		}
	}
	for _, mount := range c.VolumeMounts {
		stripped.VolumeMounts = append(stripped.VolumeMounts, corev1.VolumeMount{Name: mount.Name, SubPath: mount.SubPath, SubPathExpr: mount.SubPathExpr})
	}
	return stripped
}

// StartedAt returns when a container of a pod read what it holds: the start of its process or, for
// an init container, of its run. The time is never before the creation of the pod, whatever the
// clock of its node says. It returns false for a container that has yet to start.
func StartedAt(pod *corev1.Pod, name string) (time.Time, bool) {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		index := slices.IndexFunc(statuses, func(s corev1.ContainerStatus) bool { return s.Name == name })
		if index < 0 {
			continue
		}
		var started time.Time
		switch state := statuses[index].State; {
		case state.Running != nil:
			started = state.Running.StartedAt.Time
		case state.Terminated != nil && isInitContainer(pod, name):
			started = state.Terminated.StartedAt.Time
		default:
			return time.Time{}, false
		}
		if started.Before(pod.CreationTimestamp.Time) {
			started = pod.CreationTimestamp.Time
		}
		return started, true
	}
	return time.Time{}, false
}

// isInitContainer reports whether a container runs before the others and then exits; false for a
// sidecar.
func isInitContainer(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool {
		return c.Name == name && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways)
	})
}
