package restart

import (
	"context"
	"maps"
	"slices"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/servingcert/operator/controllers/internal/availability"
)

// others caches the workloads of kinds that the cluster may start to serve, or the operator may be
// permitted to read, only later.
type others struct {
	cache.Cache
	mutex   sync.Mutex
	watched map[schema.GroupVersionResource]schema.GroupVersionKind
}

// newOthers returns a cache for those workloads. It is empty until a kind is watched.
func newOthers(mgr ctrl.Manager) (*others, error) {
	made, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		ReaderFailOnMissingInformer: true,
		DefaultTransform:            slimOther,
	})
	if err != nil {
		return nil, err
	}
	return &others{Cache: made, watched: map[schema.GroupVersionResource]schema.GroupVersionKind{}}, mgr.Add(made)
}

// watchOther makes a controller watch a kind as soon as the operator can read it. If an
// administrator listed the kind in --restart-kinds, the log reports what is missing.
func (r *Reconciler) watchOther(mgr ctrl.Manager, c controller.Controller, kind schema.GroupVersionResource) error {
	object, lacks := &unstructured.Unstructured{}, ""
	available := func(ctx context.Context) (bool, error) {
		missing, err := r.lacks(ctx, mgr, kind, object)
		if missing != "" && missing != lacks && slices.Contains(r.Kinds, kind) {
			ctrl.LoggerFrom(ctx).Info("Workloads of a kind in --restart-kinds are not restarted", "kind", kind.String(), "why", missing)
		}
		if lacks = missing; missing != "" || err != nil {
			return false, err
		}
		_, err = r.others.GetInformer(ctx, object)
		return err == nil, err
	}
	return availability.StartWhenAvailable(mgr, available, func(context.Context) error {
		r.others.mutex.Lock()
		defer r.others.mutex.Unlock()
		r.others.watched[kind] = object.GroupVersionKind()
		return c.Watch(source.Kind[client.Object](r.others, object, r.debouncedHandler()))
	})
}

// lacks returns what keeps the operator from reading a kind; empty if nothing does. It also sets
// the kind in object.
func (r *Reconciler) lacks(ctx context.Context, mgr ctrl.Manager, kind schema.GroupVersionResource, object *unstructured.Unstructured) (string, error) {
	gvk, err := mgr.GetRESTMapper().KindFor(kind)
	if availability.IsNotServed(err) {
		return "the cluster does not serve it", nil
	} else if err != nil {
		return "", err
	}
	object.SetGroupVersionKind(gvk)
	if namespaced, err := r.Live.IsObjectNamespaced(object); err != nil {
		return "", err
	} else if !namespaced {
		return "its objects are in no namespace", nil
	}
	if err := r.Live.List(ctx, listOf(gvk), client.Limit(1)); apierrors.IsForbidden(err) {
		return err.Error(), nil
	} else if err != nil {
		return "", err
	}
	allowed, err := r.allowed(ctx, authorizationv1.ResourceAttributes{Group: kind.Group, Resource: kind.Resource, Verb: "watch"})
	if err != nil || allowed {
		return "", err
	}
	return "the operator may not watch it", nil
}

func listOf(gvk schema.GroupVersionKind) *unstructured.UnstructuredList {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
	return list
}

// kinds returns the kinds that are watched.
func (o *others) kinds() map[schema.GroupVersionResource]schema.GroupVersionKind {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return maps.Clone(o.watched)
}

// otherWorkloads returns all workloads of kinds outside apps/v1.
func (r *Reconciler) otherWorkloads(ctx context.Context) (found []*workload, err error) {
	for kind, gvk := range r.others.kinds() {
		list := listOf(gvk)
		if err := r.others.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return nil, err
		}
		for i := range list.Items {
			referenced, err := r.referenced(ctx, kind, &list.Items[i])
			if err != nil {
				return nil, err
			}
			if w := ofOther(kind, &list.Items[i], referenced); w != nil {
				found = append(found, w)
			}
		}
	}
	return found, nil
}

// referenced returns the Deployment from which a workload takes its template; nil for none.
func (r *Reconciler) referenced(ctx context.Context, kind schema.GroupVersionResource, o *unstructured.Unstructured) (*appsv1.Deployment, error) {
	name := deploymentOf(kind, o)
	if name == "" {
		return nil, nil
	}
	d := &appsv1.Deployment{}
	err := r.Client.Get(ctx, client.ObjectKey{Namespace: o.GetNamespace(), Name: name}, d, client.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return d, err
}
