package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/hack/cluster"
)

// target is the cluster that the demo uses.
type target struct {
	// embedded is the cluster that the demo started; nil when it uses the one that kubectl points at.
	embedded *cluster.Cluster
	// access is the kubeconfig for the cluster.
	access clientcmdapi.Config
	config *rest.Config
}

// connectCluster starts a cluster, or connects to the one that kubectl points at.
func (d *demo) connectCluster(ctx context.Context) error {
	if d.cluster == "current" {
		return d.steps.do(ctx, "find the cluster that kubectl points at", d.openCurrent)
	}
	err := d.steps.do(ctx, "start a Kubernetes with one node", d.openEmbedded)
	if err == nil {
		d.watch(ctx, d.target.embedded.Failed(), d.target.embedded.Err)
	}
	return err
}

// watch ends the demo when a process that it needs has exited.
func (d *demo) watch(ctx context.Context, ended <-chan struct{}, why func() error) {
	go func() {
		select {
		case <-ended:
			d.end(why())
		case <-ctx.Done():
		}
	}()
}

func (d *demo) openEmbedded(ctx context.Context, _ func(string)) error {
	started, err := cluster.Start(ctx, cluster.Options{Nodes: 1})
	if err != nil {
		return err
	}
	d.target.embedded, d.target.config = started, started.Config
	access, err := clientcmd.LoadFromFile(started.Kubeconfig)
	if err != nil {
		return err
	}
	d.target.access = *access
	return d.connect()
}

func (d *demo) openCurrent(ctx context.Context, _ func(string)) error {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	access, err := rules.Load()
	if err != nil {
		return err
	}
	d.target.access = *access
	d.target.config, err = clientcmd.NewNonInteractiveClientConfig(*access, "", nil, rules).ClientConfig()
	if err != nil {
		return err
	}
	if err := d.connect(); err != nil {
		return err
	}
	return d.checkCurrent(ctx)
}

func (d *demo) connect() error {
	scheme := clientgoscheme.Scheme
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return err
	}
	var err error
	d.client, err = client.New(d.target.config, client.Options{Scheme: scheme})
	return err
}

// managerKubeconfig writes a kubeconfig with which an administrator impersonates the operator's
// ServiceAccount, with only the permissions of config/rbac. A token would expire during a long
// demo.
func (d *demo) managerKubeconfig() (string, error) {
	access := d.target.access.DeepCopy()
	if err := clientcmdapi.MinifyConfig(access); err != nil {
		return "", err
	}
	for _, user := range access.AuthInfos {
		user.Impersonate = "system:serviceaccount:" + operatorNamespace + ":servingcert-manager"
		user.ImpersonateGroups = []string{"system:serviceaccounts", "system:serviceaccounts:" + operatorNamespace, "system:authenticated"}
	}
	path := filepath.Join(d.dir, "manager.kubeconfig")
	return path, clientcmd.WriteToFile(*access, path)
}

// kubectl runs the kubectl that was built with the cluster, or else the installed one.
func (d *demo) kubectl(ctx context.Context, args ...string) ([]byte, error) {
	path := filepath.Join(d.root, "bin", "k8s", "kubectl")
	if _, err := os.Stat(path); err != nil {
		path = "kubectl"
	}
	command := exec.CommandContext(ctx, path, args...)
	command.Dir = d.root
	if d.target.embedded != nil {
		command.Env = append(os.Environ(), "KUBECONFIG="+d.target.embedded.Kubeconfig)
	}
	return output(command)
}

// output returns the standard output of a command. An error contains its standard error.
func output(command *exec.Cmd) ([]byte, error) {
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = 10 * time.Second
	printed, err := command.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("%s: %w\n%s", filepath.Base(command.Path), err, exit.Stderr)
	}
	return printed, err
}
