package hollownode

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	cri "k8s.io/cri-api/pkg/apis"
	remote "k8s.io/cri-client/pkg"
	fakeremote "k8s.io/cri-client/pkg/fake"
	"k8s.io/kubelet/pkg/types"
)

// runtime is the fake container runtime, whose containers run until they are stopped. Containers
// that are meant to complete succeed at once: otherwise no pod with an init container would ever
// start, and no Job complete.
type runtime struct {
	cri.RuntimeService
	pods kubernetes.Interface
}

// startRuntime starts the fake runtime and connects to it over a socket, because the kubelet keeps
// the responses, which therefore must be its own copies.
func startRuntime(ctx context.Context, root string, pods kubernetes.Interface) (runtime, cri.ImageManagerService, error) {
	fake := fakeremote.NewFakeRemoteRuntime()
	endpoint := "unix://" + filepath.Join(root, "cri.sock")
	if err := fake.Start(endpoint); err != nil {
		return runtime{}, nil, fmt.Errorf("start the fake container runtime: %w", err)
	}
	service, err := remote.NewRemoteRuntimeServiceBuilder().WithEndpoint(endpoint).WithConnectionTimeout(15 * time.Second).Build(ctx)
	if err != nil {
		return runtime{}, nil, fmt.Errorf("connect to the fake container runtime: %w", err)
	}
	return runtime{RuntimeService: service, pods: pods}, fake.ImageService, nil
}

// StartContainer implements cri.ContainerManager.
func (r runtime) StartContainer(ctx context.Context, id string) error {
	if err := r.RuntimeService.StartContainer(ctx, id); err != nil {
		return err
	}
	container, err := r.ContainerStatus(ctx, id, false)
	if err != nil {
		return err
	}
	labels := container.Status.Labels
	pod, err := r.pods.CoreV1().Pods(types.GetPodNamespace(labels)).Get(ctx, types.GetPodName(labels), metav1.GetOptions{})
	if err != nil || !ends(pod, types.GetContainerName(labels)) {
		return err
	}
	return r.StopContainer(ctx, id, 0)
}

// ends reports whether a container is meant to complete, rather than to keep running.
func ends(pod *corev1.Pod, container string) bool {
	for _, init := range pod.Spec.InitContainers {
		if init.Name == container {
			return init.RestartPolicy == nil || *init.RestartPolicy != corev1.ContainerRestartPolicyAlways
		}
	}
	return pod.Spec.RestartPolicy != corev1.RestartPolicyAlways &&
		slices.ContainsFunc(pod.OwnerReferences, func(owner metav1.OwnerReference) bool { return owner.Kind == "Job" })
}
