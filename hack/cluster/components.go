package cluster

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

func (c *Cluster) startEtcd(ctx context.Context) error {
	url := "http://" + c.etcd.address()
	err := c.run("etcd", "etcd",
		"--data-dir="+c.path("etcd"),
		"--listen-client-urls="+url,
		"--advertise-client-urls="+url,
		"--listen-peer-urls=http://127.0.0.1:0",
		"--socket-reuse-port",
		"--unsafe-no-fsync", // durability is not needed for a cluster in a temporary folder
	)
	if err != nil {
		return err
	}
	return await(ctx, "etcd", func(ctx context.Context) error {
		connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.etcd.address())
		if err != nil {
			return err
		}
		return connection.Close()
	})
}

func (c *Cluster) startAPIServer(ctx context.Context) error {
	args := []string{
		"--etcd-servers=http://" + c.etcd.address(),
		"--bind-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(c.apiserver.number),
		"--permit-port-sharing",
		// Endpoints cannot be loopback addresses, and the search for another address fails on a machine
		// without a network.
		"--advertise-address=127.0.0.1",
		"--endpoint-reconciler-type=none",
		"--tls-cert-file=" + c.path(servingCertFile),
		"--tls-private-key-file=" + c.path(servingKeyFile),
		"--client-ca-file=" + c.path(caFile),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + c.path(serviceAccountFile),
		"--service-account-signing-key-file=" + c.path(serviceAccountFile),
		"--service-cluster-ip-range=10.0.0.0/12",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged",
	}
	if !c.options.Controllers {
		args = append(args, "--disable-admission-plugins=ServiceAccount") // no controller creates the default ServiceAccounts
	}
	if err := c.run("kube-apiserver", "kube-apiserver", args...); err != nil {
		return err
	}
	return await(ctx, "kube-apiserver", func(ctx context.Context) error {
		return c.client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// installCRDs installs the CRDs. It runs before the controllers start, because the garbage
// collector discovers new resources only every 30 seconds.
func (c *Cluster) installCRDs(context.Context) error {
	if len(c.options.CRDs) == 0 {
		return nil
	}
	_, err := envtest.InstallCRDs(c.Config, envtest.CRDInstallOptions{
		Paths: c.options.CRDs, ErrorIfPathMissing: true, MaxTime: time.Minute,
	})
	return err
}

func (c *Cluster) startControllers(context.Context) error {
	if !c.options.Controllers {
		return nil
	}
	return c.run("kube-controller-manager", "kube-controller-manager",
		"--kubeconfig="+c.Kubeconfig,
		"--secure-port=0",
		"--leader-elect=false",
		"--root-ca-file="+c.path(caFile),
		"--service-account-private-key-file="+c.path(serviceAccountFile),
		"--kube-api-qps=200", "--kube-api-burst=400",
		"--node-monitor-period=1s", // so that a new node is soon noticed to be Ready and accepts pods
	)
}

func (c *Cluster) startNodes(context.Context) error {
	if c.options.Nodes == 0 {
		return nil
	}
	if err := c.run("kube-scheduler", "kube-scheduler", "--kubeconfig="+c.Kubeconfig, "--secure-port=0", "--leader-elect=false"); err != nil {
		return err
	}
	for i := range c.options.Nodes {
		if err := c.startNode(fmt.Sprintf("node-%d", i)); err != nil {
			return err
		}
	}
	return nil
}

// startNode starts a node with its own identity and only the permissions of a node.
func (c *Cluster) startNode(name string) error {
	_, kubeconfig, err := c.user(name, "system:node:"+name, "system:nodes")
	if err != nil {
		return err
	}
	return c.run(name, "hollow-node", "--name="+name, "--kubeconfig="+kubeconfig, "--root="+c.path(name),
		"--hurry="+strconv.FormatBool(c.options.HurriedNodes))
}
