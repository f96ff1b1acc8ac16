// Package restart restarts the workloads whose pods hold an old certificate or an old trust bundle, where a policy wants it.
//
// What a pod holds follows from when its containers started: nothing is remembered, and nothing is lost while nobody looks.
package restart

import (
	"cmp"
	"context"
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
	"github.com/servingcert/operator/controllers/internal/gather"
	"github.com/servingcert/operator/controllers/servingcert"
	"github.com/servingcert/operator/controllers/trust"
)

// everyWorkload is the one request: whose turn it is, is decided among all.
var everyWorkload = reconcile.Request{NamespacedName: types.NamespacedName{Name: "workloads"}}

// Reconciler restarts workloads.
type Reconciler struct {
	// Client writes to workloads, and reads what it wrote: it never takes a workload that it has just restarted for one that waits.
	Client client.Client
	// View reads from the caches what workloads read.
	View servingcert.View
	// Live lists pods, and evicts them.
	Live     client.Client
	Recorder events.EventRecorder
	Clock    clock.PassiveClock
	// Kinds are further kinds of workloads, besides those of apps/v1 and the built-in ones.
	Kinds []schema.GroupVersionResource
	// Mounted is the ServiceCA whose bundle stands in a ConfigMap or a Secret, by their kind; empty where none does.
	Mounted func(ctx context.Context, kind string, key client.ObjectKey) (string, error)
	// Filled is since when that bundle has been there.
	Filled func(ctx context.Context, kind string, key client.ObjectKey) (trust.Filled, error)

	// seen is what gathers before the workloads are looked at.
	seen *gather.Changes
	// began is when the workloads were first looked at.
	began    time.Time
	pods     memory
	ledger   ledger
	tenants  map[string]tenant
	findings *findings
	others   *others
}

// New completes a reconciler.
func New(r Reconciler) *Reconciler {
	r.seen, r.pods, r.ledger, r.tenants, r.findings = &gather.Changes{}, memory{}, ledger{}, map[string]tenant{}, newFindings()
	return &r
}

// Reconcile looks at every workload, restarts those whose turn it is, and tells what it found. What goes wrong with one of them is told of it
// and tried again: it is no error of all, for that would make all wait.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	now := r.Clock.Now()
	r.began = cmp.Or(r.began, now)
	seen, err := r.observe(ctx, now)
	r.seen.Counted(r.Clock.Since(now))
	if err != nil {
		return ctrl.Result{}, err
	}
	plans, again := r.act(ctx, now, seen.groups)
	for _, err := range seen.failed {
		ctrl.LoggerFrom(ctx).Error(err, "A workload could not be looked at")
		again = min(again, retryFailed)
	}
	r.findings.tell(ctx, plans, seen.changedAt, len(seen.failed) == 0)
	return ctrl.Result{RequeueAfter: max(again, time.Second)}, nil
}

// act does what is to be done now, and returns after which time the clock alone may change something.
func (r *Reconciler) act(ctx context.Context, now time.Time, groups []group) (plans []*plan, again time.Duration) {
	var attempts []attempt
	for _, group := range groups {
		p := planFor(now, group.policy, group.items)
		// A manager that has died cannot tell when it completed one.
		r.findings.completedAt(group.policy.Name, group.restarted)
		plans, attempts = append(plans, p), append(attempts, r.carryOut(ctx, now, p)...)
	}
	atOnce(ctx, attempts)
	again = maxInterval
	for _, p := range plans {
		again = min(again, p.again.Sub(now))
	}
	return plans, again
}

// carryOut is what was planned.
func (r *Reconciler) carryOut(ctx context.Context, now time.Time, p *plan) (attempts []attempt) {
	for _, one := range p.finish {
		attempts = append(attempts, r.finish(now, p, one))
	}
	for _, one := range p.evict {
		attempts = append(attempts, r.evict(now, p, one))
	}
	for _, one := range p.restamp {
		attempts = append(attempts, r.restamp(now, p, one))
	}
	for _, one := range p.begin {
		if begin := r.begin(ctx, now, p, one); begin != nil {
			attempts = append(attempts, begin)
		}
	}
	return attempts
}

// begin restarts a workload, unless its pods have been replaced in the meantime.
func (r *Reconciler) begin(ctx context.Context, now time.Time, p *plan, one *item) attempt {
	before, _ := one.state(now)
	if err := r.meet(ctx, now, one.GetNamespace(), []*item{one}); err != nil {
		r.failed(now, one, "its pods cannot be listed", err, retryFailed)
		p.move(one, before, held)
		return nil
	}
	r.know(now, one)
	if len(one.unknown) == 0 {
		p.move(one, before, current)
		return nil
	}
	// By the second, as its mark and its stamp are: it would seem to begin after its own stamp.
	next := turn{since: now.Truncate(time.Second), evicted: !one.rollout.byHand && (one.undone >= mostUndone || one.rollout.outOfNodes)}
	next.retried = before == failed && !one.turn.unavailable && p.policy.Spec.Restart.OnFailure != v1alpha1.RestartContinue
	next.unavailable = !one.rollout.available && !next.retried
	return r.turn(now, p, one, next, func(done bool) {
		if !done {
			p.refused(one, before)
			return
		}
		one.restarted, one.began = last(one.unknown), now
		p.move(one, before, restarting)
		r.Recorder.Eventf(one.Object, nil, corev1.EventTypeNormal, "Restarted", "Restart", "policy %s restarts it: %s", p.policy.Name, notes(one.unknown))
	})
}

// restamp begins a restart once more that was undone; in the end by evictions.
func (r *Reconciler) restamp(now time.Time, p *plan, one *item) attempt {
	next := *one.turn
	next.evicted = one.undone >= mostUndone
	return r.turn(now, p, one, next, func(done bool) {
		if done && next.evicted {
			r.Recorder.Eventf(one.Object, nil, corev1.EventTypeWarning, "RestartUndone", "Restart",
				"the annotation %s on its pod template was removed %d times: its pods are evicted instead, as far as PodDisruptionBudgets allow",
				v1alpha1.AnnotationRestartedAt, one.undone)
		}
	})
}

// turn writes what a turn begins with, or goes on by.
func (r *Reconciler) turn(now time.Time, p *plan, one *item, next turn, note func(done bool)) attempt {
	stamped, stamp := time.Time{}, one.template.Annotations[v1alpha1.AnnotationRestartedAt]
	if !one.rollout.byHand && !next.evicted {
		stamped = later(now, last(one.unknown)).UTC().Truncate(time.Second)
		stamp = stamped.Format(time.RFC3339)
	}
	return r.write(one, stamp, next.mark(), func(err error) {
		done := r.written(now, one, "its restart was refused", err)
		if done {
			one.begin(next, stamped, now)
		} else {
			p.lookAt(now)
		}
		note(done)
	})
}

// finish removes the mark of a restart whose pods have all been replaced. Where somebody else has removed it, nothing is to be written.
func (r *Reconciler) finish(now time.Time, p *plan, one *item) attempt {
	ended := func() {
		one.end()
		r.findings.completedAt(p.policy.Name, now)
		if len(one.away) > 0 {
			r.Recorder.Eventf(one.Object, nil, corev1.EventTypeWarning, "RestartIncomplete", "Restart", "its restart is complete; %s", one.also(""))
		}
	}
	if _, marked := one.GetLabels()[v1alpha1.LabelRestarting]; !marked {
		return func(context.Context) func() { return ended }
	}
	return r.write(one, one.template.Annotations[v1alpha1.AnnotationRestartedAt], "", func(err error) {
		if r.written(now, one, "the label of its restart cannot be removed", err) {
			ended()
		} else {
			p.lookAt(now.Add(retryFailed))
		}
	})
}
