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

// podCache holds, by the UID of the workload, what is known of its pods for as long as the workload
// does not change. The pods themselves are in no cache.
type podCache map[types.UID]*cachedStarts

type cachedStarts struct {
	version string
	podStarts
}

// retryInterval is how long a workload is not restarted again for the same change when its pods are
// still outdated: another writer undoes the restart.
const retryInterval = time.Hour

// listThreshold is the number of workloads of a namespace from which all its pods are listed at
// once: each list by selector goes through all pods of the namespace anyway.
const listThreshold = 4

// refresh determines which changes the pods of the workloads do not know of.
func (r *Reconciler) refresh(ctx context.Context, now time.Time, items []*workloadState) (failed []error) {
	uncached := map[string][]*workloadState{}
	for _, item := range items {
		if item.isRollingOut(now) {
			continue
		}
		cached := r.pods[item.GetUID()]
		if cached == nil || cached.version != item.GetResourceVersion() || cached.kubeletOverdue(now) || item.polled() {
			uncached[item.GetNamespace()] = append(uncached[item.GetNamespace()], item)
			continue
		}
		r.applyCached(now, item)
	}
	for namespace, items := range uncached {
		if err := r.listPods(ctx, now, namespace, items); err != nil {
			failed = append(failed, fmt.Errorf("list the pods of namespace %s: %w", namespace, err))
			for _, item := range items {
				// Whether these pods are outdated is unknown.
				r.recordFailure(now, item, "its pods cannot be listed", err, retryFailed)
				item.pendingChanges = item.changes
			}
			continue
		}
		for _, item := range items {
			r.applyCached(now, item)
		}
	}
	return failed
}

// applyCached copies the cached state of its pods to a workload.
func (r *Reconciler) applyCached(now time.Time, item *workloadState) {
	cached := r.pods[item.GetUID()]
	item.pendingChanges, item.progress = cached.pendingChanges(item.changes), latest(item.progress, cached.lastProgress)
	item.expires, item.expiring = cached.firstExpiry(item.pendingChanges)
	item.workload, item.unreachable = item.withoutUnreachable(cached.unreachable), cached.unreachable
	item.unreadyOutdated = len(cached.unreadyUnknown(item.changes)) > 0
	switch {
	case len(item.pendingChanges) == 0 || item.ongoing != nil:
		item.rollingSince = time.Time{}
	case item.rollout.rolling && item.rollingSince.IsZero():
		item.rollingSince = now
	}
	if item.recheckAt = latest(item.recheckAt, cached.kubeletDeadline); item.ongoing == nil && len(item.pendingChanges) > 0 && now.Sub(item.restartedAt) < retryInterval && !item.hasNewChange() {
		item.recheckAt = item.restartedAt.Add(retryInterval)
		item.refusal = "it was restarted for this already, and its pods hold what they held before: its owner undid the restart; it is tried again at " +
			item.restartedAt.Add(retryInterval).UTC().Format(time.RFC3339)
		if latestChange(item.pendingChanges).After(item.restartedFor) {
			item.refusal = "it was restarted for a new bundle lately, and the object is filled anew: find out what replaces the object as a whole; it is tried again at " +
				item.recheckAt.UTC().Format(time.RFC3339)
		}
	}
}

// hasNewChange reports whether something changed that the workload was not restarted for. An object
// that is filled again and again, because something replaces it as a whole, does not count.
func (i *workloadState) hasNewChange() bool {
	return slices.ContainsFunc(i.pendingChanges, func(c change) bool {
		return c.at.After(i.restartedFor) && (!c.filled || !i.restartedFilled)
	})
}

// listPods lists the pods of some workloads of a namespace and caches their starts.
func (r *Reconciler) listPods(ctx context.Context, now time.Time, namespace string, items []*workloadState) error {
	starts := map[string]*cachedStarts{}
	for _, item := range items {
		starts[item.owner()] = &cachedStarts{version: item.GetResourceVersion(), podStarts: newPodStarts()}
	}
	addPod := func(pod *corev1.Pod) {
		if owner := starts[ownerOf(pod)]; owner != nil {
			owner.add(now, pod)
		}
	}
	if len(items) >= listThreshold {
		if err := r.eachPod(ctx, addPod, client.InNamespace(namespace)); err != nil {
			return err
		}
	} else {
		for _, item := range items {
			if err := r.eachPodOf(ctx, item.workload, addPod); err != nil {
				return err
			}
		}
	}
	for _, item := range items {
		r.pods[item.GetUID()] = starts[item.owner()]
	}
	return nil
}

// eachPodOf calls do with each pod of a workload.
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

// podsPerPage is how many pods are held in memory at once.
const podsPerPage = 500

// eachPod calls do with each pod that has not finished.
func (r *Reconciler) eachPod(ctx context.Context, do func(*corev1.Pod), options ...client.ListOption) error {
	for next := ""; ; {
		var pods corev1.PodList
		if err := r.Live.List(ctx, &pods, append(slices.Clone(options), client.Limit(podsPerPage), client.Continue(next))...); err != nil {
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

// owner returns the identity by which the pods of a workload refer to it.
func (w *workload) owner() string {
	if w.named {
		return w.kind + "/" + w.GetName()
	}
	return string(w.GetUID())
}

// ownerOf returns the identity of the workload of a pod, in the form of owner; empty for a pod
// without a controller.
func ownerOf(pod *corev1.Pod) string {
	controller := metav1.GetControllerOfNoCopy(pod)
	switch {
	case controller == nil:
		return ""
	case controller.Kind == "ReplicaSet" && pod.Labels[labelRolloutHash] != "":
		return kindRollout + "/" + strings.TrimSuffix(controller.Name, "-"+pod.Labels[labelRolloutHash])
	case controller.Kind == "ReplicationController" && pod.Labels[labelDeploymentConfig] != "":
		return kindDeploymentConfig + "/" + pod.Labels[labelDeploymentConfig]
	case controller.Kind == "ReplicaSet" && pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey] != "":
		return kindDeployment + "/" + strings.TrimSuffix(controller.Name, "-"+pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey])
	}
	return string(controller.UID)
}

// forget drops what is stored about workloads that no longer exist.
func (r *Reconciler) forget(present []*workload) {
	exists, namespaces := map[types.UID]bool{}, map[string]bool{}
	for _, w := range present {
		exists[w.GetUID()], namespaces[w.GetNamespace()] = true, true
	}
	for uid := range r.pods {
		if !exists[uid] {
			delete(r.pods, uid)
		}
	}
	for uid := range r.records {
		if !exists[uid] {
			delete(r.records, uid)
		}
	}
	for namespace := range r.namespaces {
		if !namespaces[namespace] {
			delete(r.namespaces, namespace)
		}
	}
}
