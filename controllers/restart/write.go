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

// writeTimeout bounds how long a webhook that does not respond delays the other writes.
const writeTimeout = 10 * time.Second

// apiCall calls the API server and changes nothing else. The function that it returns records the
// result.
type apiCall func(ctx context.Context) (note func())

// runConcurrently runs all calls at once, so that none waits for a webhook of another workload, and
// then records their results one after the other.
func runConcurrently(ctx context.Context, attempts []apiCall) {
	notes := make([]func(), len(attempts))
	var all sync.WaitGroup
	for i, attempt := range attempts {
		all.Go(func() {
			bounded, cancel := context.WithTimeout(ctx, writeTimeout)
			defer cancel()
			notes[i] = attempt(bounded)
		})
	}
	all.Wait()
	for _, note := range notes {
		note()
	}
}

// write applies all fields that the operator owns of a workload. A workload that is only read is
// not written: this manager remembers its restart, and the next one derives it from its pods.
func (r *Reconciler) write(item *workloadState, stamp, mark string, note func(error)) apiCall {
	if item.readOnly {
		return func(context.Context) func() { return func() { note(nil) } }
	}
	if mark != item.GetLabels()[v1alpha1.LabelRestarting] {
		item.pendingMark = mark
	}
	return func(ctx context.Context) func() {
		err := r.Client.Apply(ctx, item.configuration(stamp, mark), apply.Restart, client.ForceOwnership)
		return func() { note(err) }
	}
}

// evict evicts the next pod of a workload that does not replace its pods by itself, as far as
// PodDisruptionBudgets allow.
func (r *Reconciler) evict(now time.Time, p *plan, item *workloadState) apiCall {
	return func(ctx context.Context) func() {
		what, err := r.evictNext(ctx, now, item)
		return func() {
			if apply.IgnoreGone(err) != nil && !apply.IsConflict(err) {
				retry := retryEviction
				if errors.Is(err, errBudgets) {
					retry = retryFailed
				}
				r.recordFailure(now, item, what, err, retry)
				_, p.reasons[item] = item.state(now)
				p.recheckBy(now.Add(retry))
			}
		}
	}
}

// evictNext evicts a pod if one is due; what begins the message on an error.
func (r *Reconciler) evictNext(ctx context.Context, now time.Time, item *workloadState) (what string, err error) {
	var pods []*corev1.Pod
	terminating := false
	err = r.eachPodOf(ctx, item.workload, func(pod *corev1.Pod) {
		switch {
		case isUnreachable(pod, now):
		case pod.DeletionTimestamp != nil:
			terminating = true
		default:
			pods = append(pods, pod.DeepCopy())
		}
	})
	if err != nil {
		return "its pods cannot be listed", err
	}
	next := podToEvict(now, item, pods)
	// Pods that are missing are no reason to wait where the workload was not available before: only
	// this keeps all ready pods of it from being evicted while the first one terminates.
	if next == nil || (terminating && item.wasUnavailable() && isReady(next)) {
		return "", nil
	}
	err = r.Live.SubResource("eviction").Create(ctx, next, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: next.Namespace, Name: next.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(next.UID))},
	})
	return fmt.Sprintf("pod %s cannot be evicted", next.Name), r.explain(ctx, next, err)
}

// podToEvict returns the pod to evict next; nil while another one is being replaced. A pod that is
// outdated and not ready serves no client and comes first, in ascending order of the ordinals, as a
// StatefulSet creates its pods. Ready pods follow in descending order, as a StatefulSet rolls out.
// A workload that was not available before its restart may never become available: its pods that
// are not ready are not waited for, and its ready pods are evicted once its restart stalls.
func podToEvict(now time.Time, item *workloadState, pods []*corev1.Pod) *corev1.Pod {
	unready, ready, comes := item.sortPods(pods)
	if comes && item.updatesManually() && !item.wasUnavailable() && !item.isStalled(now) {
		return nil
	}
	byOrdinal := func(a, b *corev1.Pod) int { return strings.Compare(ordinalKey(a.Name), ordinalKey(b.Name)) }
	missing := len(pods) < int(item.rollout.wanted) && !item.wasUnavailable()
	switch {
	case len(unready) > 0 && (!missing || item.kind == kindStatefulSet):
		return slices.MinFunc(unready, byOrdinal)
	case len(ready) > 0 && !missing && item.evictsReady(now, pods):
		return slices.MaxFunc(ready, byOrdinal)
	}
	return nil
}

// sortPods returns the outdated pods that may be evicted, those that are not ready apart from the
// ready ones. comes is whether another pod, which is up to date, is not ready yet.
func (i *workloadState) sortPods(pods []*corev1.Pod) (unready, ready []*corev1.Pod, comes bool) {
	revision := i.orderedRevision()
	for _, pod := range pods {
		starts := newPodStarts(pod)
		switch old := len(starts.pendingChanges(i.changes)) > 0; {
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

// evictsReady reports whether ready pods may be evicted. The progress of the pods counts as they are
// now: the workload's status, and what is cached of its pods, may not show the last eviction yet.
func (i *workloadState) evictsReady(now time.Time, pods []*corev1.Pod) bool {
	stalled := i.isStalled(now) && now.Sub(newPodStarts(pods...).lastProgress) > i.progressTimeout
	return i.updatesManually() && (i.rollout.available || (i.wasUnavailable() && stalled))
}

func isReady(pod *corev1.Pod) bool {
	return condition(pod, corev1.PodReady).Status == corev1.ConditionTrue
}

// ordinalKey returns a key that sorts the pods of a StatefulSet by their ordinals.
func ordinalKey(pod string) string {
	index := strings.LastIndexByte(pod, '-') + 1
	return fmt.Sprintf("%s%20s", pod[:index], pod[index:])
}

// joinMessages joins the messages of the changes, each once.
func joinMessages(all []change) string {
	var messages []string
	for _, change := range all {
		if !slices.Contains(messages, change.message) {
			messages = append(messages, change.message)
		}
	}
	return strings.Join(messages, "; ")
}
