package inventory

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

// The kinds.
const (
	Secret             Kind = "Secret"
	ConfigMap          Kind = "ConfigMap"
	ClusterTrustBundle Kind = "ClusterTrustBundle"
)

// Use is an object that a container of a pod reads.
type Use struct {
	Kind Kind
	// Name of the object; of a ClusterTrustBundle, that of the ServiceCA whose signer it is linked to.
	Name      string
	Container string
	// Frozen: the container keeps what it read when it started, whatever the kubelet refreshes.
	Frozen bool
}

// object is what a use is of.
type object struct {
	kind Kind
	name string
}

// Uses is what each container of a pod reads: in a stable order, each object once, and frozen where it is frozen in any way. A variable
// is, and a file that is mounted by its subPath; so is a volume that nobody looks at once the pod runs, because only init containers
// mount it.
func Uses(pod *corev1.PodSpec) []Use {
	volumes := map[string][]object{}
	for i := range pod.Volumes {
		volumes[pod.Volumes[i].Name] = ofVolume(&pod.Volumes[i])
	}
	refreshed := refreshedVolumes(pod)
	var uses []Use
	for _, c := range all(pod) {
		uses = append(uses, c.variables()...)
		for _, mount := range c.VolumeMounts {
			frozen := mount.SubPath != "" || mount.SubPathExpr != "" || !refreshed[mount.Name]
			for _, o := range volumes[mount.Name] {
				uses = append(uses, Use{o.kind, o.name, c.Name, frozen})
			}
		}
	}
	return merge(uses)
}

// merge sorts uses, and leaves each once.
func merge(uses []Use) []Use {
	slices.SortFunc(uses, func(a, b Use) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Container, b.Container))
	})
	var merged []Use
	for _, use := range uses {
		if n := len(merged); n > 0 && merged[n-1].Kind == use.Kind && merged[n-1].Name == use.Name && merged[n-1].Container == use.Container {
			merged[n-1].Frozen = merged[n-1].Frozen || use.Frozen
			continue
		}
		merged = append(merged, use)
	}
	return merged
}

// container is a container of a pod; a lasting one runs as long as the pod does.
type container struct {
	corev1.Container
	lasting bool
}

func all(pod *corev1.PodSpec) []container {
	var found []container
	for _, c := range pod.InitContainers {
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		found = append(found, container{c, sidecar})
	}
	for _, c := range pod.Containers {
		found = append(found, container{c, true})
	}
	for _, c := range pod.EphemeralContainers {
		found = append(found, container{corev1.Container(c.EphemeralContainerCommon), true})
	}
	return found
}

func (c *container) variables() []Use {
	var uses []Use
	add := func(kind Kind, name string) { uses = append(uses, Use{kind, name, c.Name, true}) }
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
	return uses
}

// ofVolume are the objects in a volume.
func ofVolume(volume *corev1.Volume) []object {
	switch {
	case volume.Secret != nil:
		return []object{{Secret, volume.Secret.SecretName}}
	case volume.ConfigMap != nil:
		return []object{{ConfigMap, volume.ConfigMap.Name}}
	case volume.Projected == nil:
		return nil
	}
	var found []object
	for _, source := range volume.Projected.Sources {
		switch {
		case source.Secret != nil:
			found = append(found, object{Secret, source.Secret.Name})
		case source.ConfigMap != nil:
			found = append(found, object{ConfigMap, source.ConfigMap.Name})
		case source.ClusterTrustBundle != nil:
			if ca := serviceCA(source.ClusterTrustBundle); ca != "" {
				found = append(found, object{ClusterTrustBundle, ca})
			}
		}
	}
	return found
}

// serviceCA is the ServiceCA whose bundle a projection mounts, by the signer or by the name, which begins with it (KEP-3257); empty for
// the bundles of others.
func serviceCA(projection *corev1.ClusterTrustBundleProjection) string {
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

// Slim is what Uses reads of a pod, for a cache.
func Slim(pod *corev1.PodSpec) corev1.PodSpec {
	var slim corev1.PodSpec
	for i := range pod.Volumes {
		if volume := &pod.Volumes[i]; len(ofVolume(volume)) > 0 {
			slim.Volumes = append(slim.Volumes, corev1.Volume{Name: volume.Name, VolumeSource: corev1.VolumeSource{
				Secret: volume.Secret, ConfigMap: volume.ConfigMap, Projected: volume.Projected,
			}})
		}
	}
	for _, c := range pod.InitContainers {
		kept := slimContainer(c)
		kept.RestartPolicy = c.RestartPolicy
		slim.InitContainers = append(slim.InitContainers, kept)
	}
	for _, c := range pod.Containers {
		slim.Containers = append(slim.Containers, slimContainer(c))
	}
	for _, c := range pod.EphemeralContainers {
		slim.EphemeralContainers = append(slim.EphemeralContainers, corev1.EphemeralContainer{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon(slimContainer(corev1.Container(c.EphemeralContainerCommon))),
		})
	}
	return slim
}

func slimContainer(c corev1.Container) corev1.Container {
	slim := corev1.Container{Name: c.Name, EnvFrom: c.EnvFrom}
	for _, variable := range c.Env {
		if from := variable.ValueFrom; from != nil && (from.SecretKeyRef != nil || from.ConfigMapKeyRef != nil) {
			slim.Env = append(slim.Env, corev1.EnvVar{ValueFrom: &corev1.EnvVarSource{
				SecretKeyRef: from.SecretKeyRef, ConfigMapKeyRef: from.ConfigMapKeyRef,
			}})
		}
	}
	for _, mount := range c.VolumeMounts {
		slim.VolumeMounts = append(slim.VolumeMounts, corev1.VolumeMount{Name: mount.Name, SubPath: mount.SubPath, SubPathExpr: mount.SubPathExpr})
	}
	return slim
}

// Started is when a container of a pod read what it holds: when its process started or, for an init container, when it ran. Not before
// the pod was made, whatever the clock of its node says. False for one that is still going to start.
func Started(pod *corev1.Pod, name string) (time.Time, bool) {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		at := slices.IndexFunc(statuses, func(s corev1.ContainerStatus) bool { return s.Name == name })
		if at < 0 {
			continue
		}
		var started time.Time
		switch state := statuses[at].State; {
		case state.Running != nil:
			started = state.Running.StartedAt.Time
		case state.Terminated != nil && isInit(pod, name):
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

// isInit tells whether a container runs before the others, and then no more.
func isInit(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool {
		return c.Name == name && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways)
	})
}
