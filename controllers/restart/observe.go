package restart

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// observed is what was found.
type observed struct {
	groups []group
	// changedAt is when the bundle of each ServiceCA last changed that the workloads were looked at for.
	changedAt map[string]time.Time
	// failed are the workloads that could not be looked at. They are in nobody's way.
	failed []error
}

// group are the workloads of one policy.
type group struct {
	policy *v1alpha1.ServingCertPolicy
	items  []*item
}

// noPolicy rules the workloads that no policy rules any more.
var noPolicy = &v1alpha1.ServingCertPolicy{}

// observe finds the workloads that read something of ours, by the policy that rules them.
func (r *Reconciler) observe(ctx context.Context, now time.Time) (observed, error) {
	seen := observed{changedAt: map[string]time.Time{}}
	workloads, err := r.workloads(ctx)
	if err != nil {
		return seen, err
	}
	rulings, err := r.rulings(ctx)
	if err != nil {
		return seen, err
	}
	reads, err := r.changes(ctx)
	if err != nil {
		return seen, err
	}
	for name, ca := range reads.cas {
		seen.changedAt[name] = changedAt(ca)
	}
	items := map[string]*group{"": {policy: noPolicy}}
	for i := range rulings.policies {
		items[rulings.policies[i].Name] = &group{policy: &rulings.policies[i]}
	}
	for _, w := range workloads {
		policy := rulings.of(w)
		one, err := r.item(ctx, now, w, policy, reads)
		if err != nil {
			seen.failed = append(seen.failed, fmt.Errorf("look at %s: %w", w, err))
		} else if one != nil {
			items[policy.Name].items = append(items[policy.Name].items, one)
		}
	}
	for _, found := range items {
		seen.groups = append(seen.groups, *found)
	}
	r.forget(workloads)
	return seen, nil
}

// item is a workload with what it does not know; nil for one that nothing concerns.
func (r *Reconciler) item(ctx context.Context, now time.Time, w *workload, policy *v1alpha1.ServingCertPolicy, reads changes) (*item, error) {
	one := &item{workload: w, refusal: r.refusals.of(w, now)}
	one.abandoned = policy.Spec.Restart.Strategy != v1alpha1.RollingRestart || one.optsOut()
	_, _, marked := one.marked()
	found, err := reads.concerning(ctx, w, policy)
	if err != nil || (len(found) == 0 && !marked) {
		return nil, err
	}
	one.changes = found
	if !w.rollout.byHand {
		// What it was restarted for, is settled; its pods are looked at for what came later.
		one.changes = slices.DeleteFunc(one.changes, func(c change) bool { return !marked && !c.at.After(w.stamp()) })
	}
	if len(one.changes) == 0 && !marked {
		return nil, nil
	}
	if one.progress = w.rollout.progress; marked && w.kind == kindDeployment {
		// Its controller tells how it goes.
		return one, nil
	}
	return one, r.know(ctx, one, false)
}

// workloads are all Deployments, StatefulSets and DaemonSets.
func (r *Reconciler) workloads(ctx context.Context) ([]*workload, error) {
	var found []*workload
	var deployments appsv1.DeploymentList
	var sets appsv1.StatefulSetList
	var daemons appsv1.DaemonSetList
	for _, list := range []client.ObjectList{&deployments, &sets, &daemons} {
		if err := r.Client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return nil, err
		}
	}
	for i := range deployments.Items {
		found = append(found, ofDeployment(&deployments.Items[i]))
	}
	for i := range sets.Items {
		found = append(found, ofStatefulSet(&sets.Items[i]))
	}
	for i := range daemons.Items {
		found = append(found, ofDaemonSet(&daemons.Items[i]))
	}
	return slices.DeleteFunc(found, func(w *workload) bool { return w.GetDeletionTimestamp() != nil }), nil
}

func (r *Reconciler) changes(ctx context.Context) (changes, error) {
	read := changes{View: r.View, cas: map[string]*v1alpha1.ServiceCA{}, targets: r.Targets}
	var cas v1alpha1.ServiceCAList
	if err := r.View.List(ctx, &cas, client.UnsafeDisableDeepCopy); err != nil {
		return read, err
	}
	for i := range cas.Items {
		read.cas[cas.Items[i].Name] = &cas.Items[i]
	}
	var err error
	read.claim, err = r.View.Claims(ctx)
	return read, err
}

// memory is what was found out about the pods of workloads, as long as these do not change: pods are in no cache.
type memory map[types.UID]remembered

type remembered struct {
	version string
	starts
}

// know finds out which changes the pods of a workload do not know of.
func (r *Reconciler) know(ctx context.Context, one *item, anew bool) error {
	known, ok := r.pods[one.GetUID()]
	if anew || !ok || known.version != one.GetResourceVersion() {
		pods, err := r.list(ctx, one.workload)
		if err != nil {
			return err
		}
		known = remembered{one.GetResourceVersion(), newStarts(pods...)}
		r.pods[one.GetUID()] = known
	}
	one.unknown, one.progress = known.unknown(one.changes), later(one.progress, known.progress)
	return nil
}

// forget what is known of workloads that are gone.
func (r *Reconciler) forget(present []*workload) {
	there := map[types.UID]bool{}
	for _, w := range present {
		there[w.GetUID()] = true
	}
	for uid := range r.pods {
		if !there[uid] {
			delete(r.pods, uid)
		}
	}
	for uid := range r.refusals {
		if !there[uid] {
			delete(r.refusals, uid)
		}
	}
}

// list are the pods of a workload that run, or are going to.
func (r *Reconciler) list(ctx context.Context, w *workload) ([]corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(w.selector)
	if err != nil {
		return nil, err
	}
	var pods corev1.PodList
	err = r.Live.List(ctx, &pods, client.InNamespace(w.GetNamespace()), client.MatchingLabelsSelector{Selector: selector})
	return slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool {
		return !w.owns(&pod) || pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	}), err
}
