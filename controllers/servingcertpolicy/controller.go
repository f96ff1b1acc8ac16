package servingcertpolicy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/servingcert/operator/api/v1alpha1"
	ac "github.com/servingcert/operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/debounce"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/policy"
	"github.com/servingcert/operator/controllers/internal/retry"
	"github.com/servingcert/operator/controllers/internal/wallclock"
	"github.com/servingcert/operator/controllers/restart"
	"github.com/servingcert/operator/controllers/servingcert"
)

// allPolicies is the only request of this controller: it evaluates every Service once, for all
// policies together.
var allPolicies = reconcile.Request{NamespacedName: types.NamespacedName{Name: "policies"}}

// Reconciler updates the status of all policies.
type Reconciler struct {
	// Client writes the status of policies, and reads what it wrote.
	Client   client.Client
	View     servingcert.View
	Keyring  *keyring.Keyring
	Recorder events.EventRecorder
	// Events is flushed whenever the policies are reported on.
	Events *servingcert.EventAggregator
	Clock  clock.PassiveClock
	// Restarts returns the report on the restarts of a policy; false until the restart controller
	// has evaluated them. RestartsChanged signals that the report changed.
	Restarts        func(*v1alpha1.ServingCertPolicy) (restart.Report, bool)
	RestartsChanged <-chan event.GenericEvent
	// FailuresChanged signals that requests for a Service started to fail or no longer fail.
	FailuresChanged <-chan event.GenericEvent

	// debouncer delays status updates, so that their number is bounded by time and not by the
	// number of Services.
	debouncer debounce.Debouncer
	// caches holds the plans of the last count, by the name of the policy.
	caches map[string]planCache
	// statusFailures holds the policies whose status cannot be written.
	statusFailures statusFailures
}

// SetupWithManager watches everything that the status of a policy depends on.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, clockWatcher *wallclock.Watcher) error {
	debounced := r.debouncer.Handler(debounce.ConstantRequest(allPolicies))
	return ctrl.NewControllerManagedBy(mgr).
		Named("servingcertpolicy").
		Watches(&v1alpha1.ServingCertPolicy{}, debounced).
		Watches(&v1alpha1.ServiceCA{}, debounced).
		Watches(&corev1.Service{}, debounced, builder.WithPredicates(servingcert.ServiceChanged())).
		Watches(&corev1.Secret{}, debounced).
		Watches(servingcert.NamespaceMetadata(), debounced).
		WatchesRawSource(source.Channel(r.RestartsChanged, debounced)).
		WatchesRawSource(source.Channel(r.FailuresChanged, debounced)).
		WatchesRawSource(clockWatcher.Source(wallclock.Requests(allPolicies))).
		WithOptions(retry.Options(1)).
		Complete(retry.WithQuietConflicts(r))
}

// Reconcile updates the status of every policy.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	start := r.Clock.Now()
	var list v1alpha1.ServingCertPolicyList
	if err := r.Client.List(ctx, &list); err != nil {
		return ctrl.Result{}, err
	}
	now := r.Clock.Now()
	tallies, err := r.count(ctx, now, list.Items)
	if err != nil {
		return ctrl.Result{}, err
	}
	r.Events.Flush(list.Items)
	earliestExpiry, err := r.reportAll(ctx, now, list.Items, tallies)
	r.debouncer.RecordDuration(r.Clock.Since(start))
	result := ctrl.Result{}
	if !earliestExpiry.IsZero() {
		result.RequeueAfter = earliestExpiry.Sub(now)
	}
	return result, err
}

// reportAll writes the statuses, with those that could not be written before last. It returns the
// earliest time at which a certificate expires or a failed status is due for a retry.
func (r *Reconciler) reportAll(
	ctx context.Context, now time.Time, policies []v1alpha1.ServingCertPolicy, tallies map[string]*tally,
) (earliestExpiry time.Time, err error) {
	r.statusFailures.keepOnly(policies)
	slices.SortStableFunc(policies, func(a, b v1alpha1.ServingCertPolicy) int {
		return r.statusFailures.nextRetry(&a).Compare(r.statusFailures.nextRetry(&b))
	})
	var failed []error
	for i := range policies {
		p := &policies[i]
		earliestExpiry = earliest(earliestExpiry, tallies[p.Name].earliestExpiry)
		if next := r.statusFailures.nextRetry(p); now.Before(next) {
			earliestExpiry = earliest(earliestExpiry, next)
			continue
		}
		if err := r.report(ctx, now, p, tallies[p.Name]); err != nil {
			failed = append(failed, fmt.Errorf("policy %s: %w", p.Name, err))
			if failure := r.statusFailures.record(r.Clock.Now(), p, err); failure != nil {
				r.Recorder.Eventf(p, nil, corev1.EventTypeWarning, failure.Reason, "Report", "%s", failure.Message)
			}
			continue
		}
		r.statusFailures.clear(p)
	}
	return earliestExpiry, errors.Join(failed...)
}

func (r *Reconciler) report(ctx context.Context, now time.Time, p *v1alpha1.ServingCertPolicy, counts *tally) error {
	ca := &v1alpha1.ServiceCA{}
	if err := r.View.Get(ctx, client.ObjectKey{Name: p.Spec.ServiceCAName}, ca); client.IgnoreNotFound(err) != nil {
		return err
	} else if err != nil {
		ca = nil
	}
	if report, ok := r.Restarts(p); ok {
		counts.restarts = &report
	}
	status := counts.status(now, p, ca)
	if err := apply.Status(ctx, r.Client, apply.Policy, p.Status, status, ac.ServingCertPolicy(p.Name)); err != nil {
		return apply.IgnoreGone(err)
	}
	for _, kind := range []string{v1alpha1.ConditionStalled, v1alpha1.ConditionConflicted, v1alpha1.ConditionRestartHalted, v1alpha1.ConditionRestartTooLate} {
		after := meta.FindStatusCondition(status.Conditions, kind)
		if after != nil && after.Status == metav1.ConditionTrue && !meta.IsStatusConditionTrue(p.Status.Conditions, kind) {
			r.Recorder.Eventf(p, nil, corev1.EventTypeWarning, after.Reason, "Report", "%s", after.Message)
		}
	}
	return nil
}

// count evaluates every Service once and returns a tally for each policy, by name.
func (r *Reconciler) count(ctx context.Context, now time.Time, policies []v1alpha1.ServingCertPolicy) (map[string]*tally, error) {
	signers, err := r.signers(ctx, now, policies)
	if err != nil {
		return nil, err
	}
	set, tallies := policy.NewSet(policies), map[string]*tally{}
	for name := range signers {
		tallies[name] = &tally{}
	}
	var services corev1.ServiceList
	if err := r.View.List(ctx, &services, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	namespaces, err := r.namespaces(ctx)
	if err != nil {
		return nil, err
	}
	for i := range services.Items {
		service := &services.Items[i]
		if !service.DeletionTimestamp.IsZero() {
			continue
		}
		ruling, tied := set.For(namespaces[service.Namespace], service.Labels)
		if ruling == nil {
			continue
		}
		plan, wanted, err := r.plan(ctx, now, service, ruling, signers[ruling.Name])
		if err != nil {
			return nil, err
		}
		if !wanted {
			continue
		}
		// It may have been impossible to write this on the Service.
		plan.Problem = cmp.Or(r.View.Conflicts.Failure(client.ObjectKeyFromObject(service), now), plan.Problem)
		tallies[ruling.Name].conflict(tied...)
		for _, other := range tied {
			tallies[other.Name].conflict(ruling)
		}
		tallies[ruling.Name].add(now, service, plan)
	}
	r.caches = map[string]planCache{}
	for name, signer := range signers {
		r.caches[name] = signer.next
	}
	return tallies, nil
}

// signers returns the CA and the plan caches of each policy, by name.
func (r *Reconciler) signers(ctx context.Context, now time.Time, policies []v1alpha1.ServingCertPolicy) (map[string]policySigner, error) {
	signers := map[string]policySigner{}
	for i := range policies {
		p := &policies[i]
		ca, problem, err := r.Keyring.Find(ctx, r.View, p.Spec.ServiceCAName)
		if err != nil {
			return nil, err
		}
		previous := r.caches[p.Name]
		signer := policySigner{ca: ca, problem: problem, next: newPlanCache(now, p, ca, len(previous.plans))}
		if signer.next.isValidAfter(previous) {
			signer.previous = previous
		}
		signers[p.Name] = signer
	}
	return signers, nil
}

func (r *Reconciler) namespaces(ctx context.Context) (map[string]labels.Set, error) {
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NamespaceList"))
	if err := r.View.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	namespaces := map[string]labels.Set{}
	for _, namespace := range list.Items {
		namespaces[namespace.Name] = namespace.Labels
	}
	return namespaces, nil
}

// policySigner is the CA of a policy, or the problem that prevents its use, with the plans that the
// last count cached and those for the next.
type policySigner struct {
	ca             *keyring.CA
	problem        *issuance.Problem
	previous, next planCache
}

// plan returns what has to be done for a Service, and false if it wants no certificate. It does not
// evaluate competing Services: the annotations of the Service report such a conflict.
func (r *Reconciler) plan(ctx context.Context, now time.Time, service *corev1.Service, ruling *v1alpha1.ServingCertPolicy, signer policySigner) (issuance.Plan, bool, error) {
	if name, ok := signer.previous.secretOf(service); ok {
		secret, err := r.secret(ctx, service.Namespace, name)
		if err != nil {
			return issuance.Plan{}, false, err
		}
		if plan, same := signer.previous.lookUp(now, service, secret); same {
			signer.next.store(plan, secret)
			return plan, true, nil
		}
	}
	desired, wanted := r.View.Resolver.Desired(service, ruling)
	if !wanted {
		return issuance.Plan{}, false, nil
	}
	secret, err := r.secret(ctx, service.Namespace, desired.SecretName)
	if err != nil {
		return issuance.Plan{}, false, err
	}
	if signer.ca == nil {
		// As in the reports on Services: a Service that has a valid certificate counts as served
		// although its CA is unavailable.
		if notAfter := issuance.NotAfter(secret); now.Before(notAfter) {
			return issuance.Plan{Desired: desired, NotAfter: notAfter}, true, nil
		}
		return issuance.Plan{Desired: desired, Problem: signer.problem}, true, nil
	}
	plan := desired.Plan(now, &signer.ca.CA, secret, nil)
	signer.next.store(plan, secret)
	return plan, true, nil
}

// secret returns the digest of a Secret, or nil if there is none.
func (r *Reconciler) secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	if err := r.View.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, secret, client.UnsafeDisableDeepCopy); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return secret, nil
}
