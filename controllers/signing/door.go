package signing

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
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/optional"
	"github.com/servingcert/operator/controllers/internal/pace"
	"github.com/servingcert/operator/controllers/internal/retry"
	"github.com/servingcert/operator/controllers/metrics"
	"github.com/servingcert/operator/controllers/servingcert"
)

// Door is a kind of request.
type Door[T client.Object] interface {
	// Name is the controller's.
	Name() string
	// New is an empty request, and List an empty list of them.
	New() T
	List() client.ObjectList
	// Slim leaves of a request what the door reads, for a cache; of one that goes to another signer, next to nothing. It may be called twice.
	Slim(T)
	// CA is the ServiceCA that a request goes to, empty for another signer, and while it waits for others or is answered.
	CA(T) string
	// Claim is what it comes to, or why it comes to nothing.
	Claim(context.Context, T) (*Claim, *Refusal, error)
	// Issue answers by a certificate, Refuse by a refusal, in one write each; a refusal that is not final may be left for Tell to tell.
	Issue(context.Context, T, *Certificate) error
	Refuse(context.Context, T, *Refusal) error
	// CanWait returns until when a request may wait for the next CA, because its holder has a sound
	// certificate; zero where it cannot.
	CanWait(context.Context, T) (time.Time, error)
	// Answer returns what a slim request got.
	Answer(T) Answer
	// Bound returns how long a request waits for what is missing; zero where Kubernetes itself removes
	// a request that waits.
	Bound() time.Duration
	// About is whom an Event is for.
	About(T) runtime.Object
}

const (
	// concurrency hides the latency of the API server.
	concurrency = 4
	// retryMoment is when a request is looked at again whose CA signs in a moment, and retryWaiting one that waits for somebody.
	retryMoment, retryWaiting = 2 * time.Second, 30 * time.Second
)

// reasonAnswerRefused is of a request whose answer the API server does not take.
const reasonAnswerRefused = "AnswerRefused"

// Reconciler answers the requests at one door.
type Reconciler[T client.Object] struct {
	Door     Door[T]
	Signer   Signer
	Live     client.Client
	Recorder events.EventRecorder

	// requests can be read once the door is opened; absent is set while there are none to read.
	requests       cache.Cache
	opened, absent atomic.Bool
	// told are the refusals that were told of, by the request: each is told once.
	told sync.Map
	// failures are the requests whose answers the API server does not write.
	failures pace.Reports
}

// SetupWithManager opens the door as soon as the cluster serves the requests, and lets us see them.
func (r *Reconciler[T]) SetupWithManager(mgr ctrl.Manager) error {
	served := func(ctx context.Context) (bool, error) {
		there, err := optional.Served(ctx, r.Live, r.Door.List())
		r.absent.Store(!there && err == nil)
		return there, err
	}
	return optional.Start(mgr, served, func(ctx context.Context) error { return r.open(ctx, mgr) })
}

func (r *Reconciler[T]) open(ctx context.Context, mgr ctrl.Manager) error {
	var err error
	r.requests, err = cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		ByObject: map[client.Object]cache.ByObject{r.Door.New(): {Transform: func(object any) (any, error) {
			if request, ok := object.(T); ok {
				request.SetManagedFields(nil)
				r.Door.Slim(request)
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
	// The manager runs: it starts what is added, but does not wait for that, and the handlers below read from this cache at once.
	if !r.requests.WaitForCacheSync(ctx) {
		return ctx.Err()
	}
	r.opened.Store(true)
	waiting := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, _ client.Object) []reconcile.Request { return r.waiting(ctx, "") })
	return ctrl.NewControllerManagedBy(mgr).
		Named(r.Door.Name()).
		WatchesRawSource(source.Kind(r.requests, client.Object(r.Door.New()), &handler.EnqueueRequestForObject{})).
		Watches(&corev1.Service{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, service client.Object) []reconcile.Request {
			return r.waiting(ctx, service.GetNamespace())
		}), builder.WithPredicates(serviceChanged())).
		Watches(&v1alpha1.ServingCertPolicy{}, waiting, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.ServiceCA{}, waiting, builder.WithPredicates(keyring.Changed())).
		WithOptions(retry.Options(concurrency)).
		Complete(retry.Quietly(retry.Fairly(concurrency, r)))
}

// serviceChanged passes over the changes of a Service that decide nothing. Which pods it selects decides what these may have.
func serviceChanged() predicate.Predicate {
	return predicate.Or(servingcert.ServiceChanged(), predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, _ := e.ObjectOld.(*corev1.Service)
		after, _ := e.ObjectNew.(*corev1.Service)
		return before != nil && after != nil && !maps.Equal(before.Spec.Selector, after.Spec.Selector)
	}})
}

// waiting are the requests of a namespace, or of all, that are not answered; those that have no namespace wait for each.
func (r *Reconciler[T]) waiting(ctx context.Context, namespace string) []reconcile.Request {
	list := r.Door.List()
	if err := r.requests.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list the requests for certificates")
	}
	var requests []reconcile.Request
	_ = apimeta.EachListItem(list, func(item runtime.Object) error {
		request, ok := item.(T)
		if ok && r.Door.CA(request) != "" && (namespace == "" || request.GetNamespace() == "" || request.GetNamespace() == namespace) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(request)})
		}
		return nil
	})
	return requests
}

// Reconcile answers one request.
func (r *Reconciler[T]) Reconcile(ctx context.Context, key ctrl.Request) (ctrl.Result, error) {
	request := r.Door.New()
	if err := r.requests.Get(ctx, key.NamespacedName, request); err != nil {
		r.forget(key.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	ca := r.Door.CA(request)
	if ca == "" {
		r.forget(key.NamespacedName)
		return ctrl.Result{}, nil
	}
	result, err := r.answer(ctx, ca, request)
	switch {
	case err == nil:
		r.failures.Recovered(key.NamespacedName)
	case apply.Conflict(err), apply.IgnoreGone(err) == nil:
		// Somebody answered it, or it is gone: the next event tells.
		return ctrl.Result{}, nil
	default:
		r.failed(key.NamespacedName, request, err)
	}
	return result, err
}

func (r *Reconciler[T]) answer(ctx context.Context, ca string, request T) (ctrl.Result, error) {
	certificate, refusal, err := r.judge(ctx, ca, request)
	if err != nil {
		return ctrl.Result{}, err
	}
	var result ctrl.Result
	switch {
	case certificate != nil:
		if err = r.Door.Issue(ctx, request, certificate); err == nil {
			r.Signer.Metrics.Signed(r.Door.Name(), certificate.policy, metrics.Issued, certificate.took)
		}
	case refusal == nil:
		result.RequeueAfter = retryMoment
	default:
		refusal = refusal.within(r.Signer.Clock.Now(), request.GetCreationTimestamp().Time, r.Door.Bound())
		if !refusal.Final {
			result.RequeueAfter = retryWaiting
		}
		if err = r.Door.Refuse(ctx, request, refusal); err == nil {
			r.tell(client.ObjectKeyFromObject(request), request, refusal)
		}
	}
	return result, err
}

func (r *Reconciler[T]) judge(ctx context.Context, ca string, request T) (*Certificate, *Refusal, error) {
	claim, refusal, err := r.Door.Claim(ctx, request)
	if err != nil || refusal != nil {
		return nil, refusal, err
	}
	if refusal, err := r.awaitNextCA(ctx, ca, request); refusal != nil || err != nil {
		return nil, refusal, err
	}
	return r.Signer.sign(ctx, ca, claim)
}

// tell makes an Event of a refusal that is a new one.
func (r *Reconciler[T]) tell(key types.NamespacedName, request T, refusal *Refusal) {
	if before, told := r.told.Swap(key, refusal.String()); told && before == refusal.String() {
		return
	}
	r.Recorder.Eventf(r.Door.About(request), request, corev1.EventTypeWarning, refusal.Reason, "Sign", "%s", refusal.Message)
}

// failed records an Event of an error about a request, where one is due.
func (r *Reconciler[T]) failed(key types.NamespacedName, request T, err error) {
	if failure, record := r.failures.Failed(key, r.Signer.Clock.Now(), reasonAnswerRefused, err); record {
		r.Recorder.Eventf(r.Door.About(request), request, corev1.EventTypeWarning, failure.Reason, "Sign", "%s", failure.Message)
	}
}

// forget drops what is remembered of a request that is gone or answered.
func (r *Reconciler[T]) forget(key types.NamespacedName) {
	r.told.Delete(key)
	r.failures.Recovered(key)
}
