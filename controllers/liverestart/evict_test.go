package liverestart_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// handshake is a readiness gate. It stands for a probe that fails once the certificate that the pod
// read at its start has expired.
const handshake = "example.org/handshake"

// setHandshake sets the readiness gate of the pods with an app label: true for those for which
// expired is false, and false for the others.
func (r *realm) setHandshake(ctx context.Context, app string, expired func(*corev1.Pod) bool) {
	var pods corev1.PodList
	if env.kube.List(ctx, &pods, client.InNamespace(r.name), client.MatchingLabels{"app": app}) != nil {
		return
	}
	for i := range pods.Items {
		pod, want := &pods.Items[i], corev1.ConditionTrue
		if expired(pod) {
			want = corev1.ConditionFalse
		}
		index := slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == handshake })
		if index >= 0 && pod.Status.Conditions[index].Status == want {
			continue
		}
		base := client.StrategicMergeFrom(pod.DeepCopy())
		made := corev1.PodCondition{Type: handshake, Status: want, LastTransitionTime: metav1.Now()}
		if index >= 0 {
			pod.Status.Conditions[index] = made
		} else {
			pod.Status.Conditions = append(pod.Status.Conditions, made)
		}
		_ = env.kube.Status().Patch(ctx, pod, base) // the next call retries
	}
}

// probe keeps the readiness gates of an application's pods up to date until the test ends.
func (r *realm) probe(app string, expired func(*corev1.Pod) bool) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		wait.UntilWithContext(ctx, func(ctx context.Context) { r.setHandshake(ctx, app, expired) }, 200*time.Millisecond)
	}()
	r.Cleanup(func() {
		cancel()
		<-ended
	})
}

// The pods of a StatefulSet are not ready because their certificate has expired, and its controller
// waits for them to be ready before it replaces any. The operator evicts them, and the restart
// completes. So does that of a StatefulSet with a partition, whose pods below it stay with the
// older template.
func TestUnreadyInOrder(t *testing.T) {
	t.Parallel()
	r := newRealm(t, goingOn())
	gated := func(pod *corev1.PodSpec) { pod.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: handshake}} }
	queue, staged := r.statefulSet("queue", byVariable, gated), r.statefulSet("staged", byVariable, gated)
	staged.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: new(int32(1))}
	sets := []*appsv1.StatefulSet{queue, staged}
	before, end := map[string]map[string]bool{}, make(chan struct{})
	for _, set := range sets {
		r.create(set)
	}
	var old map[string]bool
	for _, set := range sets {
		r.probe(set.Name, func(pod *corev1.Pod) bool {
			select {
			case <-end:
				return old[string(pod.UID)]
			default:
				return false
			}
		})
	}
	for _, set := range sets {
		r.available(set)
		before[set.Name] = r.pods(set.Name)
	}
	old = mergedSets(before)
	close(end)
	eventually(t, func(ctx context.Context) error {
		for _, set := range sets {
			if err := env.kube.Get(ctx, client.ObjectKeyFromObject(set), set); err != nil || set.Status.ReadyReplicas > 0 {
				return fmt.Errorf("%d pods of %s are ready (%w)", set.Status.ReadyReplicas, set.Name, err)
			}
		}
		return nil
	})
	r.renew()
	r.done()
	r.isRestarted(queue, before["queue"], 1)
	r.isRestarted(staged, before["staged"], 0)
	if evicted := env.manager.written("/pods/queue-0/eviction"); len(evicted) == 0 {
		t.Error("the pods were not evicted")
	}
}

func mergedSets(sets map[string]map[string]bool) map[string]bool {
	all := map[string]bool{}
	for _, set := range sets {
		for key := range set {
			all[key] = true
		}
	}
	return all
}

// A PodDisruptionBudget that prevents every eviction is reported in the API server's words, on the
// workload and by the policy. So are two PodDisruptionBudgets on one pod, which the API server
// never evicts, with the remedy. No pod is removed in another way. The restart proceeds when the
// budgets allow it.
func TestBudgets(t *testing.T) {
	t.Parallel()
	r := newRealm(t, goingOn())
	db := r.statefulSet("db", bySubPath)
	db.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: r.meta("db"), Spec: policyv1.PodDisruptionBudgetSpec{
		Selector: selector("db"), MinAvailable: new(intstr.FromInt32(2)),
	}}
	second := &policyv1.PodDisruptionBudget{ObjectMeta: r.meta("db-of-the-chart"), Spec: policyv1.PodDisruptionBudgetSpec{
		Selector: selector("db"), MaxUnavailable: new(intstr.FromInt32(1)),
	}}
	r.create(budget)
	r.run(db)
	before := r.pods("db")
	r.renew()
	keeps := func(reason, words string) {
		t.Helper()
		r.expectMessage(words, func(counts v1alpha1.RestartCounts, condition metav1.Condition) bool {
			return counts.InProgress == 1 && len(counts.Workloads) == 1 && counts.Workloads[0].State == v1alpha1.WorkloadInProgress &&
				strings.Contains(counts.Workloads[0].Message, words) && strings.Contains(condition.Message, words)
		})
		r.warned("db", reason, words)
	}
	keeps("RestartFailed", "The disruption budget db needs 2 healthy pods and has 2 currently")
	r.create(second)
	keeps("MultipleBudgets", "more than one PodDisruptionBudget selects it, and the API server evicts no such pod: "+
		"delete one of the PodDisruptionBudgets db, db-of-the-chart, or change its selector")
	for uid := range r.pods("db") {
		if !before[uid] {
			t.Error("a pod was replaced in spite of the budgets")
		}
	}
	if err := env.kube.Delete(t.Context(), budget); err != nil {
		t.Fatal(err)
	}
	r.done()
	r.isRestarted(db, before, 0)
}
