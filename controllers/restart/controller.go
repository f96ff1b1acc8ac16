// Package restart restarts the workloads whose pods hold an old certificate or an old trust bundle, where a policy wants it.
//
// What a pod holds follows from when its containers started: nothing is remembered, and nothing is lost while nobody looks.
package restart

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/gather"
	"github.com/servingcert/operator/controllers/servingcert"
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
	// Mounted is the ServiceCA whose bundle stands in a ConfigMap or a Secret, by their kind; empty where none does.
	Mounted func(ctx context.Context, kind string, key client.ObjectKey) (string, error)

	// seen is what gathers before the workloads are looked at.
	seen     *gather.Changes
	pods     memory
	refusals refusals
	findings *findings
}

// New completes a reconciler.
func New(r Reconciler) *Reconciler {
	r.seen, r.pods, r.refusals, r.findings = &gather.Changes{}, memory{}, refusals{}, newFindings()
	return &r
}

// Reconcile looks at every workload, restarts those whose turn it is, and tells what it found.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	now := r.Clock.Now()
	seen, err := r.observe(ctx, now)
	r.seen.Counted(r.Clock.Since(now))
	if err != nil {
		return ctrl.Result{}, err
	}
	failed, again := seen.failed, now.Add(maxInterval)
	var plans []*plan
	for _, group := range seen.groups {
		p := planFor(now, group.policy, group.items)
		// A manager that has died cannot tell when it completed one.
		r.findings.completedAt(group.policy.Name, group.restarted)
		failed = append(failed, r.carryOut(ctx, now, p))
		if p.again.Before(again) {
			again = p.again
		}
		plans = append(plans, p)
	}
	r.findings.tell(ctx, plans, seen.changedAt, len(seen.failed) == 0)
	return ctrl.Result{RequeueAfter: max(again.Sub(now), time.Second)}, errors.Join(failed...)
}

// carryOut does what was planned. One workload that cannot be restarted is not in the way of another.
func (r *Reconciler) carryOut(ctx context.Context, now time.Time, p *plan) error {
	var failed []error
	for _, one := range p.finish {
		failed = append(failed, r.finish(ctx, now, p, one))
	}
	for _, one := range p.evict {
		failed = append(failed, r.evict(ctx, now, one))
	}
	for _, one := range p.begin {
		if err := r.begin(ctx, now, p, one); err != nil {
			failed = append(failed, fmt.Errorf("restart %s: %w", one, err))
		}
	}
	return errors.Join(failed...)
}

// begin restarts a workload, unless its pods have been replaced in the meantime.
func (r *Reconciler) begin(ctx context.Context, now time.Time, p *plan, one *item) error {
	if err := r.meet(ctx, one.GetNamespace(), []*item{one}); err != nil {
		return err
	}
	r.know(now, one)
	if len(one.unknown) == 0 {
		p.move(one, pending, current)
		return nil
	}
	mark, stamp := now.UTC().Format(markLayout), one.template.Annotations[v1alpha1.AnnotationRestartedAt]
	if !one.rollout.byHand {
		stamp = later(now, last(one.unknown)).UTC().Format(time.RFC3339)
	}
	if !one.rollout.available {
		mark += unavailable
	}
	if done, err := r.write(ctx, now, one, stamp, mark); !done {
		return err
	}
	known := r.pods[one.GetUID()]
	known.restarted, known.began = last(one.unknown), now
	p.move(one, pending, restarting)
	r.Recorder.Eventf(one.Object, nil, corev1.EventTypeNormal, "Restarted", "Restart", "policy %s restarts it: %s", p.policy.Name, notes(one.unknown))
	return nil
}

// finish removes the mark of a restart whose pods have all been replaced.
func (r *Reconciler) finish(ctx context.Context, now time.Time, p *plan, one *item) error {
	done, err := r.write(ctx, now, one, one.template.Annotations[v1alpha1.AnnotationRestartedAt], "")
	if done {
		r.findings.completedAt(p.policy.Name, now)
	}
	if err != nil {
		return fmt.Errorf("end the restart of %s: %w", one, err)
	}
	return nil
}
