// Package cluster starts and stops a whole Kubernetes cluster of plain processes: etcd, kube-apiserver and, on demand,
// kube-controller-manager, kube-scheduler and nodes without containers, whose pods turn Ready and whose volumes can be
// read on this machine. Everything listens on 127.0.0.1 only, several clusters run side by side, and nothing is left
// when a cluster is stopped or the process that started it is gone.
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

// startTimeout is for a busy machine; an idle one needs a few seconds.
const startTimeout = 3 * time.Minute

// Options say how much of a cluster is wanted. The zero value is etcd and kube-apiserver.
type Options struct {
	// Binaries is the folder of the components' links: by default bin/k8s of this repository, as `make controlplane` fills it.
	Binaries string
	// CRDs are folders of CustomResourceDefinitions, established before any controller starts.
	CRDs []string
	// Controllers adds kube-controller-manager: workloads, garbage collection, deletion of namespaces, default ServiceAccounts,
	// kube-root-ca.crt and so on. As in any cluster, a pod then needs a ServiceAccount, and a namespace gets its default one
	// a moment after it is created.
	Controllers bool
	// Nodes adds that many nodes, named node-0 and up, and with them kube-scheduler and Controllers.
	Nodes int
	// HurriedNodes refresh pod certificates every one or two minutes: the API server lets nobody ask for that before ten.
	HurriedNodes bool
	// Logs is a folder for the components' logs. By default they go when the cluster does.
	Logs string
}

// Cluster is a running cluster.
type Cluster struct {
	// Config is that of a cluster administrator.
	Config *rest.Config
	// Kubeconfig is a file that says the same.
	Kubeconfig string
	// Dir is the folder of all that the cluster writes.
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

// Start starts a cluster and waits until it is ready to use: APIs served, controllers at work, nodes Ready. What it has
// started is stopped again if that fails.
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

// prepare makes what the components need before the first of them starts.
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

// Failed is closed when a component has ended by itself. Err then says which, and the last that it logged.
func (c *Cluster) Failed() <-chan struct{} { return c.failed.Done() }

// Err is nil unless a component has ended by itself.
func (c *Cluster) Err() error { return context.Cause(c.failed) }

// Stop stops all components and removes all that the cluster has written, except logs in a folder of the caller's.
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
