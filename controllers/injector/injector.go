package injector

import (
	"cmp"
	"context"
	"errors"
	"strings"

	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
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
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/retry"
)

// concurrency is the number of workers, so that one slow object does not delay the others.
const concurrency = 8

// The indexes of the caches.
const (
	// indexCA indexes objects by the ServiceCA whose bundle they request.
	indexCA = "trust.serviceca"
	// indexPassword indexes objects by the Secret with the password of their truststore.
	indexPassword = "trust.password"
)

// Options configures an Injector.
type Options struct {
	// Cache reads ServiceCAs and the metadata of all kinds of targets except Secrets. Secrets reads
	// the metadata of Secrets.
	Cache, Secrets cache.Cache
	// Live reads and writes without a cache.
	Live     client.Client
	Keyring  *keyring.Keyring
	Recorder events.EventRecorder
	// OpenShiftAnnotations enables OpenShift's annotations. It is false if OpenShift's own service
	// CA runs in the cluster.
	OpenShiftAnnotations bool
	Clock                clock.PassiveClock
}

// Injector injects bundles into objects of all injectable kinds.
type Injector struct {
	options     Options
	reconcilers []*Reconciler
}

// New returns an Injector with a Reconciler for each kind.
func New(options Options) *Injector {
	t := &Injector{options: options}
	for _, kind := range Kinds() {
		t.reconcilers = append(t.reconcilers, &Reconciler{
			kind: kind, cache: options.Cache, targets: t.cacheOf(kind), live: options.Live, keyring: options.Keyring, recorder: options.Recorder,
			openShift: options.OpenShiftAnnotations, clock: options.Clock,
		})
	}
	return t
}

func (i *Injector) cacheOf(kind Kind) cache.Cache {
	if kind.is(Secrets) {
		return i.options.Secrets
	}
	return i.options.Cache
}

// Sources returns the sources of metadata of all objects that can request a bundle. caOf returns
// the ServiceCA whose bundle an object requests, or the one that publishes the object; it is empty
// if there is none.
func (i *Injector) Sources(handle func(caOf func(client.Object) string) handler.EventHandler) []source.Source {
	var sources []source.Source
	for _, r := range i.reconcilers {
		handled := handle(func(object client.Object) string {
			request, _ := r.kind.requestOf(object, r.openShift)
			return cmp.Or(request.ca, PublishedBy(object))
		})
		r.conflictsResolved = make(chan event.GenericEvent, concurrency)
		sources = append(sources, source.Kind[client.Object](i.cacheOf(r.kind), r.kind.Metadata(), handled), source.Channel(r.conflictsResolved, handled))
	}
	return sources
}

// SetupWithManager watches the metadata of all objects that can request a bundle, and the
// ServiceCAs for a new bundle.
func (i *Injector) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	var errs []error
	for _, r := range i.reconcilers {
		errs = append(errs, r.setup(ctx, mgr, i.cacheOf(r.kind), i.options.Secrets))
	}
	return errors.Join(errs...)
}

func (r *Reconciler) setup(ctx context.Context, mgr ctrl.Manager, targets, passwords cache.Cache) error {
	err := targets.IndexField(ctx, r.kind.Metadata(), indexCA, func(object client.Object) []string {
		if request, ok := r.kind.requestOf(object, r.openShift); ok {
			return []string{request.ca}
		}
		return nil
	})
	if err != nil {
		return err
	}
	concerned := predicate.NewPredicateFuncs(func(object client.Object) bool {
		_, ok := r.kind.requestOf(object, r.openShift)
		return ok || isMarked(object)
	})
	notReported := predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool { return !r.ownAnnotations.Observed(e.ObjectOld, e.ObjectNew) }}
	name := "trust-" + strings.ToLower(r.kind.Kind)
	building := ctrl.NewControllerManagedBy(mgr).
		Named(name).
		WatchesRawSource(source.Kind[client.Object](targets, r.kind.Metadata(), &handler.EnqueueRequestForObject{}, concerned, notReported)).
		Watches(&v1alpha1.ServiceCA{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, ca client.Object) []reconcile.Request {
			return r.requestersByIndex(ctx, indexCA, ca.GetName(), "")
		}), builder.WithPredicates(keyring.Changed())).
		WithOptions(retry.Options(concurrency))
	if r.kind.holdsData() {
		if err := r.watchPasswords(ctx, building, targets, passwords); err != nil {
			return err
		}
	}
	return building.Complete(retry.WithQuietConflicts(retry.LimitSlowNamespaces(concurrency, r)))
}

// watchPasswords reconciles a truststore when the Secret with its password is created or changes.
func (r *Reconciler) watchPasswords(ctx context.Context, building *builder.Builder, targets, passwords cache.Cache) error {
	building.WatchesRawSource(source.Kind[client.Object](passwords, Secrets.Metadata(), handler.EnqueueRequestsFromMapFunc(
		func(ctx context.Context, secret client.Object) []reconcile.Request {
			return r.requestersByIndex(ctx, indexPassword, secret.GetName(), secret.GetNamespace())
		})))
	return targets.IndexField(ctx, r.kind.Metadata(), indexPassword, func(object client.Object) []string {
		request, _ := r.kind.requestOf(object, r.openShift)
		if secret, _ := issuance.SplitPassword(request.password); request.truststore != "" && secret != "" {
			return []string{secret}
		}
		return nil
	})
}

// requestersByIndex returns the objects for which the index has the value, in a namespace, or in
// all if namespace is empty.
func (r *Reconciler) requestersByIndex(ctx context.Context, index, value, namespace string) []reconcile.Request {
	list := r.kind.metadataList()
	err := r.targets.List(ctx, list, client.InNamespace(namespace), client.MatchingFields{index: value}, client.UnsafeDisableDeepCopy)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list what asks for a bundle", "kind", r.kind.Kind, index, value)
	}
	requests := make([]reconcile.Request, 0, len(list.Items))
	for i := range list.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return requests
}
