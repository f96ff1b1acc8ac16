package restart

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
)

// writeTimeout bounds what a webhook that does not answer costs the others.
const writeTimeout = 10 * time.Second

// attempt talks to the API server, and changes nothing else; what it returns takes note of how it went.
type attempt func(ctx context.Context) (note func())

// atOnce makes all attempts at once, so that none waits for a webhook of another's, and takes note of them one after the other.
func atOnce(ctx context.Context, attempts []attempt) {
	notes := make([]func(), len(attempts))
	var all sync.WaitGroup
	for i, try := range attempts {
		all.Go(func() {
			bounded, cancel := context.WithTimeout(ctx, writeTimeout)
			defer cancel()
			notes[i] = try(bounded)
		})
	}
	all.Wait()
	for _, note := range notes {
		note()
	}
}

// write applies all that we own of a workload.
func (r *Reconciler) write(one *item, stamp, mark string, note func(error)) attempt {
	if mark != one.GetLabels()[v1alpha1.LabelRestarting] {
		one.attempt = mark
	}
	return func(ctx context.Context) func() {
		err := r.Client.Apply(ctx, one.configuration(stamp, mark), apply.Restart, client.ForceOwnership)
		return func() { note(err) }
	}
}

// evict replaces the next pod of a workload that does not replace its pods by itself, as far as PodDisruptionBudgets allow.
func (r *Reconciler) evict(now time.Time, p *plan, one *item) attempt {
	return func(ctx context.Context) func() {
		what, err := r.evictNext(ctx, now, one)
		return func() {
			if apply.IgnoreGone(err) != nil && !apply.Conflict(err) {
				r.failed(now, one, what, err, retryEviction)
				p.lookAt(now.Add(retryEviction))
			}
		}
	}
}

// evictNext evicts a pod, if it is time; what says what it was about.
func (r *Reconciler) evictNext(ctx context.Context, now time.Time, one *item) (what string, err error) {
	var pods []*corev1.Pod
	err = r.eachPodOf(ctx, one.workload, func(pod *corev1.Pod) {
		if pod.DeletionTimestamp == nil && !isAway(pod, now) {
			pods = append(pods, pod.DeepCopy())
		}
	})
	if err != nil {
		return "its pods cannot be listed", err
	}
	next := nextPod(now, one, pods)
	if next == nil {
		return "", nil
	}
	err = r.Live.SubResource("eviction").Create(ctx, next, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: next.Namespace, Name: next.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(next.UID))},
	})
	return fmt.Sprintf("pod %s cannot be evicted", next.Name), err
}

// nextPod is the pod to be evicted next, nil while another one is being replaced: one that holds something old and is not ready serves nobody
// and comes first, then the last one by its ordinal, as a StatefulSet is rolled. A workload that was not available before may never be: its
// pods that are not ready are not waited for, and those that are ready are evicted when nothing else goes on.
func nextPod(now time.Time, one *item, pods []*corev1.Pod) *corev1.Pod {
	lame, takesReady := one.lame(), one.rollout.available || (one.lame() && one.stands(now))
	if len(pods) < int(one.rollout.wanted) && !lame {
		return nil
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(compare(isReady(a), isReady(b)), strings.Compare(ordinal(b.Name), ordinal(a.Name)))
	})
	for _, pod := range pods {
		known := newStarts(pod)
		switch old := len(known.unknown(one.changes)) > 0; {
		case old && (takesReady || !isReady(pod)):
			return pod
		case !old && !isReady(pod) && !lame:
			return nil
		}
	}
	return nil
}

func isReady(pod *corev1.Pod) bool {
	return condition(pod, corev1.PodReady).Status == corev1.ConditionTrue
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
