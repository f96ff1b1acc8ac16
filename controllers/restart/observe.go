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

// observed is what was found.
type observed struct {
	groups []group
	// changedAt is when the bundle of each ServiceCA last changed that the workloads were looked at for.
	changedAt map[string]time.Time
	// failed are the workloads that could not be looked at. They hold up nobody but the rotation of their ServiceCA.
	failed []error
}

// group are the workloads of one policy.
type group struct {
	policy *v1alpha1.ServingCertPolicy
	items  []*item
	// restarted is when the last of them was, as far as their stamps tell.
	restarted time.Time
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
	var unseen []*item
	for _, w := range workloads {
		policy := rulings.of(w)
		if under := w.GetLabels()[v1alpha1.LabelRestarting]; under == "" && !w.stamp().After(now) {
			items[policy.Name].restarted = later(items[policy.Name].restarted, w.stamp())
		}
		found, err := reads.concerning(ctx, w, policy)
		if err != nil {
			seen.failed = append(seen.failed, fmt.Errorf("look at %s: %w", w, err))
		} else if one := r.item(now, w, policy, found); one != nil {
			items[policy.Name].items, unseen = append(items[policy.Name].items, one), append(unseen, one)
		}
	}
	seen.failed = append(seen.failed, r.look(ctx, now, unseen)...)
	for _, found := range items {
		seen.groups = append(seen.groups, *found)
	}
	r.forget(workloads)
	return seen, nil
}

// item is a workload with the changes that its pods may not know of; nil for one that nothing concerns.
func (r *Reconciler) item(now time.Time, w *workload, policy *v1alpha1.ServingCertPolicy, found []change) *item {
	one := &item{workload: w, changes: found, entry: r.ledger.of(now, w, now.Before(r.began.Add(skew)))}
	one.abandoned = policy.Spec.Restart.Strategy != v1alpha1.RollingRestart || one.optsOut()
	marked := one.turn != nil
	if !w.rollout.byHand {
		// What it was restarted for, is settled; its pods are looked at for what came later.
		one.changes = slices.DeleteFunc(one.changes, func(c change) bool { return !marked && !c.at.After(w.stamp()) })
	}
	if w.never != "" {
		// Jobs come and go: the pods of those that were made after a change need not be listed.
		one.changes = slices.DeleteFunc(one.changes, func(c change) bool { return !w.GetCreationTimestamp().Time.Before(c.before) })
	}
	if len(one.changes) == 0 && !marked {
		return nil
	}
	tenant := r.tenants[w.GetNamespace()]
	one.served, one.progress = tenant.served, w.rollout.progress
	one.refusal = cmp.Or(w.never, one.entry.refusal.of(w, now), tenant.refusal.of(w, now))
	one.retries = later(one.entry.refusal.until, tenant.refusal.until)
	r.ledger[w.GetUID()] = one.entry
	return one
}

// workloads are all Deployments, StatefulSets, DaemonSets, and those of other kinds.
func (r *Reconciler) workloads(ctx context.Context) ([]*workload, error) {
	found, err := r.otherWorkloads(ctx)
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
		found = append(found, ofDeployment(&deployments.Items[i]))
	}
	for i := range sets.Items {
		found = append(found, ofStatefulSet(&sets.Items[i]))
	}
	for i := range daemons.Items {
		found = append(found, ofDaemonSet(&daemons.Items[i], 0))
	}
	return slices.DeleteFunc(found, func(w *workload) bool { return w.GetDeletionTimestamp() != nil }), nil
}

func (r *Reconciler) changes(ctx context.Context) (changes, error) {
	read := changes{View: r.View, cas: map[string]*v1alpha1.ServiceCA{}, mounted: r.Mounted, filled: r.Filled}
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
