package servingcert

import (
	"context"
	"errors"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/policy"
	"github.com/servingcert/operator/controllers/internal/retry"
	"github.com/servingcert/operator/controllers/internal/wallclock"
)

// controllerName is the name of the controller in logs and metrics.
const controllerName = "servingcert"

// concurrency hides the latency of the API server; signing is bound by the cores anyway.
const concurrency = 16

// SetupWithManager watches Services, their Secrets, and everything that determines their
// certificates.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager, secrets cache.Cache, clockWatcher *wallclock.Watcher) error {
	if err := setupIndices(ctx, mgr, r.View.Resolver); err != nil {
		return err
	}
	all := r.allAtLowPriority()
	r.KeyQueue = newKeyQueue(runtime.GOMAXPROCS(0), pki.NewKey, debug.SetGCPercent)
	return errors.Join(r.KeyQueue.SetupWithManager(mgr), ctrl.NewControllerManagedBy(mgr).
		Named(controllerName).
		For(&corev1.Service{}, builder.WithPredicates(ServiceChanged(), r.ignoreOwnReports())).
		WatchesRawSource(source.Func(r.resyncPeriodically)).
		WatchesRawSource(clockWatcher.Source(r.enqueueAllAtLowPriority)).
		WatchesRawSource(source.Func(r.KeyQueue.bindReconcileQueue)).
		Watches(&corev1.Service{}, handler.EnqueueRequestsFromMapFunc(r.competitorsOfService), builder.WithPredicates(skipInitialList(), r.claimChanged())).
		Watches(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.servicesOfSecret), builder.WithPredicates(skipInitialList())).
		WatchesRawSource(source.Kind[client.Object](secrets, injector.Secrets.Metadata(), handler.EnqueueRequestsFromMapFunc(r.servicesOfPassword), skipInitialList())).
		Watches(&v1alpha1.ServingCertPolicy{}, all, builder.WithPredicates(skipInitialList(), predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.ServiceCA{}, all, builder.WithPredicates(skipInitialList(), keyring.Changed())).
		Watches(NamespaceMetadata(), handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, namespace client.Object) []reconcile.Request {
			return r.services(ctx, client.InNamespace(namespace.GetName()))
		}), builder.WithPredicates(skipInitialList(), predicate.LabelChangedPredicate{}), builder.OnlyMetadata).
		WithOptions(retry.Options(concurrency)).
		Complete(retry.WithQuietConflicts(retry.LimitSlowNamespaces(concurrency, r))))
}

// skipInitialList skips the objects of the initial list: at startup, every Service is reconciled
// once because of its own watch.
func skipInitialList() predicate.Predicate {
	return predicate.Funcs{CreateFunc: func(e event.CreateEvent) bool { return !e.IsInInitialList }}
}

// allAtLowPriority returns a handler that enqueues every Service, behind Services whose own changes
// are waiting.
func (r *Reconciler) allAtLowPriority() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, _ event.CreateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			r.enqueueAllAtLowPriority(ctx, q)
		},
		UpdateFunc: func(ctx context.Context, _ event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			r.enqueueAllAtLowPriority(ctx, q)
		},
		DeleteFunc: func(ctx context.Context, _ event.DeleteEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			r.enqueueAllAtLowPriority(ctx, q)
		},
	}
}

func (r *Reconciler) enqueueAllAtLowPriority(ctx context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	if queue, ok := q.(priorityqueue.PriorityQueue[reconcile.Request]); ok {
		queue.AddWithOpts(priorityqueue.AddOpts{Priority: new(handler.LowPriority)}, r.services(ctx)...)
	}
}

// ServiceChanged returns a predicate that ignores updates of a Service that affect no certificate,
// such as updates of its status.
func ServiceChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, _ := e.ObjectOld.(*corev1.Service)
		after, _ := e.ObjectNew.(*corev1.Service)
		return before == nil || after == nil || before.UID != after.UID ||
			!before.DeletionTimestamp.Equal(after.DeletionTimestamp) || !sameSpec(before, after) ||
			!maps.Equal(before.Labels, after.Labels) || !maps.Equal(before.Annotations, after.Annotations)
	}}
}

// sameSpec reports whether two versions of a Service agree in the spec fields that affect its
// certificate.
func sameSpec(a, b *corev1.Service) bool {
	return a.Spec.ClusterIP == b.Spec.ClusterIP && a.Spec.Type == b.Spec.Type
}

// ignoreOwnReports returns a predicate that ignores updates that consist only of status annotations
// that the operator wrote.
func (r *Reconciler) ignoreOwnReports() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, _ := e.ObjectOld.(*corev1.Service)
		after, _ := e.ObjectNew.(*corev1.Service)
		return before == nil || after == nil || !sameSpec(before, after) || !r.ownAnnotations.Observed(before, after)
	}}
}

// claimChanged returns a predicate that ignores updates of a Service that do not affect other
// Services that want the same Secret. The operator's own status annotations are among them:
// otherwise, if ten thousand Services wanted one Secret, a report on each would reconcile all
// others.
func (r *Reconciler) claimChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, _ := e.ObjectOld.(*corev1.Service)
		after, _ := e.ObjectNew.(*corev1.Service)
		if before == nil || after == nil {
			return true
		}
		familyBefore, nameBefore := r.View.Resolver.RequestedSecret(before)
		familyAfter, nameAfter := r.View.Resolver.RequestedSecret(after)
		return before.UID != after.UID || !before.DeletionTimestamp.Equal(after.DeletionTimestamp) || familyBefore != familyAfter || nameBefore != nameAfter ||
			before.Spec.Type != after.Spec.Type || !maps.Equal(before.Labels, after.Labels)
	}}
}

// resyncPeriodically enqueues every Service each ResyncPeriod, so that renewals that are too far
// ahead for requeue to schedule are not missed. The initial list at startup is the first round.
func (r *Reconciler) resyncPeriodically(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	go func() {
		// It returns an error only when the context is done.
		_ = wait.PollUntilContextCancel(ctx, ResyncPeriod, false, func(ctx context.Context) (bool, error) {
			r.enqueueAllAtLowPriority(ctx, queue)
			return false, nil
		})
	}()
	return nil
}

// services returns requests for the Services that match the options; any of them may be selected by
// a policy.
func (r *Reconciler) services(ctx context.Context, options ...client.ListOption) []reconcile.Request {
	var list corev1.ServiceList
	if err := r.View.List(ctx, &list, append(options, client.UnsafeDisableDeepCopy)...); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list the Services")
	}
	requests := make([]reconcile.Request, 0, len(list.Items))
	for i := range list.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return requests
}

// servicesOfSecret returns requests for the Service that a Secret was made for and for those that
// may want it, but not for the owner if this is the Secret that its last reconciliation created.
func (r *Reconciler) servicesOfSecret(ctx context.Context, secret client.Object) []reconcile.Request {
	policies, err := r.View.Policies(ctx)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list the policies")
	}
	requests := r.requests(ctx, policies, secret.GetNamespace(), secret.GetName())
	owner := reconcile.Request{NamespacedName: types.NamespacedName{Namespace: secret.GetNamespace(), Name: secret.GetLabels()[v1alpha1.LabelService]}}
	if r.Expectations.observed(secret) {
		return slices.DeleteFunc(requests, func(request reconcile.Request) bool { return request == owner })
	}
	return append(requests, owner)
}

// servicesOfPassword returns requests for the Services whose keystore password is in this Secret.
func (r *Reconciler) servicesOfPassword(ctx context.Context, secret client.Object) []reconcile.Request {
	return r.services(ctx, client.InNamespace(secret.GetNamespace()), client.MatchingFields{indexPassword: secret.GetName()})
}

// competitorsOfService returns requests for the other Services that may want the same Secret as
// this one. The Service itself is excluded: its own watch reconciles it, and because events reach
// the two watches at different times, it would be reconciled twice and retry rejected writes at
// once.
func (r *Reconciler) competitorsOfService(ctx context.Context, object client.Object) []reconcile.Request {
	service, ok := object.(*corev1.Service)
	if !ok {
		return nil
	}
	policies, err := r.View.Policies(ctx)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list the policies")
	}
	var requests []reconcile.Request
	if _, name := r.View.Resolver.RequestedSecret(service); name != "" {
		requests = r.requests(ctx, policies, service.Namespace, name)
	}
	for _, suffix := range policies.Suffixes() {
		requests = append(requests, r.requests(ctx, policies, service.Namespace, service.Name+suffix)...)
	}
	itself := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(service)}
	return slices.DeleteFunc(requests, func(request reconcile.Request) bool { return request == itself })
}

func (r *Reconciler) requests(ctx context.Context, policies policy.Set, namespace, secretName string) []reconcile.Request {
	candidates, err := r.View.candidates(ctx, policies, namespace, secretName)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "find the Services that want a Secret", "namespace", namespace, "secret", secretName)
	}
	var requests []reconcile.Request
	for _, candidate := range candidates {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(candidate)})
	}
	return requests
}
