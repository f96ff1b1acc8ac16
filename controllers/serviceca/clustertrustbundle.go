package serviceca

import (
	"context"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	certificatesac "k8s.io/client-go/applyconfigurations/certificates/v1"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/availability"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// retryClusterTrustBundle is how often the operator retries to write a ClusterTrustBundle that was
// rejected: no event announces that it would be accepted.
const retryClusterTrustBundle = time.Minute

// clusterTrustBundle is the observed ClusterTrustBundle of a ServiceCA (KEP-3257). Any pod may
// mount it.
type clusterTrustBundle struct {
	// served reports whether the API server serves ClusterTrustBundles.
	served bool
	// live is the existing object; nil when there is none.
	live *certificatesv1.ClusterTrustBundle
	// unreadable is set when the object could not be read, so its owner is unknown.
	unreadable bool
	// foreign is set when another client created the object.
	foreign bool
	// rejection is why the object cannot be written; the operator cannot correct that itself.
	rejection string
	// awaited is set when the rejection is a failure of the API server. A rotation waits for it for a
	// bounded time, as for any target.
	awaited bool
}

func (r *Reconciler) observeClusterTrustBundle(ctx context.Context, ca *v1alpha1.ServiceCA) (clusterTrustBundle, error) {
	bundle := clusterTrustBundle{served: r.clusterTrustBundlesServed.Load()}
	if !bundle.served {
		return bundle, nil
	}
	name := ca.ClusterTrustBundleName()
	var err error
	bundle.live, err = get(ctx, r.Live, client.ObjectKey{Name: name}, &certificatesv1.ClusterTrustBundle{})
	if before, refused := r.bundleRejections.Load(ca.UID); refused {
		bundle.rejection, _ = before.(string)
	}
	if r.recordBundleFailure(ca, err) || apierrors.IsForbidden(err) {
		bundle.rejection, err = fmt.Sprintf("ClusterTrustBundle %s cannot be read: %v", name, err), nil
		bundle.live, bundle.unreadable = nil, true
	}
	if bundle.live != nil && bundle.live.Labels[v1alpha1.LabelServiceCA] != ca.Name {
		bundle.foreign = true
		bundle.rejection = fmt.Sprintf("ClusterTrustBundle %s is left alone, because this ServiceCA did not make it: delete it, or label it %s=%s to hand it over",
			name, v1alpha1.LabelServiceCA, ca.Name)
	}
	bundle.awaited = bundle.rejection != "" && !bundle.foreign && r.waitsForBundle(ca)
	return bundle, err
}

// recordBundleFailure records the error of a request about a ClusterTrustBundle, and reports
// whether such requests have failed for long enough to be reported.
func (r *Reconciler) recordBundleFailure(ca *v1alpha1.ServiceCA, err error) bool {
	return r.bundleFailures.RecordFailure(client.ObjectKeyFromObject(ca), r.Clock.Now(), err) != nil
}

// waitsForBundle reports whether a rotation waits for a ClusterTrustBundle for which requests fail.
func (r *Reconciler) waitsForBundle(ca *v1alpha1.ServiceCA) bool {
	key, now := client.ObjectKeyFromObject(ca), r.Clock.Now()
	return r.bundleFailures.Failure(key, now) != nil && !r.bundleFailures.Unresolvable(key, now)
}

// contains reports whether the ClusterTrustBundle has this bundle.
func (b clusterTrustBundle) contains(bundle []byte) bool {
	return b.live != nil && b.live.Spec.TrustBundle == string(bundle)
}

// publishClusterTrustBundle updates the ClusterTrustBundle, and reports whether a write was needed
// or the rejection changed. The write applies only to the version that was read.
func (r *Reconciler) publishClusterTrustBundle(ctx context.Context, in *observed, state *rotation.State) (changed bool, err error) {
	bundleState := &in.clusterTrustBundle
	if state == nil || !bundleState.served || bundleState.unreadable || bundleState.foreign {
		return false, nil
	}
	bundle, ca, before := state.Bundle().Encode(), in.serviceCA, bundleState.rejection
	if bundleState.contains(bundle) {
		// Another client may have written the bundle that the operator could not write.
		r.clearBundleRejection(ca, bundleState)
		return before != "", nil
	}
	configuration := certificatesac.ClusterTrustBundle(ca.ClusterTrustBundleName()).
		WithLabels(map[string]string{v1alpha1.LabelServiceCA: ca.Name}).
		WithSpec(certificatesac.ClusterTrustBundleSpec().WithSignerName(ca.SignerName()).WithTrustBundle(string(bundle)))
	options := []client.ApplyOption{apply.ServiceCA}
	if bundleState.live != nil {
		configuration.WithUID(bundleState.live.UID).WithResourceVersion(bundleState.live.ResourceVersion)
		options = append(options, client.ForceOwnership)
	}
	err = r.Live.Apply(ctx, configuration, options...)
	if apply.IsRejected(err) {
		r.bundleFailures.ClearFailure(client.ObjectKeyFromObject(ca))
	}
	if r.recordBundleFailure(ca, err) || apply.IsRejected(err) || availability.IsNotServed(err) {
		bundleState.rejection = fmt.Sprintf("ClusterTrustBundle %s cannot be written: %v", ca.ClusterTrustBundleName(), err)
		bundleState.awaited = r.waitsForBundle(ca)
		// Stored, so that the next decision does not wait for this ClusterTrustBundle.
		r.bundleRejections.Store(ca.UID, bundleState.rejection)
		return bundleState.rejection != before, nil
	}
	if err != nil {
		return false, fmt.Errorf("write ClusterTrustBundle %s: %w", ca.ClusterTrustBundleName(), err)
	}
	r.clearBundleRejection(ca, bundleState)
	bundleState.live = &certificatesv1.ClusterTrustBundle{Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: string(bundle)}}
	return true, nil
}

// clearBundleRejection clears the recorded reason why a ClusterTrustBundle could not be written.
func (r *Reconciler) clearBundleRejection(ca *v1alpha1.ServiceCA, found *clusterTrustBundle) {
	r.bundleRejections.Delete(ca.UID)
	r.bundleFailures.ClearFailure(client.ObjectKeyFromObject(ca))
	found.rejection, found.awaited = "", false
}

// watchClusterTrustBundles watches the operator's ClusterTrustBundles as soon as the API server
// serves the kind.
func (r *Reconciler) watchClusterTrustBundles(ctx context.Context, mgr ctrl.Manager, watcher controller.Controller) error {
	served := func(ctx context.Context) (bool, error) {
		return availability.IsServed(ctx, r.Live, &certificatesv1.ClusterTrustBundleList{})
	}
	open := func(context.Context) error {
		bundles, err := newClusterTrustBundleCache(mgr)
		if err != nil {
			return err
		}
		r.clusterTrustBundlesServed.Store(true)
		all := source.Func(func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			for _, one := range r.casWhere(ctx, func(*v1alpha1.ServiceCA) bool { return true }) {
				queue.Add(one)
			}
			return nil
		})
		owned := source.Kind[client.Object](bundles, &certificatesv1.ClusterTrustBundle{}, handler.EnqueueRequestsFromMapFunc(
			func(_ context.Context, bundle client.Object) []reconcile.Request {
				return []reconcile.Request{request(bundle.GetLabels()[v1alpha1.LabelServiceCA])}
			}))
		if err := watcher.Watch(owned); err != nil {
			return err
		}
		return watcher.Watch(all)
	}
	// Checked before evidence is collected: a rotation must not ignore ClusterTrustBundles only
	// because discovery has not run yet.
	if ok, err := served(ctx); ok || err != nil {
		if err != nil {
			return fmt.Errorf("find out whether ClusterTrustBundles are served: %w", err)
		}
		return open(ctx)
	}
	return availability.StartWhenAvailable(mgr, served, open)
}

func newClusterTrustBundleCache(mgr ctrl.Manager) (cache.Cache, error) {
	ownedByServiceCA, err := labels.NewRequirement(v1alpha1.LabelServiceCA, selection.Exists, nil)
	if err != nil {
		return nil, err
	}
	bundles, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		DefaultLabelSelector: labels.NewSelector().Add(*ownedByServiceCA), DefaultTransform: cache.TransformStripManagedFields(),
	})
	if err != nil {
		return nil, err
	}
	return bundles, mgr.Add(bundles)
}

// reportClusterTrustBundle records an Event, once for each ServiceCA, when the cluster does not
// serve ClusterTrustBundles.
func (r *Reconciler) reportClusterTrustBundle(ca *v1alpha1.ServiceCA, bundle clusterTrustBundle) {
	switch {
	case bundle.served:
		r.reportedNotServed.Delete(ca.UID)
	default:
		if _, reported := r.reportedNotServed.LoadOrStore(ca.UID, true); !reported {
			r.Recorder.Eventf(ca, nil, corev1.EventTypeNormal, "ClusterTrustBundlesNotServed", "Publish",
				"this cluster serves no certificates.k8s.io/v1 ClusterTrustBundles (Kubernetes 1.37): the bundle is published as one when it does")
		}
	}
}
