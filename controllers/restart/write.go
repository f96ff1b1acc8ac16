package restart

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
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

// write applies all that we own of a workload; nothing, where it is only read: its turn is known to this manager, and to the next by its pods.
func (r *Reconciler) write(one *item, stamp, mark string, note func(error)) attempt {
	if one.readOnly {
		return func(context.Context) func() { return func() { note(nil) } }
	}
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
				retry := retryEviction
				if errors.Is(err, errBudgets) {
					retry = retryFailed
				}
				r.failed(now, one, what, err, retry)
				_, p.why[one] = one.state(now)
				p.lookAt(now.Add(retry))
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
	return fmt.Sprintf("pod %s cannot be evicted", next.Name), r.explain(ctx, next, err)
}

// nextPod returns the pod to be evicted next, nil while another one is being replaced: one that holds something old and is not ready
// serves no client and comes first, the first by its ordinal, as a StatefulSet makes its pods; then the last one by its ordinal, as a
// StatefulSet is rolled. A workload that was not available before may never be: its pods that are not ready are not waited for, and those
// that are ready are evicted when nothing else goes on.
func nextPod(now time.Time, one *item, pods []*corev1.Pod) *corev1.Pod {
	unready, ready, comes := one.sortPods(pods)
	if comes && one.byHand() && !one.lame() && !one.stands(now) {
		return nil
	}
	byOrdinal := func(a, b *corev1.Pod) int { return strings.Compare(ordinal(a.Name), ordinal(b.Name)) }
	missing := len(pods) < int(one.rollout.wanted) && !one.lame()
	switch {
	case len(unready) > 0 && (!missing || one.kind == kindStatefulSet):
		return slices.MinFunc(unready, byOrdinal)
	case len(ready) > 0 && !missing && one.takesReady(now):
		return slices.MaxFunc(ready, byOrdinal)
	}
	return nil
}

// sortPods returns the pods that hold something old and may be evicted, those that are not ready apart; comes reports whether another pod is
// not ready yet.
func (i *item) sortPods(pods []*corev1.Pod) (unready, ready []*corev1.Pod, comes bool) {
	revision := i.orderedRevision()
	for _, pod := range pods {
		known := newStarts(pod)
		switch old := len(known.unknown(i.changes)) > 0; {
		case old && isReady(pod):
			ready = append(ready, pod)
		case old && (revision == "" || pod.Labels[appsv1.ControllerRevisionHashLabelKey] != revision):
			unready = append(unready, pod)
		case !old && !isReady(pod):
			comes = true
		}
	}
	return unready, ready, comes
}

// takesReady reports whether pods are evicted that are ready.
func (i *item) takesReady(now time.Time) bool {
	return i.byHand() && (i.rollout.available || (i.lame() && i.stands(now)))
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
