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
	"github.com/servingcert/operator/controllers/internal/optional"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// retryClusterBundle is how often a ClusterTrustBundle is written again that was refused: nothing tells when it would not be.
const retryClusterBundle = time.Minute

// clusterBundle is the ClusterTrustBundle of a ServiceCA (KEP-3257), which any pod may mount.
type clusterBundle struct {
	// served tells whether the cluster knows the kind at all.
	served bool
	// found is what is there; nil where nothing is.
	found *certificatesv1.ClusterTrustBundle
	// unread is set where it could not be read: nobody knows whose it is.
	unread bool
	// theirs is set where somebody else made it.
	theirs bool
	// refused is why it cannot be written, which only somebody else can put right.
	refused string
	// awaited is set where that is a fault of the API server, for which a rotation waits within a bound, as for any target.
	awaited bool
}

func (r *Reconciler) observeClusterBundle(ctx context.Context, ca *v1alpha1.ServiceCA) (clusterBundle, error) {
	bundle := clusterBundle{served: r.clusterBundles.Load()}
	if !bundle.served {
		return bundle, nil
	}
	name := ca.ClusterTrustBundleName()
	var err error
	bundle.found, err = get(ctx, r.Live, client.ObjectKey{Name: name}, &certificatesv1.ClusterTrustBundle{})
	if before, refused := r.bundleRefused.Load(ca.UID); refused {
		bundle.refused, _ = before.(string)
	}
	if r.bundleFails(ca, err) || apierrors.IsForbidden(err) {
		bundle.refused, err = fmt.Sprintf("ClusterTrustBundle %s cannot be read: %v", name, err), nil
		bundle.found, bundle.unread = nil, true
	}
	if bundle.found != nil && bundle.found.Labels[v1alpha1.LabelServiceCA] != ca.Name {
		bundle.theirs = true
		bundle.refused = fmt.Sprintf("ClusterTrustBundle %s is left alone, because this ServiceCA did not make it: delete it, or label it %s=%s to hand it over",
			name, v1alpha1.LabelServiceCA, ca.Name)
	}
	bundle.awaited = bundle.refused != "" && !bundle.theirs && r.awaitsBundle(ca)
	return bundle, err
}

// bundleFails notes an error of a request about a ClusterTrustBundle, and reports whether such requests have failed for long enough to be reported.
func (r *Reconciler) bundleFails(ca *v1alpha1.ServiceCA, err error) bool {
	return r.bundleFailures.Failed(client.ObjectKeyFromObject(ca), r.Clock.Now(), err) != nil
}

// awaitsBundle reports whether a rotation waits for a ClusterTrustBundle about which requests fail.
func (r *Reconciler) awaitsBundle(ca *v1alpha1.ServiceCA) bool {
	key, now := client.ObjectKeyFromObject(ca), r.Clock.Now()
	return r.bundleFailures.Failing(key, now) != nil && !r.bundleFailures.Hopeless(key, now)
}

// holds tells whether it has this bundle.
func (b clusterBundle) holds(bundle []byte) bool {
	return b.found != nil && b.found.Spec.TrustBundle == string(bundle)
}

// publishClusterBundle brings the ClusterTrustBundle up to date, in the very version that was found, and tells whether it had to.
func (r *Reconciler) publishClusterBundle(ctx context.Context, in *observed, state *rotation.State) (changed bool, err error) {
	found := &in.clusterBundle
	if state == nil || !found.served || found.unread || found.theirs {
		return false, nil
	}
	bundle, ca, before := state.Bundle().Encode(), in.serviceCA, found.refused
	if found.holds(bundle) {
		// Somebody else may have put right what was refused to us.
		r.bundlePutRight(ca, found)
		return before != "", nil
	}
	configuration := certificatesac.ClusterTrustBundle(ca.ClusterTrustBundleName()).
		WithLabels(map[string]string{v1alpha1.LabelServiceCA: ca.Name}).
		WithSpec(certificatesac.ClusterTrustBundleSpec().WithSignerName(ca.SignerName()).WithTrustBundle(string(bundle)))
	options := []client.ApplyOption{apply.ServiceCA}
	if found.found != nil {
		configuration.WithUID(found.found.UID).WithResourceVersion(found.found.ResourceVersion)
		options = append(options, client.ForceOwnership)
	}
	err = r.Live.Apply(ctx, configuration, options...)
	if apply.Refused(err) {
		r.bundleFailures.Recovered(client.ObjectKeyFromObject(ca))
	}
	if r.bundleFails(ca, err) || apply.Refused(err) || optional.Absent(err) {
		found.refused = fmt.Sprintf("ClusterTrustBundle %s cannot be written: %v", ca.ClusterTrustBundleName(), err)
		found.awaited = r.awaitsBundle(ca)
		// Remembered, so that the next decision does not wait for it.
		r.bundleRefused.Store(ca.UID, found.refused)
		return found.refused != before, nil
	}
	if err != nil {
		return false, fmt.Errorf("write ClusterTrustBundle %s: %w", ca.ClusterTrustBundleName(), err)
	}
	r.bundlePutRight(ca, found)
	found.found = &certificatesv1.ClusterTrustBundle{Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: string(bundle)}}
	return true, nil
}

// bundlePutRight forgets what kept a ClusterTrustBundle from being written.
func (r *Reconciler) bundlePutRight(ca *v1alpha1.ServiceCA, found *clusterBundle) {
	r.bundleRefused.Delete(ca.UID)
	r.bundleFailures.Recovered(client.ObjectKeyFromObject(ca))
	found.refused, found.awaited = "", false
}

// watchClusterBundles watches those that are ours, as soon as the cluster serves them.
func (r *Reconciler) watchClusterBundles(ctx context.Context, mgr ctrl.Manager, watcher controller.Controller) error {
	served := func(ctx context.Context) (bool, error) {
		return optional.Served(ctx, r.Live, &certificatesv1.ClusterTrustBundleList{})
	}
	open := func(context.Context) error {
		bundles, err := clusterBundles(mgr)
		if err != nil {
			return err
		}
		r.clusterBundles.Store(true)
		everyone := source.Func(func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			for _, one := range r.casWhere(ctx, func(*v1alpha1.ServiceCA) bool { return true }) {
				queue.Add(one)
			}
			return nil
		})
		ours := source.Kind[client.Object](bundles, &certificatesv1.ClusterTrustBundle{}, handler.EnqueueRequestsFromMapFunc(
			func(_ context.Context, bundle client.Object) []reconcile.Request {
				return []reconcile.Request{request(bundle.GetLabels()[v1alpha1.LabelServiceCA])}
			}))
		if err := watcher.Watch(ours); err != nil {
			return err
		}
		return watcher.Watch(everyone)
	}
	// Asked before anything is counted: a rotation must not pass over what is only not known yet.
	if there, err := served(ctx); there || err != nil {
		if err != nil {
			return fmt.Errorf("find out whether ClusterTrustBundles are served: %w", err)
		}
		return open(ctx)
	}
	return optional.Start(mgr, served, open)
}

func clusterBundles(mgr ctrl.Manager) (cache.Cache, error) {
	made, err := labels.NewRequirement(v1alpha1.LabelServiceCA, selection.Exists, nil)
	if err != nil {
		return nil, err
	}
	bundles, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		DefaultLabelSelector: labels.NewSelector().Add(*made), DefaultTransform: cache.TransformStripManagedFields(),
	})
	if err != nil {
		return nil, err
	}
	return bundles, mgr.Add(bundles)
}

// tellClusterBundle says once, on each ServiceCA, what its cluster lacks.
func (r *Reconciler) tellClusterBundle(ca *v1alpha1.ServiceCA, found clusterBundle) {
	switch {
	case found.served:
		r.toldAbsent.Delete(ca.UID)
	default:
		if _, told := r.toldAbsent.LoadOrStore(ca.UID, true); !told {
			r.Recorder.Eventf(ca, nil, corev1.EventTypeNormal, "ClusterTrustBundlesNotServed", "Publish",
				"this cluster serves no certificates.k8s.io/v1 ClusterTrustBundles (Kubernetes 1.37): the bundle is published as one when it does")
		}
	}
}
