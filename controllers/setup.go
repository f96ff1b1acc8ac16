// Package controllers wires the controllers together.
package controllers

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
	"unique"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/certificatesigning"
	"github.com/servingcert/operator/controllers/certmanager"
	"github.com/servingcert/operator/controllers/certrequest"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/conflict"
	"github.com/servingcert/operator/controllers/internal/installation"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/policy"
	"github.com/servingcert/operator/controllers/internal/wallclock"
	"github.com/servingcert/operator/controllers/metrics"
	"github.com/servingcert/operator/controllers/podcertificate"
	"github.com/servingcert/operator/controllers/publish"
	"github.com/servingcert/operator/controllers/restart"
	"github.com/servingcert/operator/controllers/serviceca"
	"github.com/servingcert/operator/controllers/servingcert"
	"github.com/servingcert/operator/controllers/servingcertpolicy"
)

// reportingController is the reportingController of the operator's Events.
const reportingController = "servingcert.dev/operator"

// Options configures the controllers.
type Options struct {
	// Namespace is the operator's own namespace, which holds the signing keys.
	Namespace string
	// ClusterDomain is the DNS domain of the cluster.
	ClusterDomain string
	// Clock returns the current time.
	Clock clock.PassiveClock
	// ReissueRate is the number of certificates that the operator reissues per second after a CA
	// rotation; 0 means no limit.
	ReissueRate float64
	// Metrics is the registry for the operator's metrics.
	Metrics prometheus.Registerer
	// RestartKinds are further kinds of workloads that the operator restarts.
	RestartKinds []schema.GroupVersionResource
}

// ManagerOptions returns the options of a manager for these controllers. Its caches hold no more
// than the controllers need: digests of the operator's own Secrets, metadata of ConfigMaps and
// namespaces, the fields of Services that affect certificates, and the references of workloads to
// Secrets and ConfigMaps. The manager's client reads its own writes.
func ManagerOptions() (ctrl.Options, error) {
	scheme := runtime.NewScheme()
	builder := runtime.NewSchemeBuilder(corev1.AddToScheme, appsv1.AddToScheme, authorizationv1.AddToScheme, policyv1.AddToScheme,
		certificatesv1.AddToScheme, cmapi.AddToScheme, v1alpha1.AddToScheme)
	if err := builder.AddToScheme(scheme); err != nil {
		return ctrl.Options{}, err
	}
	made, err := labels.NewRequirement(v1alpha1.LabelService, selection.Exists, nil)
	if err != nil {
		return ctrl.Options{}, err
	}
	options := ctrl.Options{
		Scheme: scheme,
		// A reconciliation that exceeds the timeout is retried. The API server cancels a request
		// after one minute; its response names the cause, such as a webhook that hangs, so our
		// timeout is longer.
		Controller: config.Controller{ReconciliationTimeout: 90 * time.Second},
		Client:     client.Options{Cache: &client.CacheOptions{EnableReadYourWritesConsistency: new(true)}},
		Cache: cache.Options{
			ReaderFailOnMissingInformer: true,
			DefaultTransform:            cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&corev1.Secret{}: {
					Label:     labels.NewSelector().Add(*made),
					Field:     fields.OneTermEqualSelector("type", string(corev1.SecretTypeTLS)),
					Transform: digestSecret,
				},
				&appsv1.Deployment{}:            {Transform: stripWorkload},
				&appsv1.StatefulSet{}:           {Transform: stripWorkload},
				&appsv1.DaemonSet{}:             {Transform: stripWorkload},
				&corev1.Service{}:               {Transform: stripService},
				servingcert.NamespaceMetadata(): {Transform: stripNamespace},
			},
		},
	}
	for _, kind := range injector.Kinds() {
		if kind.GroupVersionKind != injector.Secrets.GroupVersionKind {
			options.Cache.ByObject[kind.Metadata()] = cache.ByObject{Transform: stripTarget}
		}
	}
	return options, nil
}

func digestSecret(object any) (any, error) {
	// The cache calls the transform twice for objects of a list.
	if secret, ok := object.(*corev1.Secret); ok && !issuance.IsDigest(secret) {
		keepOwnAnnotations(secret)
		secret.SetLabels(ownKeys(secret.GetLabels()))
		issuance.Digest(secret)
		secret.SetFinalizers(nil)
		secret.Type, secret.Namespace = corev1.SecretTypeTLS, unique.Make(secret.Namespace).Value()
		for i := range secret.OwnerReferences {
			owner := &secret.OwnerReferences[i]
			owner.APIVersion, owner.Kind = unique.Make(owner.APIVersion).Value(), unique.Make(owner.Kind).Value()
		}
	}
	return object, nil
}

func stripService(object any) (any, error) {
	service, ok := object.(*corev1.Service)
	if !ok {
		return object, nil
	}
	service.ManagedFields, service.Namespace = nil, unique.Make(service.Namespace).Value()
	keepOwnAnnotations(service)
	service.Spec = corev1.ServiceSpec{
		ClusterIP: service.Spec.ClusterIP, Type: unique.Make(service.Spec.Type).Value(), Selector: service.Spec.Selector,
	}
	service.Status = corev1.ServiceStatus{}
	return service, nil
}

func stripWorkload(object any) (any, error) {
	if workload, ok := object.(client.Object); ok {
		restart.StripForCache(workload)
		keepOwnAnnotations(workload)
	}
	return object, nil
}

func stripNamespace(object any) (any, error) {
	if namespace, err := meta.Accessor(object); err == nil {
		namespace.SetManagedFields(nil)
		keepOwnAnnotations(namespace)
	}
	return object, nil
}

// stripTarget reduces an object that could request a bundle to little more than its name. Most
// objects of these kinds in a cluster request none.
func stripTarget(object any) (any, error) {
	target, err := meta.Accessor(object)
	if err != nil {
		return object, nil //nolint:nilerr // a tombstone is passed on as it is
	}
	injector.StripForCache(target)
	keepOwnAnnotations(target)
	target.SetLabels(ownKeys(target.GetLabels()))
	target.SetOwnerReferences(nil)
	target.SetFinalizers(nil)
	return object, nil
}

const (
	// maxAnnotation is the number of bytes of an annotation that the caches keep. It exceeds every
	// annotation that the operator reads, the longest of which reports a problem; a tenant can
	// write 256 KiB.
	maxAnnotation = 1 << 10
	// maxAnnotations is larger than the number of annotations that the operator reads.
	maxAnnotations = 16
)

// keepOwnAnnotations removes the annotations that the operator does not read.
func keepOwnAnnotations(object metav1.Object) {
	object.SetAnnotations(ownKeys(object.GetAnnotations()))
}

// ownKeys returns the annotations or labels that the operator reads, with the count and the values
// truncated to maxAnnotations and maxAnnotation.
func ownKeys(all map[string]string) map[string]string {
	var keys []string
	for key := range all {
		prefix, _, _ := strings.Cut(key, "/")
		if prefix == v1alpha1.GroupName || prefix == string(issuance.OpenShift) || prefix == string(issuance.OpenShiftAlpha) {
			keys = append(keys, key)
		}
	}
	if keys == nil {
		return nil
	}
	if len(keys) > maxAnnotations {
		slices.Sort(keys)
		keys = keys[:maxAnnotations]
	}
	result := make(map[string]string, len(keys))
	for _, key := range keys {
		value := all[key]
		// All objects share the same few keys, so each key is kept in memory once.
		result[unique.Make(key).Value()] = strings.Clone(value[:min(len(value), maxAnnotation)])
	}
	return result
}

// Setup adds all controllers to a manager that was created with ManagerOptions.
func Setup(ctx context.Context, mgr ctrl.Manager, options Options) error {
	live, err := newClient(mgr)
	if err != nil {
		return err
	}
	secrets, err := secretMetadata(mgr)
	if err != nil {
		return err
	}
	rules, err := resolver(mgr, options)
	if err != nil {
		return err
	}
	signed, err := metrics.NewSigning(options.Metrics)
	if err != nil {
		return err
	}
	clockWatcher, keys := wallclock.NewWatcher(options.Clock), keyring.New(live, options.Namespace, options.Clock)
	recorder := truncatingRecorder{mgr.GetEventRecorder(reportingController)}
	claim := &installation.Claim{Cache: mgr.GetCache(), Live: live, Recorder: recorder, Clock: options.Clock, Namespace: options.Namespace}
	if mgr, err = guard(mgr, claim, secrets); err != nil {
		return err
	}
	view := servingcert.View{Reader: mgr.GetCache(), Resolver: rules, PolicySets: &policy.SetCache{}, Conflicts: &conflict.Tracker{}, Clock: options.Clock}
	targets := injector.New(injector.Options{
		Cache: mgr.GetCache(), Secrets: secrets, Live: live, Keyring: keys, Recorder: recorder, Clock: options.Clock, OpenShiftAnnotations: rules.OpenShiftAnnotations,
	})
	restarts := restart.New(restart.Reconciler{
		Client: mgr.GetClient(), View: view, Live: live, Recorder: recorder, Clock: options.Clock,
		MountedServiceCA: targets.MountedServiceCA, Filled: targets.Filled, Kinds: options.RestartKinds,
	})
	requestReconcilers := newCertificateRequests(certrequest.Signer{View: view, Keyring: keys, Clock: options.Clock, Metrics: signed}, live, recorder)
	publisher := publish.New(&publish.Publisher{
		Cache: mgr.GetCache(), Live: live, Keyring: keys, Recorder: recorder, Clock: options.Clock, RequestedServiceCA: targets.MountedServiceCA, Namespace: options.Namespace,
	})
	cas := &serviceca.Reconciler{
		Client: mgr.GetClient(), Cache: mgr.GetCache(), Live: live, Keyring: keys, Recorder: recorder, Clock: options.Clock,
		Namespace: options.Namespace, Targets: targets, Claims: view.Claims, ReissueRate: options.ReissueRate,
		Restarts: restarts.RestartsFor, RestartsChanged: restarts.RotationChanges(),
		IssuedCertificates: requestReconcilers.issued, Signatures: pki.NewSignatures(), Published: publisher.Count, PublishedChanged: publisher.Changes(),
	}
	aggregator, failures := servingcert.NewEventAggregator(recorder, options.Clock), make(chan event.GenericEvent, 1)
	services := &servingcert.Reconciler{
		Client: mgr.GetClient(), View: view, Live: live, Keyring: keys, Recorder: recorder, Events: aggregator, Expectations: &servingcert.Expectations{}, Clock: options.Clock,
		Usage: &servingcert.SecretUsage{Live: live, Clock: options.Clock}, Metrics: signed, RejectionBackoff: servingcert.NewRejectionBackoff(), FailuresChanged: failures,
	}
	policies := &servingcertpolicy.Reconciler{
		Client: mgr.GetClient(), View: view, Keyring: keys, Recorder: recorder, Events: aggregator, Clock: options.Clock,
		Restarts: restarts.Report, RestartsChanged: restarts.PolicyChanges(), FailuresChanged: failures,
	}
	return errors.Join(
		requestReconcilers.setup(mgr),
		targets.SetupWithManager(ctx, mgr),
		publisher.SetupWithManager(ctx, mgr),
		cas.SetupWithManager(ctx, mgr, secrets, clockWatcher),
		services.SetupWithManager(ctx, mgr, secrets, clockWatcher),
		policies.SetupWithManager(mgr, clockWatcher),
		restarts.SetupWithManager(mgr, clockWatcher),
		mgr.Add(clockWatcher),
		mgr.Add(&metrics.Collector{Cache: mgr.GetCache(), Registry: options.Metrics}),
	)
}

// resolver returns the rules by which Services get certificates. OpenShift's annotations count
// where OpenShift's own operator does not run.
func resolver(mgr ctrl.Manager, options Options) (issuance.Resolver, error) {
	openShift, err := runsOpenShiftServiceCA(mgr.GetRESTMapper())
	return issuance.Resolver{ClusterDomain: options.ClusterDomain, OpenShiftAnnotations: !openShift}, err
}

// newClient returns a client without a cache.
func newClient(mgr ctrl.Manager) (client.Client, error) {
	return client.New(mgr.GetConfig(), client.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
	})
}

// guard adds the probes and returns a manager that starts no controller until this installation has
// claimed the ServiceCAs of the cluster.
func guard(mgr ctrl.Manager, claim *installation.Claim, secrets cache.Cache) (ctrl.Manager, error) {
	if err := addProbes(mgr, claim, mgr.GetCache(), secrets); err != nil {
		return nil, err
	}
	return claim.Guard(mgr)
}

// certificateRequests holds the reconcilers that sign public keys which clients send in requests.
type certificateRequests struct {
	pods     *certrequest.Reconciler[*certificatesv1.PodCertificateRequest]
	requests *certrequest.Reconciler[*certificatesv1.CertificateSigningRequest]
	issuer   *certrequest.Reconciler[*cmapi.CertificateRequest]
}

func newCertificateRequests(signer certrequest.Signer, live client.Client, recorder events.EventRecorder) certificateRequests {
	return certificateRequests{
		pods: &certrequest.Reconciler[*certificatesv1.PodCertificateRequest]{
			Kind: podcertificate.RequestKind{Signer: signer, Live: live, Clock: signer.Clock}, Signer: signer, Live: live, Recorder: recorder,
		},
		requests: &certrequest.Reconciler[*certificatesv1.CertificateSigningRequest]{
			Kind: certificatesigning.RequestKind{Signer: signer, Live: live, Clock: signer.Clock}, Signer: signer, Live: live, Recorder: recorder,
		},
		issuer: &certrequest.Reconciler[*cmapi.CertificateRequest]{
			Kind: certmanager.RequestKind{Signer: signer, Live: live, Clock: signer.Clock}, Signer: signer, Live: live, Recorder: recorder,
		},
	}
}

func (c certificateRequests) setup(mgr ctrl.Manager) error {
	return errors.Join(c.pods.SetupWithManager(mgr), c.requests.SetupWithManager(mgr), c.issuer.SetupWithManager(mgr))
}

// issued returns the certificates that the ServiceCA issued to requests of all kinds. known is
// false until the requests of every kind are known.
func (c certificateRequests) issued(ctx context.Context, ca string) (all []certrequest.Issued, known bool, err error) {
	known = true
	for _, list := range []func(context.Context, string) ([]certrequest.Issued, bool, error){c.pods.IssuedCertificates, c.requests.IssuedCertificates, c.issuer.IssuedCertificates} {
		issued, synced, listErr := list(ctx, ca)
		all, known, err = append(all, issued...), known && synced, errors.Join(err, listErr)
	}
	return all, known, err
}

// secretMetadata returns a cache of the metadata of all Secrets except serving certificates. Those
// other Secrets can request a bundle, and some hold a CA that an administrator supplies.
func secretMetadata(mgr ctrl.Manager) (cache.Cache, error) {
	others, err := labels.NewRequirement(v1alpha1.LabelService, selection.DoesNotExist, nil)
	if err != nil {
		return nil, err
	}
	secrets, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		ReaderFailOnMissingInformer: true,
		DefaultLabelSelector:        labels.NewSelector().Add(*others),
		DefaultTransform:            stripTarget,
	})
	if err != nil {
		return nil, err
	}
	return secrets, mgr.Add(secrets)
}

// runsOpenShiftServiceCA reports whether the cluster runs OpenShift's own service CA, which then
// handles the OpenShift annotations.
func runsOpenShiftServiceCA(mapper meta.RESTMapper) (bool, error) {
	_, err := mapper.RESTMapping(schema.GroupKind{Group: "operator.openshift.io", Kind: "ServiceCA"})
	if meta.IsNoMatchError(err) {
		return false, nil
	}
	return err == nil, err
}
