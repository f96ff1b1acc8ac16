package hollownode

import (
	"path/filepath"
	"time"

	cadvisorapi "github.com/google/cadvisor/lib/model"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	cadvisortest "k8s.io/kubernetes/pkg/kubelet/cadvisor/testing"
)

// kubeletConfig is the kubelet's own defaults but for what a node that is a plain process cannot do or must not touch.
func (n *node) kubeletConfig() (*options.KubeletFlags, *kubeletconfig.KubeletConfiguration, error) {
	flags := options.NewKubeletFlags()
	flags.RootDirectory = n.root
	flags.CertDirectory = filepath.Join(n.root, "pki")
	flags.HostnameOverride = n.name

	config, err := options.NewKubeletConfiguration()
	if err != nil {
		return nil, nil, err
	}
	config.PodLogsDir = filepath.Join(n.root, "pod-logs")
	config.EnableServer = false // no logs or exec to offer: no port to listen on
	config.ReadOnlyPort = 0
	config.CgroupsPerQOS = false
	config.EnforceNodeAllocatable = nil
	config.EnableControllerAttachDetach = false
	config.ResolverConfig = ""
	config.EvictionHard = nil // the host's disk is none of the pods' business
	config.MaxPods = 1000
	config.ProviderID = "hollow://" + n.name
	// Mounted Secrets and ConfigMaps are written anew when a pod is synced, and a change of theirs syncs no pod.
	config.SyncFrequency.Duration = time.Second
	return flags, config, nil
}

// roomyMachine has room for pods that ask for what they need in production.
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
