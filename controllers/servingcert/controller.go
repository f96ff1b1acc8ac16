// Package servingcert issues and renews the TLS Secret of each Service that a policy selects.
package servingcert

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/ownwrites"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/policy"
	"github.com/servingcert/operator/controllers/metrics"
)

const (
	// pollInterval is how often a Service is reconciled when no watch event would show a change,
	// for example while another client's Secret has the name.
	pollInterval = 30 * time.Second
	// retryInUse is how often to check again whether pods still use a Secret that no Service wants
	// any more.
	retryInUse = 2 * time.Minute
)

// Reconciler reconciles Services.
type Reconciler struct {
	// Client writes, and reads what it wrote: the Service being reconciled and the digest of its
	// Secret. Both are shared with the cache and must not be modified.
	Client client.Client
	// View reads everything else from the caches.
	View View
	// Live reads without a cache.
	Live         client.Reader
	Usage        *SecretUsage
	Keyring      *keyring.Keyring
	Recorder     events.EventRecorder
	Events       *EventAggregator
	Expectations *Expectations
	Clock        clock.PassiveClock
	Metrics      *metrics.Signing
	// RejectionBackoff returns when to retry a write that the API server rejected. Retries are slow
	// because each one costs a new key.
	RejectionBackoff workqueue.TypedRateLimiter[types.NamespacedName]
	// KeyQueue generates the private keys that are slow to generate, outside the reconcile loop.
	KeyQueue *KeyQueue
	// FailuresChanged signals that requests for a Service started to fail in a way that cannot be
	// reported on the Service itself, or no longer fail. Sending never blocks.
	FailuresChanged chan<- event.GenericEvent

	// ownAnnotations are the annotation changes that were written to Services and whose watch
	// events have not arrived yet.
	ownAnnotations ownwrites.Annotations
}

// NewRejectionBackoff returns a backoff that starts at 30 seconds and doubles up to 15 minutes.
func NewRejectionBackoff() workqueue.TypedRateLimiter[types.NamespacedName] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](pollInterval, 15*time.Minute)
}

// input is what the reconciler read for one Service.
type input struct {
	now     time.Time
	service *corev1.Service
	desired issuance.Desired
	ca      *keyring.CA
	// secret is the digest of the Secret under the desired name; nil if there is none.
	secret      *corev1.Secret
	competitors []*corev1.Service
	// password is the password of the keystore; empty if no keystore is wanted.
	password string
	// generatedKey is a private key that the KeyQueue generated for this reconciliation; nil if
	// there is none.
	generatedKey *pki.Key
}

// reconcileResult is the result of a reconciliation.
type reconcileResult struct {
	problem *issuance.Problem
	// signedBy is the common name of the CA that signed the Service's certificate; empty if there
	// is no certificate.
	signedBy string
	// keepReport leaves the status annotations of the Service unchanged: a later event or retry
	// will complete the reconciliation.
	keepReport bool
	// keyPending leaves the Service, its Secret and the annotations unchanged until the private key
	// is generated.
	keyPending   bool
	requeueAfter time.Duration
}

// Reconcile creates or updates the Secret of one Service, reports problems on the Service, and
// deletes Secrets that the Service no longer wants.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	r.Expectations.forget(request.NamespacedName)
	r.ownAnnotations.Forget(request.NamespacedName)
	generatedKey := r.KeyQueue.take(request.NamespacedName)
	var service corev1.Service
	if err := r.Client.Get(ctx, request.NamespacedName, &service, client.UnsafeDisableDeepCopy); err != nil {
		r.forget(request.NamespacedName)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	namespace, err := r.View.Namespace(ctx, service.Namespace)
	if err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !service.DeletionTimestamp.IsZero() || !namespace.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	policies, err := r.View.Policies(ctx)
	if err != nil {
		return ctrl.Result{}, err
	}
	ruling, _ := policies.For(namespace.Labels, service.Labels)
	desired, wanted := r.View.Resolver.Desired(&service, ruling)
	var result reconcileResult
	if wanted {
		result, err = r.ensureSecret(ctx, desiredState{desired, policies, namespace.Labels, generatedKey})
	} else {
		result = r.withoutCertificate(&service, ruling)
		_, desired.SecretName = r.View.Resolver.RequestedSecret(&service)
	}
	if result.keyPending {
		return requeue(result.requeueAfter), nil
	}
	// It is unknown which Services an invalid policy selects, so no Secret is deleted that it may
	// want.
	if err == nil && !policies.HasInvalid() {
		var inUse bool
		if inUse, err = r.deleteUnused(ctx, &service, desired.SecretName); inUse {
			result.requeueAfter = shorter(result.requeueAfter, retryInUse)
		}
	}
	return r.report(ctx, &service, result, err)
}

// ResyncPeriod is how often every Service is reconciled even if nothing changed.
const ResyncPeriod = 10 * time.Hour

// requeue returns a result that reconciles a Service again after requeueAfter, or an empty result
// if the next resync comes first: most renewals are months away, and ten thousand Services waiting
// in the queue would take 5 MiB. The requeued Service has normal priority, even if this
// reconciliation had low priority.
func requeue(requeueAfter time.Duration) ctrl.Result {
	if requeueAfter > ResyncPeriod+time.Hour {
		return ctrl.Result{}
	}
	return ctrl.Result{RequeueAfter: requeueAfter, Priority: new(0)}
}

// forget drops what is remembered about a Service that no longer exists.
func (r *Reconciler) forget(key types.NamespacedName) {
	r.View.Conflicts.SetReportable(key, true)
	if r.View.Conflicts.ClearFailure(key) {
		r.failuresChanged()
	}
	r.RejectionBackoff.Forget(key)
}

// shorter returns the shorter of two durations; zero means never.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b < a {
		return b
	}
	return a
}

// withoutCertificate returns the result for a Service that gets no certificate: empty, or a problem
// if the Service requests a certificate and no policy selects it.
func (r *Reconciler) withoutCertificate(service *corev1.Service, ruling *v1alpha1.ServingCertPolicy) reconcileResult {
	if family, _ := r.View.Resolver.RequestedSecret(service); family == issuance.NotAsked || ruling != nil {
		return reconcileResult{}
	}
	return reconcileResult{
		signedBy: issuance.SignedBy(service),
		problem: issuance.NewProblem(issuance.ReasonNoPolicy, "no ServingCertPolicy selects this Service: "+
			"create one, or change the labels of the Service or its namespace; a certificate that is there is kept and not renewed"),
	}
}

// desiredState is what a Service wants according to the policies and the labels of its namespace,
// with the key that the KeyQueue generated for it; that key is nil if there is none.
type desiredState struct {
	issuance.Desired

	policies     policy.Set
	namespace    labels.Set
	generatedKey *pki.Key
}

// ensureSecret brings the Secret of a Service up to date, unless the Conflicts tracker backs off
// because another client keeps changing the Secret.
func (r *Reconciler) ensureSecret(ctx context.Context, desired desiredState) (reconcileResult, error) {
	now := r.Clock.Now()
	if wait := r.View.Conflicts.RetryAfter(client.ObjectKeyFromObject(desired.Service), now); wait > 0 {
		return r.withConflict(now, desired, reconcileResult{keepReport: true, signedBy: issuance.SignedBy(desired.Service), requeueAfter: wait}), nil
	}
	result, err := r.ensureSecretAt(ctx, now, desired)
	if err != nil || result.keepReport || result.keyPending || result.problem != nil {
		return result, err
	}
	return r.withConflict(now, desired, result), nil
}

// withConflict adds to the result that another client keeps overwriting the Secret, while that is
// so.
func (r *Reconciler) withConflict(now time.Time, desired desiredState, result reconcileResult) reconcileResult {
	contestedFor := r.View.Conflicts.ContestedFor(client.ObjectKeyFromObject(desired.Service), now)
	if contestedFor == 0 {
		return result
	}
	result.keepReport, result.requeueAfter, result.problem = false, shorter(result.requeueAfter, contestedFor), r.overwrittenProblem(desired)
	return result
}

// overwrittenProblem returns the problem that names the client that keeps overwriting the Secret of
// a Service. It returns what the Service already reports, if it reports this problem, so that the
// message does not change while the conflict lasts.
func (r *Reconciler) overwrittenProblem(desired desiredState) *issuance.Problem {
	reported := issuance.ParseProblem(desired.Service.Annotations[v1alpha1.AnnotationError])
	if reported.Reason == issuance.ReasonSecretOverwritten {
		return &reported
	}
	otherWriter, _ := r.View.Conflicts.ReportOtherWriter(client.ObjectKeyFromObject(desired.Service))
	return issuance.NewProblem(issuance.ReasonSecretOverwritten, "%s keeps overwriting Secret %s, or changing it meanwhile; it is put back a few times every "+
		"30 seconds: let that client write another Secret, or ask for another name", otherWriter, desired.SecretName)
}

func (r *Reconciler) ensureSecretAt(ctx context.Context, now time.Time, desired desiredState) (reconcileResult, error) {
	ca, problem, err := r.Keyring.Find(ctx, r.View, desired.Policy.Spec.ServiceCAName)
	if err != nil {
		return reconcileResult{}, err
	}
	in := input{now: now, service: desired.Service, desired: desired.Desired, ca: ca, generatedKey: desired.generatedKey}
	// The cache does not hold other clients' Secrets. If the Service reports such a Secret, read it
	// from the API server first.
	reported := issuance.ParseProblem(desired.Service.Annotations[v1alpha1.AnnotationError])
	if in.secret, err = r.getSecret(ctx, desired.Desired, needsPolling(reported.Reason)); err != nil {
		return reconcileResult{}, err
	}
	if ca == nil {
		// A Service that has a certificate does not report that its CA is unavailable: the policy
		// reports it.
		return reconcileResult{problem: problem, keepReport: problem == nil || in.secret != nil, requeueAfter: pollInterval}, nil
	}
	if ca.Authority != nil && ca.LongestDuration < desired.Duration {
		// The ServiceCA must record the longer duration in its state before certificates with that
		// duration are signed. Its status change then triggers a reconciliation.
		return reconcileResult{keepReport: true}, nil
	}
	if problem, err := r.readPassword(ctx, &in); err != nil || problem != nil {
		// Issue nothing new without the keystore that the Service wants.
		return reconcileResult{problem: problem, signedBy: issuance.SignedBy(desired.Service)}, err
	}
	if in.competitors, err = r.View.competitors(ctx, desired.Desired, desired.policies, desired.namespace); err != nil {
		return reconcileResult{}, err
	}
	plan := desired.Plan(in.now, &ca.CA, in.secret, in.competitors)
	result, err := r.execute(ctx, in, plan)
	if !errors.Is(err, errSecretExists) {
		return result, err
	}
	if in.secret, err = r.getSecret(ctx, desired.Desired, true); err != nil {
		return reconcileResult{}, err
	}
	return r.execute(ctx, in, desired.Plan(in.now, &ca.CA, in.secret, in.competitors))
}

// keyDeadline returns how long a Service may wait for a slow key behind all other Services. If
// clients accept its current certificate, that is until the last third of the certificate's
// lifetime. It is 0 if the certificate is unusable or due for renewal, or if the Service reports a
// problem, which may be gone by now. A Service whose Secret the API server rejected can wait for
// ResyncPeriod, because each try costs a key.
func (in input) keyDeadline(plan issuance.Plan) time.Duration {
	reported := in.service.Annotations[v1alpha1.AnnotationError]
	if issuance.ParseProblem(reported).Reason == issuance.ReasonSecretRefused {
		return ResyncPeriod
	}
	leaf := in.desired.UsableLeaf(in.now, in.secret, &in.ca.CA)
	if leaf == nil || plan.Renewal || reported != "" {
		return 0
	}
	return max(0, leaf.NotAfter.Sub(in.now)-leaf.NotAfter.Sub(leaf.IssuedAt())/3)
}

// readPassword reads the password of the keystore into in, if a keystore is wanted. It returns a
// problem if the keystore or the password is unusable.
func (r *Reconciler) readPassword(ctx context.Context, in *input) (problem *issuance.Problem, err error) {
	keystore := in.desired.Keystore
	if problem = keystore.Check(); problem == nil && keystore != nil {
		in.password, keystore.Version, problem, err = injector.ReadPassword(ctx, r.Live, in.service.Namespace, keystore.Password)
	}
	return problem, err
}

// getSecret returns the digest of the Secret under the desired name, or nil if there is none. It
// reads the cache and then, if the cache has no such Secret and live is set, the API server.
func (r *Reconciler) getSecret(ctx context.Context, desired issuance.Desired, live bool) (*corev1.Secret, error) {
	key := client.ObjectKey{Namespace: desired.Service.Namespace, Name: desired.SecretName}
	var secret corev1.Secret
	err := r.Client.Get(ctx, key, &secret, client.UnsafeDisableDeepCopy)
	if err == nil {
		return &secret, nil
	}
	if client.IgnoreNotFound(err) != nil || !live {
		return nil, client.IgnoreNotFound(err)
	}
	if err := r.Live.Get(ctx, key, &secret); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	issuance.Digest(&secret)
	return &secret, nil
}
