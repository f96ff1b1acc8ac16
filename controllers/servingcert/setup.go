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

// controllerName is the controller's, in logs and metrics.
const controllerName = "servingcert"

// concurrency hides the latency of the API server; signing is bound by the cores anyway.
const concurrency = 16

// SetupWithManager watches Services, their Secrets, and all that decides about them.
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

// skipInitialList passes over what is there when the manager starts: every Service is then looked at once, for its own sake.
func skipInitialList() predicate.Predicate {
	return predicate.Funcs{CreateFunc: func(e event.CreateEvent) bool { return !e.IsInInitialList }}
}

// allAtLowPriority asks for every Service, behind those of which somebody waits for one.
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

// ServiceChanged passes over the changes of a Service that decide nothing, such as those of its status.
func ServiceChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, _ := e.ObjectOld.(*corev1.Service)
		after, _ := e.ObjectNew.(*corev1.Service)
		return before == nil || after == nil || before.UID != after.UID ||
			!before.DeletionTimestamp.Equal(after.DeletionTimestamp) || !sameSpec(before, after) ||
			!maps.Equal(before.Labels, after.Labels) || !maps.Equal(before.Annotations, after.Annotations)
	}}
}

// sameSpec reports whether two versions of a Service have the same of what decides about its certificate.
func sameSpec(a, b *corev1.Service) bool {
	return a.Spec.ClusterIP == b.Spec.ClusterIP && a.Spec.Type == b.Spec.Type
}

// ignoreOwnReports ignores the annotations by which we report on a Service.
func (r *Reconciler) ignoreOwnReports() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, _ := e.ObjectOld.(*corev1.Service)
		after, _ := e.ObjectNew.(*corev1.Service)
		return before == nil || after == nil || !sameSpec(before, after) || !r.ownAnnotations.Observed(before, after)
	}}
}

// claimChanged passes over the changes of a Service that are nothing to others that want the same Secret: what it is told, too, or each of ten
// thousand that want one would be looked at again for each that is told so.
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

// resyncPeriodically asks for every Service each Round: so a renewal that lies far ahead comes near. The first round is the start.
func (r *Reconciler) resyncPeriodically(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	go func() {
		// An error means that the controller ends.
		_ = wait.PollUntilContextCancel(ctx, ResyncPeriod, false, func(ctx context.Context) (bool, error) {
			r.enqueueAllAtLowPriority(ctx, queue)
			return false, nil
		})
	}()
	return nil
}

// services are the Services that some policy may serve.
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

// servicesOfSecret are the Services that a Secret was made for, or that may want it; but not the one that has just made it.
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

// servicesOfPassword are the Services whose keystores have their password in a Secret.
func (r *Reconciler) servicesOfPassword(ctx context.Context, secret client.Object) []reconcile.Request {
	return r.services(ctx, client.InNamespace(secret.GetNamespace()), client.MatchingFields{indexPassword: secret.GetName()})
}

// competitorsOfService returns requests for the other Services that may want the same Secret as this one. The
// Service itself is not among them: its own watch reconciles it, and events come to the two at different
// times, so that it would be reconciled twice, and what was refused retried at once.
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
