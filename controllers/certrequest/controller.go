package certrequest

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/availability"
	"github.com/servingcert/operator/controllers/internal/conflict"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/retry"
	"github.com/servingcert/operator/controllers/metrics"
	"github.com/servingcert/operator/controllers/servingcert"
)

// RequestKind implements the signing of one kind of request. The implementations are in their own
// packages.
type RequestKind[T client.Object] interface {
	// Name returns the controller's name.
	Name() string
	// New returns an empty request, and List an empty list of requests.
	New() T
	List() client.ObjectList
	// StripForCache removes from a request everything that the kind does not read, and almost
	// everything from a request to another signer. The cache may call it twice for an object.
	StripForCache(T)
	// ServiceCAName returns the ServiceCA that must answer the request; empty if the request is to
	// another signer, still needs a decision of another client, or is answered.
	ServiceCAName(T) string
	// Evaluate returns the certificate that the request is entitled to, or the refusal.
	Evaluate(context.Context, T) (*Grant, *Refusal, error)
	// Issue writes the certificate to the request, and Refuse the refusal, each in a single write.
	// Refuse may write nothing for a refusal that is not final; an Event then reports it.
	Issue(context.Context, T, *Certificate) error
	Refuse(context.Context, T, *Refusal) error
	// DeferUntil returns the time until which a request can wait for the next CA, because its
	// holder has a valid certificate; zero if it cannot wait.
	DeferUntil(context.Context, T) (time.Time, error)
	// Response returns the answer in a stripped request.
	Response(T) Response
	// MaxWait returns how long a request waits for what is missing; zero if Kubernetes itself
	// removes a waiting request.
	MaxWait() time.Duration
	// EventObject returns the object on which Events about the request are recorded.
	EventObject(T) runtime.Object
}

const (
	// concurrency is the number of workers, which hides the latency of the API server.
	concurrency = 4
	// retryCAStarting is how often a request is reconciled while its CA will sign within moments,
	// and retryWaiting while the request waits for a change.
	retryCAStarting, retryWaiting = 2 * time.Second, 30 * time.Second
)

// reasonAnswerRefused means that the API server rejects the answer to a request.
const reasonAnswerRefused = "AnswerRefused"

// Reconciler answers the requests of one kind.
type Reconciler[T client.Object] struct {
	Kind     RequestKind[T]
	Signer   Signer
	Live     client.Client
	Recorder events.EventRecorder

	// requests can be read once cacheSynced is set. notServed is set while the cluster does not
	// serve the kind.
	requests               cache.Cache
	cacheSynced, notServed atomic.Bool
	// reported holds the last reported refusal of each request, so that each is reported once.
	reported sync.Map
	// failures holds the requests whose answers the API server fails to write.
	failures conflict.Reports
}

// SetupWithManager starts the controller as soon as the cluster serves the kind and the operator
// may read it.
func (r *Reconciler[T]) SetupWithManager(mgr ctrl.Manager) error {
	served := func(ctx context.Context) (bool, error) {
		ok, err := availability.IsServed(ctx, r.Live, r.Kind.List())
		r.notServed.Store(!ok && err == nil)
		return ok, err
	}
	return availability.StartWhenAvailable(mgr, served, func(ctx context.Context) error { return r.setup(ctx, mgr) })
}

func (r *Reconciler[T]) setup(ctx context.Context, mgr ctrl.Manager) error {
	var err error
	r.requests, err = cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		ByObject: map[client.Object]cache.ByObject{r.Kind.New(): {Transform: func(object any) (any, error) {
			if request, ok := object.(T); ok {
				request.SetManagedFields(nil)
				r.Kind.StripForCache(request)
			}
			return object, nil
		}}},
	})
	if err != nil {
		return err
	}
	if err := mgr.Add(r.requests); err != nil {
		return err
	}
	// The manager is already running. It starts a cache that is added, but does not wait until it
	// has synced, and the handlers below read from this cache at once.
	if !r.requests.WaitForCacheSync(ctx) {
		return ctx.Err()
	}
	r.cacheSynced.Store(true)
	enqueuePending := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, _ client.Object) []reconcile.Request { return r.pendingRequests(ctx, "") })
	return ctrl.NewControllerManagedBy(mgr).
		Named(r.Kind.Name()).
		WatchesRawSource(source.Kind(r.requests, client.Object(r.Kind.New()), &handler.EnqueueRequestForObject{})).
		Watches(&corev1.Service{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, service client.Object) []reconcile.Request {
			return r.pendingRequests(ctx, service.GetNamespace())
		}), builder.WithPredicates(serviceChanged())).
		Watches(&v1alpha1.ServingCertPolicy{}, enqueuePending, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.ServiceCA{}, enqueuePending, builder.WithPredicates(keyring.Changed())).
		WithOptions(retry.Options(concurrency)).
		Complete(retry.WithQuietConflicts(retry.LimitSlowNamespaces(concurrency, r)))
}

// serviceChanged ignores updates of a Service that cannot affect any request. The selector matters,
// because it decides for which Services a pod gets a certificate.
func serviceChanged() predicate.Predicate {
	return predicate.Or(servingcert.ServiceChanged(), predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, _ := e.ObjectOld.(*corev1.Service)
		after, _ := e.ObjectNew.(*corev1.Service)
		return before != nil && after != nil && !maps.Equal(before.Spec.Selector, after.Spec.Selector)
	}})
}

// pendingRequests returns the unanswered requests of a namespace, or all if namespace is empty. It
// always includes requests of a cluster-scoped kind, because they can be for any namespace.
func (r *Reconciler[T]) pendingRequests(ctx context.Context, namespace string) []reconcile.Request {
	list := r.Kind.List()
	if err := r.requests.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list the requests for certificates")
	}
	var requests []reconcile.Request
	_ = apimeta.EachListItem(list, func(item runtime.Object) error {
		request, ok := item.(T)
		if ok && r.Kind.ServiceCAName(request) != "" && (namespace == "" || request.GetNamespace() == "" || request.GetNamespace() == namespace) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(request)})
		}
		return nil
	})
	return requests
}

// Reconcile answers one request.
func (r *Reconciler[T]) Reconcile(ctx context.Context, key ctrl.Request) (ctrl.Result, error) {
	request := r.Kind.New()
	if err := r.requests.Get(ctx, key.NamespacedName, request); err != nil {
		r.forget(key.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	ca := r.Kind.ServiceCAName(request)
	if ca == "" {
		r.forget(key.NamespacedName)
		return ctrl.Result{}, nil
	}
	result, err := r.answer(ctx, ca, request)
	switch {
	case err == nil:
		r.failures.ClearFailure(key.NamespacedName)
	case apply.IsConflict(err), apply.IgnoreGone(err) == nil:
		// Another client changed or deleted the request. If it still exists, its event triggers the
		// next reconciliation.
		return ctrl.Result{}, nil
	default:
		r.reportFailure(key.NamespacedName, request, err)
	}
	return result, err
}

func (r *Reconciler[T]) answer(ctx context.Context, ca string, request T) (ctrl.Result, error) {
	certificate, refusal, err := r.evaluate(ctx, ca, request)
	if err != nil {
		return ctrl.Result{}, err
	}
	var result ctrl.Result
	switch {
	case certificate != nil:
		if err = r.Kind.Issue(ctx, request, certificate); err == nil {
			r.Signer.Metrics.Signed(r.Kind.Name(), certificate.policy, metrics.Issued, certificate.took)
		}
	case refusal == nil:
		result.RequeueAfter = retryCAStarting
	default:
		refusal = refusal.boundedBy(r.Signer.Clock.Now(), request.GetCreationTimestamp().Time, r.Kind.MaxWait())
		if !refusal.Final {
			result.RequeueAfter = retryWaiting
		}
		if err = r.Kind.Refuse(ctx, request, refusal); err == nil {
			r.recordEvent(client.ObjectKeyFromObject(request), request, refusal)
		}
	}
	return result, err
}

func (r *Reconciler[T]) evaluate(ctx context.Context, ca string, request T) (*Certificate, *Refusal, error) {
	grant, refusal, err := r.Kind.Evaluate(ctx, request)
	if err != nil || refusal != nil {
		return nil, refusal, err
	}
	if refusal, err := r.awaitNextCA(ctx, ca, request); refusal != nil || err != nil {
		return nil, refusal, err
	}
	return r.Signer.sign(ctx, ca, grant)
}

// recordEvent records an Event for a refusal that differs from the last one.
func (r *Reconciler[T]) recordEvent(key types.NamespacedName, request T, refusal *Refusal) {
	if previous, reported := r.reported.Swap(key, refusal.String()); reported && previous == refusal.String() {
		return
	}
	r.Recorder.Eventf(r.Kind.EventObject(request), request, corev1.EventTypeWarning, refusal.Reason, "Sign", "%s", refusal.Message)
}

// reportFailure records an Event for an error about a request when one is due.
func (r *Reconciler[T]) reportFailure(key types.NamespacedName, request T, err error) {
	if failure, record := r.failures.RecordFailure(key, r.Signer.Clock.Now(), reasonAnswerRefused, err); record {
		r.Recorder.Eventf(r.Kind.EventObject(request), request, corev1.EventTypeWarning, failure.Reason, "Sign", "%s", failure.Message)
	}
}

// forget drops the state of a request that is deleted or answered.
func (r *Reconciler[T]) forget(key types.NamespacedName) {
	r.reported.Delete(key)
	r.failures.ClearFailure(key)
}
