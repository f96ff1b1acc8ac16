package publish

import (
	"context"
	"slices"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/availability"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/retry"
)

const (
	// concurrency is the number of workers, which hides the latency of the API server.
	concurrency = 16
	// page is the number of ConfigMaps that are read at a time; a tenant's ConfigMap can be 1 MiB.
	page = 50
	// indexPublished indexes ConfigMaps by the ServiceCA that publishes them.
	indexPublished = "publish.serviceca"
)

// SetupWithManager starts the controller once a ServiceCA publishes, or has published, and the
// operator has the permissions.
func (p *Publisher) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	err := mgr.GetCache().IndexField(ctx, injector.ConfigMaps.Metadata(), indexPublished, func(object client.Object) []string {
		if ca := injector.PublishedBy(object); ca != "" {
			return []string{ca}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := mgr.GetCache().GetInformer(ctx, namespaceMetadata(), cache.BlockUntilSynced(false)); err != nil {
		return err
	}
	available := func(ctx context.Context) (bool, error) {
		// The CRD may be installed after the operator.
		if _, err := mgr.GetCache().GetInformer(ctx, &v1alpha1.ServiceCA{}); availability.IsNotServed(err) {
			return false, nil
		} else if err != nil {
			return false, err
		}
		return p.available(ctx)
	}
	return availability.StartWhenAvailable(mgr, available, func(ctx context.Context) error {
		if err := p.readAll(ctx); err != nil {
			ctrl.LoggerFrom(ctx).Error(err, "list the published ConfigMaps, which are read one by one now")
		}
		return p.watch(mgr)
	})
}

func (p *Publisher) available(ctx context.Context) (bool, error) {
	cas, err := p.serviceCAs(ctx)
	if err != nil {
		return false, err
	}
	needed := false
	for i := range cas {
		var published metav1.PartialObjectMetadataList
		published.SetGroupVersionKind(injector.ConfigMaps.GroupVersion().WithKind("ConfigMapList"))
		if err := p.Cache.List(ctx, &published, client.MatchingFields{indexPublished: cas[i].Name}, client.UnsafeDisableDeepCopy); err != nil {
			return false, err
		}
		needed = needed || len(cas[i].Spec.TrustBundle.Publish) > 0 || len(published.Items) > 0
	}
	if !needed {
		return false, nil
	}
	for _, verb := range []string{"create", "delete"} {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Resource: "configmaps", Verb: verb},
		}}
		if err := p.Live.Create(ctx, review); err != nil || !review.Status.Allowed {
			return false, err
		}
	}
	p.permitted.Store(true)
	return true, nil
}

// readAll lists the ConfigMaps that are already published. Otherwise a new manager would read them
// one by one.
func (p *Publisher) readAll(ctx context.Context) error {
	names := p.names(ctx)
	for next := ""; ; {
		var list corev1.ConfigMapList
		if err := p.Live.List(ctx, &list, client.HasLabels{v1alpha1.LabelServiceCA}, client.Limit(page), client.Continue(next)); err != nil {
			return err
		}
		for i := range list.Items {
			if configMap := &list.Items[i]; slices.Contains(names, configMap.Name) && isOurs(configMap) {
				p.written.store(client.ObjectKeyFromObject(configMap), configMap)
			}
		}
		if next = list.Continue; next == "" {
			return nil
		}
	}
}

// watch starts the controller.
func (p *Publisher) watch(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("publish").
		Watches(&v1alpha1.ServiceCA{}, handler.EnqueueRequestsFromMapFunc(p.allConfigMaps),
			builder.WithPredicates(predicate.Or[client.Object](predicate.GenerationChangedPredicate{}, keyring.Changed()))).
		Watches(namespaceMetadata(), handler.EnqueueRequestsFromMapFunc(p.inNamespace),
			builder.WithPredicates(predicate.LabelChangedPredicate{}), builder.OnlyMetadata).
		Watches(injector.ConfigMaps.Metadata(), handler.EnqueueRequestsFromMapFunc(p.ofConfigMap), builder.OnlyMetadata).
		WithOptions(retry.Options(concurrency)).
		Complete(retry.WithQuietConflicts(retry.LimitSlowNamespaces(concurrency, p)))
}

// allConfigMaps returns the ConfigMaps that a ServiceCA publishes, or published before an update,
// in all namespaces.
func (p *Publisher) allConfigMaps(ctx context.Context, object client.Object) []reconcile.Request {
	ca, ok := object.(*v1alpha1.ServiceCA)
	if !ok || len(ca.Spec.TrustBundle.Publish) == 0 {
		return nil
	}
	namespaces := &metav1.PartialObjectMetadataList{}
	namespaces.SetGroupVersionKind(namespaceMetadata().GroupVersionKind().GroupVersion().WithKind("NamespaceList"))
	if err := p.Cache.List(ctx, namespaces, client.UnsafeDisableDeepCopy); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list the namespaces")
	}
	var requests []reconcile.Request
	for i := range namespaces.Items {
		for _, bundle := range ca.Spec.TrustBundle.Publish {
			requests = append(requests, request(namespaces.Items[i].Name, bundle.ConfigMapName))
		}
	}
	return requests
}

// inNamespace returns the published ConfigMaps of a namespace.
func (p *Publisher) inNamespace(ctx context.Context, namespace client.Object) []reconcile.Request {
	var requests []reconcile.Request
	for _, name := range p.names(ctx) {
		requests = append(requests, request(namespace.GetName(), name))
	}
	return requests
}

// ofConfigMap returns the ConfigMap if it is, or was, published.
func (p *Publisher) ofConfigMap(ctx context.Context, configMap client.Object) []reconcile.Request {
	if injector.PublishedBy(configMap) == "" && !slices.Contains(p.names(ctx), configMap.GetName()) {
		return nil
	}
	return []reconcile.Request{request(configMap.GetNamespace(), configMap.GetName())}
}

// names returns the names of all published ConfigMaps.
func (p *Publisher) names(ctx context.Context) []string {
	cas, err := p.serviceCAs(ctx)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list the ServiceCAs")
	}
	return newClaims(cas, p.Namespace).names()
}

func request(namespace, name string) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}
}
