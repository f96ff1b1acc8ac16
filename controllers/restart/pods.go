package restart

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// memory is what was found out about the pods of workloads, as long as these do not change: pods are in no cache.
type memory map[types.UID]*remembered

type remembered struct {
	version string
	starts
}

// again is how long a workload is not restarted again for the same change: something undoes what we do.
const again = time.Hour

// many workloads of a namespace are looked at together: each list of pods by a selector goes through all pods of the namespace.
const many = 4

// look finds out which changes the pods of workloads do not know of.
func (r *Reconciler) look(ctx context.Context, now time.Time, items []*item) (failed []error) {
	strangers := map[string][]*item{}
	for _, one := range items {
		if one.goesOn(now) {
			continue
		}
		known := r.pods[one.GetUID()]
		if known == nil || known.version != one.GetResourceVersion() || known.over(now) || one.polled() {
			strangers[one.GetNamespace()] = append(strangers[one.GetNamespace()], one)
			continue
		}
		r.know(now, one)
	}
	for namespace, some := range strangers {
		if err := r.meet(ctx, now, namespace, some); err != nil {
			failed = append(failed, fmt.Errorf("list the pods of namespace %s: %w", namespace, err))
			for _, one := range some {
				// Whether they hold something old is not known.
				r.failed(now, one, "its pods cannot be listed", err, retryFailed)
				one.unknown = one.changes
			}
			continue
		}
		for _, one := range some {
			r.know(now, one)
		}
	}
	return failed
}

// know is what is remembered of a workload.
func (r *Reconciler) know(now time.Time, one *item) {
	known := r.pods[one.GetUID()]
	one.unknown, one.progress = known.unknown(one.changes), later(one.progress, known.progress)
	one.expires, one.expiring = known.firstExpiry(one.unknown)
	one.workload, one.away = one.without(known.away), known.away
	one.unreadyOld = len(known.unreadyUnknown(one.changes)) > 0
	switch {
	case len(one.unknown) == 0 || one.turn != nil:
		one.rolls = time.Time{}
	case one.rollout.rolling && one.rolls.IsZero():
		one.rolls = now
	}
	if one.retries = later(one.retries, known.until); one.turn == nil && len(one.unknown) > 0 && now.Sub(one.began) < again && !last(one.unknown).After(one.restarted) {
		one.retries = one.began.Add(again)
		one.refusal = "it was restarted for this already, and its pods hold what they held before: its owner undid the restart; it is tried again at " +
			one.began.Add(again).UTC().Format(time.RFC3339)
	}
}

// meet looks at the pods of some workloads of a namespace.
func (r *Reconciler) meet(ctx context.Context, now time.Time, namespace string, items []*item) error {
	found := map[string]*remembered{}
	for _, one := range items {
		found[one.owner()] = &remembered{version: one.GetResourceVersion(), starts: newStarts()}
	}
	look := func(pod *corev1.Pod) {
		if met := found[ownerOf(pod)]; met != nil {
			met.look(now, pod)
		}
	}
	if len(items) >= many {
		if err := r.eachPod(ctx, look, client.InNamespace(namespace)); err != nil {
			return err
		}
	} else {
		for _, one := range items {
			if err := r.eachPodOf(ctx, one.workload, look); err != nil {
				return err
			}
		}
	}
	for _, one := range items {
		r.pods[one.GetUID()] = found[one.owner()]
	}
	return nil
}

// eachPodOf calls a function with each pod of a workload.
func (r *Reconciler) eachPodOf(ctx context.Context, w *workload, do func(*corev1.Pod)) error {
	selector, err := metav1.LabelSelectorAsSelector(w.selector)
	if err != nil {
		return err
	}
	return r.eachPod(ctx, func(pod *corev1.Pod) {
		if ownerOf(pod) == w.owner() {
			do(pod)
		}
	}, client.InNamespace(w.GetNamespace()), client.MatchingLabelsSelector{Selector: selector})
}

// page is how many pods are held at once.
const page = 500

// eachPod calls a function with each pod that has not ended.
func (r *Reconciler) eachPod(ctx context.Context, do func(*corev1.Pod), options ...client.ListOption) error {
	for next := ""; ; {
		var pods corev1.PodList
		if err := r.Live.List(ctx, &pods, append(slices.Clone(options), client.Limit(page), client.Continue(next))...); err != nil {
			return err
		}
		for i := range pods.Items {
			pod := &pods.Items[i]
			if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
				do(pod)
			}
		}
		if next = pods.Continue; next == "" {
			return nil
		}
	}
}

// owner is by what its pods know a workload.
func (w *workload) owner() string {
	if w.named {
		return w.kind + "/" + w.GetName()
	}
	return string(w.GetUID())
}

// ownerOf is the workload of a pod, as owner says it; empty for one without.
func ownerOf(pod *corev1.Pod) string {
	controller := metav1.GetControllerOfNoCopy(pod)
	switch {
	case controller == nil:
		return ""
	case controller.Kind == "ReplicaSet" && pod.Labels[labelRolloutHash] != "":
		return kindRollout + "/" + strings.TrimSuffix(controller.Name, "-"+pod.Labels[labelRolloutHash])
	case controller.Kind == "ReplicationController" && pod.Labels[labelDeploymentConfig] != "":
		return kindDeploymentConfig + "/" + pod.Labels[labelDeploymentConfig]
	case controller.Kind == "ReplicaSet":
		return kindDeployment + "/" + strings.TrimSuffix(controller.Name, "-"+pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey])
	}
	return string(controller.UID)
}

// forget what is known of workloads that are gone.
func (r *Reconciler) forget(present []*workload) {
	there, inhabited := map[types.UID]bool{}, map[string]bool{}
	for _, w := range present {
		there[w.GetUID()], inhabited[w.GetNamespace()] = true, true
	}
	for uid := range r.pods {
		if !there[uid] {
			delete(r.pods, uid)
		}
	}
	for uid := range r.ledger {
		if !there[uid] {
			delete(r.ledger, uid)
		}
	}
	for namespace := range r.tenants {
		if !inhabited[namespace] {
			delete(r.tenants, namespace)
		}
	}
}
