package liverestart_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// A pod on a node that does not respond holds up nothing, and is reported as left out. No other
// test runs at the same time, because their pods need the node.
func TestUnresponsiveNode(t *testing.T) {
	r := newRealm(t, rolling(2))
	rolls, evicted := r.daemonSet("rolls", byVolume), r.daemonSet("evicted", byVolume)
	// By default one pod may be unavailable, and one is: the controller would replace no other.
	rolls.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: new(intstr.FromInt32(2))}
	for _, w := range []*appsv1.DaemonSet{rolls, evicted} {
		// The controller keeps counting the node, and its pod there is not gone before the kubelet
		// reports that.
		w.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		w.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(1))
	}
	r.run(rolls, evicted)
	const name = "node-3"
	resume, err := env.cluster.PauseNode(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := resume(); err != nil {
			t.Error(err)
		}
		nodeIs(t, name, corev1.ConditionTrue)
	}()
	nodeIs(t, name, corev1.ConditionUnknown)
	before := r.podsOn(name)
	if len(before) != 8 {
		t.Fatalf("there are %d pods", len(before))
	}
	r.renew()
	for _, w := range []*appsv1.DaemonSet{rolls, evicted} {
		r.warned(w.Name, "RestartIncomplete", "left out, for their nodes do not answer: pod "+w.Name+"-")
	}
	r.done()
	after := r.podsOn(name)
	for pod, away := range before {
		if _, stays := after[pod]; stays != away {
			t.Errorf("pod %s, whose node does not answer (%t), is there: %t", pod, away, stays)
		}
	}
	if a, b := r.rollouts(rolls), r.rollouts(evicted); a != 1 || b != 0 {
		t.Errorf("the templates were changed %d times and %d times, want once and never", a, b)
	}
}

// podsOn returns the pods of the realm, and whether each is on the node.
func (r *realm) podsOn(node string) map[string]bool {
	r.Helper()
	var list corev1.PodList
	if err := env.kube.List(r.Context(), &list, client.InNamespace(r.name)); err != nil {
		r.Fatal(err)
	}
	names := map[string]bool{}
	for _, pod := range list.Items {
		names[pod.Name] = pod.Spec.NodeName == node
	}
	return names
}

// nodeIs waits until the Ready condition of a node has the status. If that is True, it also waits
// until the node accepts pods.
func nodeIs(t *testing.T, name string, status corev1.ConditionStatus) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		node := &corev1.Node{}
		if err := env.kube.Get(ctx, client.ObjectKey{Name: name}, node); err != nil {
			return err
		}
		if !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady && c.Status == status }) {
			return fmt.Errorf("%s is not %s", name, status)
		}
		if status == corev1.ConditionTrue && len(node.Spec.Taints) > 0 {
			return errors.New("it takes no pods")
		}
		return nil
	})
}
