package restart

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// observed is the input of an evaluation.
type observed struct {
	groups []group
	// changedAt is when the bundle of each ServiceCA, by name, last changed at the time of this
	// evaluation.
	changedAt map[string]time.Time
	// failed lists the workloads that could not be evaluated. They hold up only the rotation of
	// their ServiceCA.
	failed []error
}

// group is the workloads of one policy.
type group struct {
	policy *v1alpha1.ServingCertPolicy
	items  []*workloadState
	// lastRestart is when the last of them was restarted, as far as their stamps show.
	lastRestart time.Time
}

// noPolicy stands for the policy of the workloads to which no policy applies any more.
var noPolicy = &v1alpha1.ServingCertPolicy{}

// observe returns the workloads that read a certificate or a bundle of the operator, grouped by
// their policy.
func (r *Reconciler) observe(ctx context.Context, now time.Time) (observed, error) {
	observed := observed{changedAt: map[string]time.Time{}}
	workloads, err := r.workloads(ctx)
	if err != nil {
		return observed, err
	}
	policies, err := r.newPolicyResolver(ctx)
	if err != nil {
		return observed, err
	}
	reader, err := r.newChangeReader(ctx)
	if err != nil {
		return observed, err
	}
	for name, ca := range reader.cas {
		observed.changedAt[name] = changedAt(ca)
	}
	groups := map[string]*group{"": {policy: noPolicy}}
	for i := range policies.policies {
		groups[policies.policies[i].Name] = &group{policy: &policies.policies[i]}
	}
	var uncached []*workloadState
	for _, w := range workloads {
		policy := policies.policyFor(w)
		if mark := w.GetLabels()[v1alpha1.LabelRestarting]; mark == "" && !w.stamp().After(now) {
			groups[policy.Name].lastRestart = latest(groups[policy.Name].lastRestart, w.stamp())
		}
		group, err := reader.affecting(ctx, w, policy)
		if err != nil {
			observed.failed = append(observed.failed, fmt.Errorf("look at %s: %w", w, err))
		} else if item := r.newWorkloadState(now, w, policy, group); item != nil {
			groups[policy.Name].items, uncached = append(groups[policy.Name].items, item), append(uncached, item)
		}
	}
	observed.failed = append(observed.failed, r.refresh(ctx, now, uncached)...)
	for _, group := range groups {
		observed.groups = append(observed.groups, *group)
	}
	r.forget(workloads)
	return observed, nil
}

// newWorkloadState returns a workload with the changes that its pods may not know of; nil if no
// change concerns it.
func (r *Reconciler) newWorkloadState(now time.Time, w *workload, policy *v1alpha1.ServingCertPolicy, changes []change) *workloadState {
	item := &workloadState{workload: w, changes: changes, restartRecord: r.records.get(now, w, now.Before(r.startedAt.Add(skew)))}
	item.unmanaged = policy.Spec.Restart.Strategy != v1alpha1.RollingRestart || item.optsOut()
	marked := item.ongoing != nil
	if !w.rollout.manualUpdate {
		// Changes before its last restart are settled. Its pods are checked only for later changes.
		item.changes = slices.DeleteFunc(item.changes, func(c change) bool { return !marked && !c.at.After(w.stamp()) })
	}
	if w.never != "" {
		// Jobs come and go: the pods of a Job that was created after a change need not be listed.
		item.changes = slices.DeleteFunc(item.changes, func(c change) bool { return !w.GetCreationTimestamp().Time.Before(c.startedBefore) })
	}
	if len(item.changes) == 0 && !marked {
		return nil
	}
	state := r.namespaces[w.GetNamespace()]
	item.lastTurn, item.progress = state.lastTurn, w.rollout.progress
	item.refusal = cmp.Or(w.never, item.restartRecord.refusal.of(w, now), state.refusal.of(w, now))
	item.recheckAt = latest(item.restartRecord.refusal.until, state.refusal.until)
	r.records[w.GetUID()] = item.restartRecord
	return item
}

// workloads returns all Deployments, StatefulSets and DaemonSets, and the workloads of other kinds,
// without those that are being deleted.
func (r *Reconciler) workloads(ctx context.Context) ([]*workload, error) {
	workloads, err := r.otherWorkloads(ctx)
	if err != nil {
		return nil, err
	}
	var deployments appsv1.DeploymentList
	var sets appsv1.StatefulSetList
	var daemons appsv1.DaemonSetList
	for _, list := range []client.ObjectList{&deployments, &sets, &daemons} {
		if err := r.Client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return nil, err
		}
	}
	for i := range deployments.Items {
		workloads = append(workloads, ofDeployment(&deployments.Items[i]))
	}
	for i := range sets.Items {
		workloads = append(workloads, ofStatefulSet(&sets.Items[i]))
	}
	for i := range daemons.Items {
		workloads = append(workloads, ofDaemonSet(&daemons.Items[i], 0))
	}
	return slices.DeleteFunc(workloads, func(w *workload) bool { return w.GetDeletionTimestamp() != nil }), nil
}

func (r *Reconciler) newChangeReader(ctx context.Context) (changeReader, error) {
	reader := changeReader{View: r.View, cas: map[string]*v1alpha1.ServiceCA{}, mountedServiceCA: r.MountedServiceCA, filled: r.Filled}
	var cas v1alpha1.ServiceCAList
	if err := r.View.List(ctx, &cas, client.UnsafeDisableDeepCopy); err != nil {
		return reader, err
	}
	for i := range cas.Items {
		reader.cas[cas.Items[i].Name] = &cas.Items[i]
	}
	var err error
	reader.claim, err = r.View.Claims(ctx)
	return reader, err
}
