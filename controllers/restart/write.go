package restart

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/controllers/internal/apply"
)

const (
	// retryRefused is when a write that the API server refused is tried again.
	retryRefused = 5 * time.Minute
	// retryEviction is when a pod is tried again that a PodDisruptionBudget kept.
	retryEviction = 10 * time.Second
)

// refusals remember, for a while, what the API server refused, so that a workload that cannot be restarted holds up nobody.
type refusals map[types.UID]refusal

type refusal struct {
	version, message string
	until            time.Time
}

// of is why a workload was refused; empty when it may be tried.
func (r refusals) of(w *workload, now time.Time) string {
	known, ok := r[w.GetUID()]
	if !ok || known.version != w.GetResourceVersion() || now.After(known.until) {
		return ""
	}
	return known.message
}

// write applies all that we own of a workload, and tells whether it did. What is refused for good, is told of its policy; what was
// changed meanwhile, is looked at anew.
func (r *Reconciler) write(ctx context.Context, now time.Time, one *item, stamp, mark string) (bool, error) {
	err := r.Client.Apply(ctx, one.configuration(stamp, mark), apply.Restart, client.ForceOwnership)
	switch {
	case apply.Going(err) || apierrors.IsConflict(err):
		return false, nil
	case err != nil && apply.Refused(err):
		r.refuse(now, one, "its restart was refused: "+err.Error(), retryRefused)
		return false, nil
	}
	return err == nil, err
}

func (r *Reconciler) refuse(now time.Time, one *item, message string, retry time.Duration) {
	r.refusals[one.GetUID()] = refusal{one.GetResourceVersion(), message, now.Add(retry)}
}

// evict replaces the next pod of a workload that does not replace its pods by itself, as far as PodDisruptionBudgets allow.
func (r *Reconciler) evict(ctx context.Context, now time.Time, one *item) error {
	var pods []corev1.Pod
	if err := r.eachPodOf(ctx, one.workload, func(pod *corev1.Pod) { pods = append(pods, *pod) }); err != nil {
		return err
	}
	next := nextPod(one, pods)
	if next == nil {
		return nil
	}
	err := r.Live.SubResource("eviction").Create(ctx, next, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: next.Namespace, Name: next.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(next.UID))},
	})
	switch {
	case err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		return nil
	case apierrors.IsTooManyRequests(err) || apply.Refused(err):
		r.refuse(now, one, fmt.Sprintf("pod %s cannot be evicted: %v", next.Name, err), retryEviction)
		return nil
	}
	return fmt.Errorf("evict pod %s/%s: %w", next.Namespace, next.Name, err)
}

// nextPod is the pod to be evicted next, nil while another one is being replaced: one that holds something old and is not ready serves nobody
// and comes first, then the last one by its ordinal, as a StatefulSet is rolled.
func nextPod(one *item, pods []corev1.Pod) *corev1.Pod {
	if len(pods) < int(one.rollout.wanted) {
		return nil
	}
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		return cmp.Or(compare(isReady(&a), isReady(&b)), strings.Compare(ordinal(b.Name), ordinal(a.Name)))
	})
	for i := range pods {
		known := newStarts(pods[i])
		switch old := len(known.unknown(one.changes)) > 0; {
		case old && (one.rollout.available || !isReady(&pods[i])):
			return &pods[i]
		case !old && !isReady(&pods[i]):
			return nil
		}
	}
	return nil
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// ordinal is a name by which the pods of a StatefulSet are in their order.
func ordinal(pod string) string {
	at := strings.LastIndexByte(pod, '-') + 1
	return fmt.Sprintf("%s%20s", pod[:at], pod[at:])
}

// notes say once what the changes are.
func notes(all []change) string {
	var said []string
	for _, one := range all {
		if !slices.Contains(said, one.note) {
			said = append(said, one.note)
		}
	}
	return strings.Join(said, "; ")
}
