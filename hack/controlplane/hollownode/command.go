// Package hollownode is a node without containers: the real kubelet over a fake container runtime.
// It runs pods to Ready, writes their Secret, ConfigMap and projected volumes to disk and refreshes
// them, and requests their tokens and pod certificates. It is what kubemark runs, except that
// kubemark's own command always keeps its volumes and its socket in /tmp, listens on every
// interface, and refreshes volumes slowly.
package hollownode

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/kubernetes/pkg/kubemark"
	"k8s.io/kubernetes/pkg/volume/util/hostutil"
)

type node struct {
	name       string
	kubeconfig string
	root       string
	hurry      bool
}

// NewCommand returns the command that runs one hollow node until it is killed.
func NewCommand() *cobra.Command {
	n := node{}
	command := &cobra.Command{
		Use:   "hollow-node",
		Short: "A kubelet over a fake container runtime",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return n.run(c.Context()) },
	}
	command.Flags().StringVar(&n.name, "name", "", "the node's name")
	command.Flags().StringVar(&n.kubeconfig, "kubeconfig", "", "how to reach the API server")
	command.Flags().StringVar(&n.root, "root", "", "folder that the node may write to; pods' volumes are under pods/<uid>/volumes")
	command.Flags().BoolVar(&n.hurry, "hurry", false, "refresh pod certificates every one or two minutes, whenever it is due")
	for _, required := range []string{"name", "kubeconfig", "root"} {
		_ = command.MarkFlagRequired(required)
	}
	return command
}

func (n *node) run(ctx context.Context) error {
	flags, config, err := n.kubeletConfig()
	if err != nil {
		return fmt.Errorf("configure the kubelet: %w", err)
	}
	client, heartbeat, err := n.clients(config.NodeStatusUpdateFrequency.Duration)
	if err != nil {
		return fmt.Errorf("make clients from %s: %w", n.kubeconfig, err)
	}
	runtime, images, err := startRuntime(ctx, n.root, client)
	if err != nil {
		return err
	}
	kubelet := kubemark.NewHollowKubelet(flags, config, client, heartbeat, machine(n.name), images, runtime, newContainerManager())
	if n.hurry {
		kubelet.KubeletDeps.KubeClient = hurried{client}
	}
	kubelet.KubeletDeps.ProbeManager = prober{}
	kubelet.KubeletDeps.HostUtil = hostUtil{hostutil.NewFakeHostUtil(nil)}
	kubelet.Run(ctx)
	return nil
}

// clients returns two clients, as the real kubelet has, so that a busy node never misses its
// heartbeat.
func (n *node) clients(heartbeatTimeout time.Duration) (client, heartbeat *clientset.Clientset, err error) {
	config, err := clientcmd.BuildConfigFromFlags("", n.kubeconfig)
	if err != nil {
		return nil, nil, err
	}
	config.UserAgent = "hollow-node"
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.QPS, config.Burst = 50, 100
	if client, err = clientset.NewForConfig(config); err != nil {
		return nil, nil, err
	}
	unhurried := rest.CopyConfig(config)
	unhurried.Timeout, unhurried.QPS = heartbeatTimeout, -1
	heartbeat, err = clientset.NewForConfig(unhurried)
	return client, heartbeat, err
}
