// Package cluster starts and stops a complete Kubernetes cluster of plain processes: etcd,
// kube-apiserver and, on demand, kube-controller-manager, kube-scheduler and nodes without
// containers, whose pods become Ready and whose volumes can be read on this machine. Everything
// listens on 127.0.0.1 only. Several clusters can run side by side. Nothing is left when a cluster
// is stopped or the process that started it has exited.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// startTimeout is long enough for a busy machine; an idle one needs a few seconds.
const startTimeout = 3 * time.Minute

// Options selects the components of a cluster. The zero value is etcd and kube-apiserver.
type Options struct {
	// Binaries is the folder with links to the components; by default bin/k8s of this repository,
	// which `make controlplane` fills.
	Binaries string
	// CRDs are folders of CustomResourceDefinitions, which are established before any controller
	// starts.
	CRDs []string
	// Controllers adds kube-controller-manager: workloads, garbage collection, deletion of namespaces,
	// default ServiceAccounts, kube-root-ca.crt and so on. As in any cluster, a pod then needs a
	// ServiceAccount, and a namespace gets its default one shortly after it is created.
	Controllers bool
	// Nodes adds this many nodes, named node-0 and up, with kube-scheduler and Controllers.
	Nodes int
	// HurriedNodes makes the nodes refresh pod certificates every one or two minutes. The API server
	// accepts no refresh time earlier than ten minutes.
	HurriedNodes bool
	// Logs is a folder for the logs of the components. By default they are removed with the cluster.
	Logs string
}

// Cluster is a running cluster.
type Cluster struct {
	// Config is the client configuration of a cluster administrator.
	Config *rest.Config
	// Kubeconfig is the path of a file with the same configuration.
	Kubeconfig string
	// Dir is the folder with everything that the cluster writes.
	Dir string

	options   Options
	client    *kubernetes.Clientset
	authority *authority
	etcd      *port
	apiserver *port

	processes []*process
	failed    context.Context
	fail      context.CancelCauseFunc
	stop      sync.Once
	stopErr   error
}

// Start starts a cluster and waits until it is ready: APIs are served, controllers work, nodes are
// Ready. If that fails, it stops what it has started and returns an error.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	c := &Cluster{options: options}
	c.options.Controllers = options.Controllers || options.Nodes > 0
	c.failed, c.fail = context.WithCancelCause(context.Background())

	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("the cluster is not ready after %s", startTimeout))
	defer cancel()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer context.AfterFunc(c.failed, func() { giveUp(c.Err()) })()

	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	steps := []func(context.Context) error{c.prepare, c.startEtcd, c.startAPIServer, c.installCRDs, c.startControllers, c.startNodes}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return c.awaitReady(ctx)
}

// prepare creates what the components need before the first of them starts.
func (c *Cluster) prepare(context.Context) (err error) {
	if c.options.Binaries, err = binaries(c.options.Binaries); err != nil {
		return err
	}
	if c.Dir, err = os.MkdirTemp("", "k8s-"); err != nil {
		return err
	}
	if c.options.Logs == "" {
		c.options.Logs = c.path("logs")
	}
	if c.etcd, err = reservePort(); err != nil {
		return err
	}
	if c.apiserver, err = reservePort(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.options.Logs, 0o755); err != nil {
		return err
	}
	return c.writeCredentials()
}

// Failed returns a channel that is closed when a component has exited by itself. Err then returns
// which one, with the end of its log.
func (c *Cluster) Failed() <-chan struct{} { return c.failed.Done() }

// Err returns nil unless a component has exited by itself.
func (c *Cluster) Err() error { return context.Cause(c.failed) }

// Stop stops all components and removes everything that the cluster has written, except logs in a
// folder of the caller.
func (c *Cluster) Stop() error {
	c.stop.Do(func() { c.stopErr = c.tearDown() })
	return c.stopErr
}

func (c *Cluster) tearDown() error {
	var errs []error
	for _, p := range slices.Backward(c.processes) {
		errs = append(errs, p.kill())
	}
	for _, reserved := range []*port{c.etcd, c.apiserver} {
		errs = append(errs, reserved.release())
	}
	if c.Dir != "" {
		errs = append(errs, os.RemoveAll(c.Dir))
	}
	return errors.Join(errs...)
}

func (c *Cluster) path(elements ...string) string {
	return filepath.Join(append([]string{c.Dir}, elements...)...)
}
