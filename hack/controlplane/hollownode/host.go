package hollownode

import (
	"context"
	"os"

	cadvisorapi "github.com/google/cadvisor/lib/model"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	cadvisortest "k8s.io/kubernetes/pkg/kubelet/cadvisor/testing"
	"k8s.io/kubernetes/pkg/kubelet/cm"
	probetest "k8s.io/kubernetes/pkg/kubelet/prober/testing"
	"k8s.io/kubernetes/pkg/volume/util/hostutil"
)

// roomyMachine reports enough CPU and memory for pods with production requests.
type roomyMachine struct{ *cadvisortest.Fake }

func machine(name string) roomyMachine {
	return roomyMachine{&cadvisortest.Fake{NodeName: name}}
}

// MachineInfo implements cadvisor.Interface.
func (m roomyMachine) MachineInfo(logger klog.Logger) (*cadvisorapi.MachineInfo, error) {
	info, err := m.Fake.MachineInfo(logger)
	if err == nil {
		info.NumCores, info.MemoryCapacity = 64, 256<<30
	}
	return info, err
}

// hostUtil returns the mode of a volume, without which no container with a subPath would start.
type hostUtil struct{ *hostutil.FakeHostUtil }

// GetMode implements hostutil.HostUtils.
func (hostUtil) GetMode(string) (os.FileMode, error) { return 0o755, nil }

// prober reports every running container as healthy, including sidecars.
type prober struct{ probetest.FakeManager }

// UpdatePodStatus implements prober.Manager.
func (prober) UpdatePodStatus(_ context.Context, _ *corev1.Pod, status *corev1.PodStatus) {
	for _, statuses := range [][]corev1.ContainerStatus{status.InitContainerStatuses, status.ContainerStatuses} {
		for i := range statuses {
			running := statuses[i].State.Running != nil
			statuses[i].Ready, statuses[i].Started = running, &running
		}
	}
}

// containerManager has no cgroups. The stub would log two errors about that per pod and second.
type containerManager struct{ cm.ContainerManager }

func newContainerManager() containerManager {
	return containerManager{cm.NewStubContainerManager()}
}

// NewPodContainerManager implements cm.ContainerManager.
func (m containerManager) NewPodContainerManager() cm.PodContainerManager {
	return podContainerManager{m.ContainerManager.NewPodContainerManager()}
}

type podContainerManager struct{ cm.PodContainerManager }

// GetPodCgroupConfig implements cm.PodContainerManager.
func (podContainerManager) GetPodCgroupConfig(*corev1.Pod, corev1.ResourceName) (*cm.ResourceConfig, error) {
	return nil, nil
}
