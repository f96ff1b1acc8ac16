package hollownode

import (
	"path/filepath"
	"time"

	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
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
	config.SyncFrequency.Duration = 500 * time.Millisecond
	return flags, config, nil
}
