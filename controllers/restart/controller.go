// Package restart restarts the workloads whose pods hold an outdated certificate or an outdated
// trust bundle, if a policy asks for that.
//
// What a pod holds follows from when its containers started. That is stored nowhere, and no change
// is missed while the operator is down.
package restart

import (
	"cmp"
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/debounce"
	"github.com/servingcert/operator/controllers/servingcert"
)

// allWorkloads is the only request: the order of restarts is decided over all workloads together.
var allWorkloads = reconcile.Request{NamespacedName: types.NamespacedName{Name: "workloads"}}

// Reconciler restarts workloads.
type Reconciler struct {
	// Client writes workloads and reads its own writes: a workload that was just restarted is never
	// mistaken for one that is pending.
	Client client.Client
	// View reads from the caches the objects that workloads read.
	View servingcert.View
	// Live lists and evicts pods.
	Live     client.Client
	Recorder events.EventRecorder
	Clock    clock.PassiveClock
	// Kinds are further kinds of workloads, besides those of apps/v1 and the built-in ones.
	Kinds []schema.GroupVersionResource
	// MountedServiceCA returns the ServiceCA whose bundle a ConfigMap or a Secret holds; kind says
	// which of the two it is. It returns "" if the object holds no bundle.
	MountedServiceCA func(ctx context.Context, kind string, key client.ObjectKey) (string, error)
	// Filled returns since when, and under which keys, the object has held that bundle.
	Filled func(ctx context.Context, kind string, key client.ObjectKey) (injector.Filled, error)

	// debouncer coalesces watch events before the workloads are evaluated.
	debouncer *debounce.Debouncer
	// startedAt is when the workloads were first evaluated.
	startedAt  time.Time
	pods       podCache
	records    restartRecords
	namespaces map[string]namespaceState
	findings   *findings
	others     *others
}

// New returns a Reconciler with the fields of r and empty internal state.
func New(r Reconciler) *Reconciler {
	r.debouncer, r.pods, r.records, r.namespaces, r.findings = &debounce.Debouncer{}, podCache{}, restartRecords{}, map[string]namespaceState{}, newFindings()
	return &r
}

// Reconcile evaluates every workload, restarts those whose turn it is, and reports the result. A
// failure of one workload is reported on that workload and retried. It is not returned as an error,
// because the backoff would delay all workloads.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	now := r.Clock.Now()
	r.startedAt = cmp.Or(r.startedAt, now)
	observed, err := r.observe(ctx, now)
	r.debouncer.RecordDuration(r.Clock.Since(now))
	if err != nil {
		return ctrl.Result{}, err
	}
	plans, requeueAfter := r.act(ctx, now, observed.groups)
	for _, err := range observed.failed {
		ctrl.LoggerFrom(ctx).Error(err, "A workload could not be looked at")
		requeueAfter = min(requeueAfter, retryFailed)
	}
	r.findings.publish(ctx, plans, observed.changedAt, len(observed.failed) == 0)
	return ctrl.Result{RequeueAfter: max(requeueAfter, time.Second)}, nil
}

// act executes what is due now. It returns the plans, and after how long the clock alone may change
// something.
func (r *Reconciler) act(ctx context.Context, now time.Time, groups []group) (plans []*plan, requeueAfter time.Duration) {
	var attempts []apiCall
	for _, group := range groups {
		p := planFor(now, group.policy, group.items)
		// A predecessor of this process that died could not report when it completed a restart: the
		// stamps give a lower bound.
		r.findings.completedAt(group.policy.Name, group.lastRestart)
		plans, attempts = append(plans, p), append(attempts, r.execute(ctx, now, p)...)
	}
	runConcurrently(ctx, attempts)
	requeueAfter = maxRequeueInterval
	for _, p := range plans {
		requeueAfter = min(requeueAfter, p.recheckAt.Sub(now))
	}
	return plans, requeueAfter
}

// execute returns the API calls that the plan consists of.
func (r *Reconciler) execute(ctx context.Context, now time.Time, p *plan) (attempts []apiCall) {
	for _, item := range p.finish {
		attempts = append(attempts, r.finish(now, p, item))
	}
	for _, item := range p.evict {
		attempts = append(attempts, r.evict(now, p, item))
	}
	for _, item := range p.restamp {
		attempts = append(attempts, r.restamp(now, p, item))
	}
	for _, item := range p.begin {
		if begin := r.begin(ctx, now, p, item); begin != nil {
			attempts = append(attempts, begin)
		}
	}
	return attempts
}

// begin restarts a workload, unless its pods have been replaced in the meantime. It returns nil if
// there is nothing to write.
func (r *Reconciler) begin(ctx context.Context, now time.Time, p *plan, item *workloadState) apiCall {
	before, _ := item.state(now)
	if err := r.listPods(ctx, now, item.GetNamespace(), []*workloadState{item}); err != nil {
		r.recordFailure(now, item, "its pods cannot be listed", err, retryFailed)
		p.move(item, before, blocked)
		return nil
	}
	r.applyCached(now, item)
	if len(item.pendingChanges) == 0 {
		p.move(item, before, current)
		return nil
	}
	// Truncate to seconds, the precision of the mark and the stamp: otherwise the restart would
	// seem to begin after its own stamp, and so to be undone.
	next := ongoingRestart{since: now.Truncate(time.Second), evicted: !item.rollout.manualUpdate && (item.undone >= maxUndone || item.rollout.unavailableBudgetUsed)}
	next.retried = before == failed && !item.ongoing.unavailable && p.policy.Spec.Restart.OnFailure != v1alpha1.RestartContinue
	next.unavailable = !item.rollout.available && !next.retried
	return r.writeRestart(now, p, item, next, func(done bool) {
		if !done {
			p.refused(item, before)
			return
		}
		item.restartedFor, item.restartedAt = latestChange(item.pendingChanges), now
		item.restartedFilled = slices.ContainsFunc(item.pendingChanges, func(c change) bool { return c.filled })
		p.move(item, before, restarting)
		r.Recorder.Eventf(item.Object, nil, corev1.EventTypeNormal, "Restarted", "Restart", "policy %s restarts it: %s", p.policy.Name, joinMessages(item.pendingChanges))
	})
}

// restamp repeats a restart that was undone, and evicts the pods instead if it was undone too
// often.
func (r *Reconciler) restamp(now time.Time, p *plan, item *workloadState) apiCall {
	next := *item.ongoing
	next.evicted = item.undone >= maxUndone
	return r.writeRestart(now, p, item, next, func(done bool) {
		if done && next.evicted {
			r.Recorder.Eventf(item.Object, nil, corev1.EventTypeWarning, "RestartUndone", "Restart",
				"the annotation %s on its pod template was removed %d times: its pods are evicted instead, as far as PodDisruptionBudgets allow",
				v1alpha1.AnnotationRestartedAt, item.undone)
		}
	})
}

// writeRestart writes the stamp and the mark that begin or continue a restart. It passes to note
// whether the write succeeded.
func (r *Reconciler) writeRestart(now time.Time, p *plan, item *workloadState, next ongoingRestart, note func(done bool)) apiCall {
	stampTime, stamp := time.Time{}, item.template.Annotations[v1alpha1.AnnotationRestartedAt]
	if !item.rollout.manualUpdate && !next.evicted {
		stampTime = latest(now, latestChange(item.pendingChanges)).UTC().Truncate(time.Second)
		stamp = stampTime.Format(time.RFC3339)
	}
	return r.write(item, stamp, next.mark(), func(err error) {
		done := r.recordWrite(now, item, "its restart was refused", err)
		if done {
			item.begin(next, stampTime, now)
		} else {
			p.recheckBy(now)
		}
		note(done)
	})
}

// finish removes the mark of a restart whose pods have all been replaced. If another writer has
// removed it already, nothing is written.
func (r *Reconciler) finish(now time.Time, p *plan, item *workloadState) apiCall {
	ended := func() {
		item.end()
		r.findings.completedAt(p.policy.Name, now)
		if len(item.unreachable) > 0 {
			r.Recorder.Eventf(item.Object, nil, corev1.EventTypeWarning, "RestartIncomplete", "Restart", "its restart is complete; %s", item.withUnreachable(""))
		}
	}
	if _, marked := item.GetLabels()[v1alpha1.LabelRestarting]; !marked {
		return func(context.Context) func() { return ended }
	}
	return r.write(item, item.template.Annotations[v1alpha1.AnnotationRestartedAt], "", func(err error) {
		if r.recordWrite(now, item, "the label of its restart cannot be removed", err) {
			ended()
		} else {
			p.recheckBy(now.Add(retryFailed))
		}
	})
}
