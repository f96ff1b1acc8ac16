package serviceca

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/retry"
	"github.com/servingcert/operator/controllers/internal/wallclock"
)

// SetupWithManager watches ServiceCAs, the metadata of Secrets in the operator's namespace, and the
// objects that the status counts.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager, secrets cache.Cache, clockWatcher *wallclock.Watcher) error {
	building := ctrl.NewControllerManagedBy(mgr).
		Named("serviceca").
		For(&v1alpha1.ServiceCA{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.ServiceCA{}, handler.EnqueueRequestsFromMapFunc(r.casUsingSameObject), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.ServiceCA{}, r.debounced(func(ca client.Object) string { return ca.GetName() })).
		WatchesRawSource(source.Kind[client.Object](secrets, injector.Secrets.Metadata(), handler.EnqueueRequestsFromMapFunc(r.casOfSecret))).
		Watches(injector.ConfigMaps.Metadata(), handler.EnqueueRequestsFromMapFunc(r.casOfConfigMap), builder.OnlyMetadata).
		Watches(&v1alpha1.ServingCertPolicy{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, policy client.Object) []reconcile.Request {
			return []reconcile.Request{request(caOf(policy))}
		}), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&corev1.Secret{}, r.debounced(func(secret client.Object) string { return secret.GetLabels()[v1alpha1.LabelServiceCA] })).
		WatchesRawSource(source.Channel(r.PublishedChanged, r.debounced(func(ca client.Object) string { return ca.GetName() }))).
		WatchesRawSource(source.Channel(r.RestartsChanged, r.debounced(func(ca client.Object) string { return ca.GetName() }))).
		WatchesRawSource(clockWatcher.Source(r.enqueueAll)).
		WithOptions(retry.Options(1))
	for _, targets := range r.Targets.Sources(r.debounced) {
		building.WatchesRawSource(targets)
	}
	built, err := building.Build(retry.WithQuietConflicts(r))
	if err != nil {
		return err
	}
	if err := r.cleanUpRequests(mgr); err != nil {
		return err
	}
	return r.watchClusterTrustBundles(ctx, mgr, built)
}

// enqueueAll enqueues every ServiceCA.
func (r *Reconciler) enqueueAll(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	for _, ca := range r.casWhere(ctx, func(*v1alpha1.ServiceCA) bool { return true }) {
		queue.Add(ca)
	}
}

// casOfSecret returns requests for the ServiceCAs whose signing key or source is this Secret.
func (r *Reconciler) casOfSecret(ctx context.Context, secret client.Object) []reconcile.Request {
	if secret.GetNamespace() != r.Namespace {
		return nil
	}
	return r.casWhere(ctx, func(ca *v1alpha1.ServiceCA) bool {
		return ca.SigningKeySecretName() == secret.GetName() ||
			(ca.Spec.Source.Secret != nil && ca.Spec.Source.Secret.Name == secret.GetName())
	})
}

// casOfConfigMap returns requests for the ServiceCAs that publish their bundle in this ConfigMap.
func (r *Reconciler) casOfConfigMap(ctx context.Context, configMap client.Object) []reconcile.Request {
	if configMap.GetNamespace() != r.Namespace {
		return nil
	}
	return r.casWhere(ctx, func(ca *v1alpha1.ServiceCA) bool { return ca.TrustBundleConfigMapName() == configMap.GetName() })
}

func (r *Reconciler) casWhere(ctx context.Context, holds func(*v1alpha1.ServiceCA) bool) []reconcile.Request {
	var list v1alpha1.ServiceCAList
	if err := r.Cache.List(ctx, &list); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list the ServiceCAs")
	}
	var requests []reconcile.Request
	for i := range list.Items {
		if holds(&list.Items[i]) {
			requests = append(requests, request(list.Items[i].Name))
		}
	}
	return requests
}

// caOf returns the name of the ServiceCA that a policy refers to.
func caOf(policy client.Object) string {
	if p, ok := policy.(*v1alpha1.ServingCertPolicy); ok {
		return p.Spec.ServiceCAName
	}
	return ""
}

func request(ca string) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Name: ca}}
}

// debounced returns a handler that enqueues a ServiceCA once the changes that affect its counts
// have been coalesced: the number of status writes is bounded by time, and not by the number of
// Services.
func (r *Reconciler) debounced(caOf func(client.Object) string) handler.EventHandler {
	return r.debouncer.Handler(func(object client.Object) (reconcile.Request, bool) {
		ca := caOf(object)
		return request(ca), ca != ""
	})
}
