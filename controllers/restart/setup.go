package restart

import (
	"context"
	"errors"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/availability"
	"github.com/servingcert/operator/controllers/internal/debounce"
	"github.com/servingcert/operator/controllers/internal/retry"
	"github.com/servingcert/operator/controllers/internal/wallclock"
	"github.com/servingcert/operator/controllers/servingcert"
)

// SetupWithManager starts the controller as soon as the operator may watch workloads: the
// permissions for that are optional.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, clockWatcher *wallclock.Watcher) (err error) {
	if r.others, err = newOthers(mgr); err != nil {
		return err
	}
	available := func(ctx context.Context) (bool, error) {
		permitted, err := r.permitted(ctx)
		if err == nil {
			r.findings.setPermitted(permitted)
		}
		return permitted, err
	}
	return availability.StartWhenAvailable(mgr, available, func(context.Context) error { return r.watch(mgr, clockWatcher) })
}

// permitted reports whether the operator has all permissions of config/components/restarts: with
// only some of them the controller would wait forever. It lists first, because a list creates
// nothing; an access review is a create.
func (r *Reconciler) permitted(ctx context.Context) (bool, error) {
	for _, list := range []client.ObjectList{&appsv1.DeploymentList{}, &appsv1.StatefulSetList{}, &appsv1.DaemonSetList{}} {
		if err := r.Live.List(ctx, list, client.Limit(1)); apierrors.IsForbidden(err) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	for _, permission := range requiredPermissions() {
		if allowed, err := r.allowed(ctx, permission); err != nil || !allowed {
			return false, err
		}
	}
	return true, nil
}

// allowed asks the API server whether the operator has a permission.
func (r *Reconciler) allowed(ctx context.Context, what authorizationv1.ResourceAttributes) (bool, error) {
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &what}}
	err := r.Live.Create(ctx, review)
	return review.Status.Allowed, err
}

func requiredPermissions() []authorizationv1.ResourceAttributes {
	all := []authorizationv1.ResourceAttributes{{Resource: "pods", Subresource: "eviction", Verb: "create"}}
	for _, resource := range []string{"deployments", "statefulsets", "daemonsets"} {
		for _, verb := range []string{"watch", "patch"} {
			all = append(all, authorizationv1.ResourceAttributes{Group: appsv1.GroupName, Resource: resource, Verb: verb})
		}
	}
	return all
}

// watch starts the controller.
func (r *Reconciler) watch(mgr ctrl.Manager, clockWatcher *wallclock.Watcher) error {
	c, err := ctrl.NewControllerManagedBy(mgr).
		Named("restart").
		Watches(&appsv1.Deployment{}, r.debouncedHandler()).
		Watches(&appsv1.StatefulSet{}, r.debouncedHandler()).
		Watches(&appsv1.DaemonSet{}, r.debouncedHandler()).
		Watches(&corev1.Secret{}, r.debouncedHandler()).
		Watches(&v1alpha1.ServiceCA{}, r.debouncedHandler(), builder.WithPredicates(ifChanged(func(before, after client.Object) bool {
			a, _ := before.(*v1alpha1.ServiceCA)
			b, _ := after.(*v1alpha1.ServiceCA)
			return a == nil || b == nil || !changedAt(a).Equal(changedAt(b)) || isUrgent(a) != isUrgent(b)
		}))).
		Watches(&v1alpha1.ServingCertPolicy{}, r.debouncedHandler(), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&corev1.Service{}, r.debouncedHandler(), builder.WithPredicates(ifChanged(func(before, after client.Object) bool {
			a, _ := before.(*corev1.Service)
			b, _ := after.(*corev1.Service)
			return a == nil || b == nil || !maps.Equal(a.Spec.Selector, b.Spec.Selector) || !maps.Equal(a.Labels, b.Labels)
		}))).
		Watches(servingcert.NamespaceMetadata(), r.debouncedHandler(), builder.WithPredicates(predicate.LabelChangedPredicate{}), builder.OnlyMetadata).
		Watches(injector.ConfigMaps.Metadata(), r.debouncedHandler(), builder.WithPredicates(filled()), builder.OnlyMetadata).
		WatchesRawSource(clockWatcher.Source(wallclock.Requests(allWorkloads))).
		WithOptions(retry.Options(1)).
		Build(retry.WithQuietConflicts(r))
	if err != nil {
		return err
	}
	var failed []error
	for _, kind := range slices.Concat(builtIn, r.Kinds) {
		failed = append(failed, r.watchOther(mgr, c, kind))
	}
	return errors.Join(failed...)
}

// ifChanged ignores updates in which nothing has changed that matters here.
func ifChanged(matters func(before, after client.Object) bool) predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool { return matters(e.ObjectOld, e.ObjectNew) }}
}

// filled selects the ConfigMaps into which a bundle is written for the first time.
func filled() predicate.Predicate {
	since := func(object client.Object) string { return object.GetAnnotations()[v1alpha1.AnnotationCABundleSince] }
	return predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return since(e.Object) != "" },
		UpdateFunc: func(e event.UpdateEvent) bool { return since(e.ObjectNew) != since(e.ObjectOld) },
		DeleteFunc: func(event.DeleteEvent) bool { return false },
	}
}

// debouncedHandler requests one evaluation of the workloads after a burst of events.
func (r *Reconciler) debouncedHandler() handler.EventHandler {
	return r.debouncer.Handler(debounce.ConstantRequest(allWorkloads))
}
