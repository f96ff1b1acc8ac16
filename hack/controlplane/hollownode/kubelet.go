package hollownode

import (
	"path/filepath"
	"time"

	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
)

// kubeletConfig returns the kubelet's own defaults, except for what a node that is a plain process
// cannot do or must not touch.
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
	config.EnableServer = false // no logs or exec to serve: no port to listen on
	config.ReadOnlyPort = 0
	config.CgroupsPerQOS = false
	config.EnforceNodeAllocatable = nil
	config.EnableControllerAttachDetach = false
	config.ResolverConfig = ""
	config.EvictionHard = nil // the disk of the host must not evict pods
	config.MaxPods = 1000
	config.ProviderID = "hollow://" + n.name
	// The kubelet rewrites mounted Secrets and ConfigMaps when it syncs a pod, and a change of
	// theirs does not trigger a sync.
	config.SyncFrequency.Duration = 500 * time.Millisecond
	return flags, config, nil
}
