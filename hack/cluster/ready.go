package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

// await polls check until it returns nil. When ctx ends first, await returns both the cause and the
// last error of check.
func await(ctx context.Context, what string, check func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		last = check(ctx)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait for %s: %w", what, errors.Join(context.Cause(ctx), last))
	}
	return nil
}

// awaitReady waits for what a client of a new cluster relies on.
func (c *Cluster) awaitReady(ctx context.Context) error {
	if err := await(ctx, "the default namespace", c.namespaceExists); err != nil {
		return err
	}
	if c.options.Controllers {
		if err := await(ctx, "kube-controller-manager", c.controllersWork); err != nil {
			return err
		}
	}
	return await(ctx, "nodes", c.nodesReady)
}

func (c *Cluster) namespaceExists(ctx context.Context) error {
	_, err := c.client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceDefault, metav1.GetOptions{})
	return err
}

// controllersWork returns an error unless the controllers have created what a pod in the default
// namespace needs.
func (c *Cluster) controllersWork(ctx context.Context) error {
	if _, err := c.client.CoreV1().ConfigMaps(metav1.NamespaceDefault).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{}); err != nil {
		return err
	}
	_, err := c.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
	return err
}

func (c *Cluster) nodesReady(ctx context.Context) error {
	nodes, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	ready := 0
	for i := range nodes.Items {
		if takesPods(&nodes.Items[i]) {
			ready++
		}
	}
	if ready < c.options.Nodes {
		return fmt.Errorf("%d of %d nodes take pods", ready, c.options.Nodes)
	}
	return nil
}

func takesPods(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue && len(node.Spec.Taints) == 0
		}
	}
	return false
}
