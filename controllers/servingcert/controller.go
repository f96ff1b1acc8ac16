// Package servingcert keeps the TLS Secret of each Service that a policy serves.
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
	// pollInterval is how often a Service looks again at what no event reports, such as somebody else's Secret in its way.
	pollInterval = 30 * time.Second
	// retryInUse is how often a Secret that nobody wants any more is looked at again while a pod uses it.
	retryInUse = 2 * time.Minute
)

// Reconciler reconciles Services.
type Reconciler struct {
	// Client writes, and reads what it wrote: the Service at hand, and the digest of its Secret, both the caches' own, and not to be changed.
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
	// RejectionBackoff tells when to try again a write that the API server refused: each costs a key.
	RejectionBackoff workqueue.TypedRateLimiter[types.NamespacedName]
	// KeyQueue is where Services wait whose private key takes long to make.
	KeyQueue *KeyQueue
	// FailuresChanged announces that the requests about some Service fail that cannot be told, or no longer do; sending never waits.
	FailuresChanged chan<- event.GenericEvent

	// ownAnnotations are the annotations that were written on Services, until their events come.
	ownAnnotations ownwrites.Annotations
}

// NewRejectionBackoff waits for 30 seconds first, and twice as long each time, up to a quarter of an hour.
func NewRejectionBackoff() workqueue.TypedRateLimiter[types.NamespacedName] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](pollInterval, 15*time.Minute)
}

// input is what was found for one Service.
type input struct {
	now     time.Time
	service *corev1.Service
	desired issuance.Desired
	ca      *keyring.CA
	// secret is the digest of the Secret under the wanted name, nil when there is none.
	secret      *corev1.Secret
	competitors []*corev1.Service
	// password is that of the keystore; empty for none.
	password string
	// generatedKey is a private key that took long to make, for this look; nil for none.
	generatedKey *pki.Key
}

// reconcileResult is what a reconciliation comes to.
type reconcileResult struct {
	problem *issuance.Problem
	// signedBy is the common name of the CA of the Service's certificate, empty without one.
	signedBy string
	// keepReport leaves what the Service says of itself as it is: what is missing will come by itself.
	keepReport bool
	// keyPending leaves everything as it is until the private key is made.
	keyPending   bool
	requeueAfter time.Duration
}

// Reconcile gives one Service the Secret that it should have, tells it what stands in the way, and removes what it no longer wants.
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
	// Whom an unreadable policy means is not known; nothing is removed that it may want.
	if err == nil && !policies.HasInvalid() {
		var inUse bool
		if inUse, err = r.deleteUnused(ctx, &service, desired.SecretName); inUse {
			result.requeueAfter = shorter(result.requeueAfter, retryInUse)
		}
	}
	return r.report(ctx, &service, result, err)
}

// ResyncPeriod is how often each Service is looked at in any case.
const ResyncPeriod = 10 * time.Hour

// requeue asks for a Service again, if the next round does not come before that: most renewals are months away, and ten thousand Services that wait
// for theirs in the queue would take 5 MiB. Whatever made us look now, then it is urgent.
func requeue(requeueAfter time.Duration) ctrl.Result {
	if requeueAfter > ResyncPeriod+time.Hour {
		return ctrl.Result{}
	}
	return ctrl.Result{RequeueAfter: requeueAfter, Priority: new(0)}
}

// forget leaves nothing of a Service that is gone.
func (r *Reconciler) forget(key types.NamespacedName) {
	r.View.Conflicts.SetReportable(key, true)
	if r.View.Conflicts.ClearFailure(key) {
		r.failuresChanged()
	}
	r.RejectionBackoff.Forget(key)
}

// shorter is the shorter of two times; zero is never.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b < a {
		return b
	}
	return a
}

// withoutCertificate is what becomes of a Service that gets no certificate: nothing, unless it asks for one.
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

// desiredState is what a Service wants, by these policies and the labels of its namespace, and the key that was made for it, if one was.
type desiredState struct {
	issuance.Desired

	policies     policy.Set
	namespace    labels.Set
	generatedKey *pki.Key
}

// ensureSecret brings the Secret of a Service up to date, unless it has been fought over just now.
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

// withConflict adds to what else there is to say of a Service that somebody keeps overwriting its Secret, if somebody does.
func (r *Reconciler) withConflict(now time.Time, desired desiredState, result reconcileResult) reconcileResult {
	contestedFor := r.View.Conflicts.ContestedFor(client.ObjectKeyFromObject(desired.Service), now)
	if contestedFor == 0 {
		return result
	}
	result.keepReport, result.requeueAfter, result.problem = false, shorter(result.requeueAfter, contestedFor), r.overwrittenProblem(desired)
	return result
}

// overwrittenProblem says who keeps overwriting the Secret of a Service: the same for as long as it lasts.
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
	// Somebody else's Secret is in no cache: whoever was told of one looks for it first.
	reported := issuance.ParseProblem(desired.Service.Annotations[v1alpha1.AnnotationError])
	if in.secret, err = r.getSecret(ctx, desired.Desired, needsPolling(reported.Reason)); err != nil {
		return reconcileResult{}, err
	}
	if ca == nil {
		// A Service that has a certificate need not know that its CA is away: the policy tells.
		return reconcileResult{problem: problem, keepReport: problem == nil || in.secret != nil, requeueAfter: pollInterval}, nil
	}
	if ca.Authority != nil && ca.LongestDuration < desired.Duration {
		// What is signed for longer must first be written down in the ServiceCA's state; its status then tells.
		return reconcileResult{keepReport: true}, nil
	}
	if problem, err := r.readPassword(ctx, &in); err != nil || problem != nil {
		// Nothing is made anew that would lack its keystore.
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

// keyDeadline is for how long a Service whose key takes long to make may wait behind all others: until the last third of the certificate that it has, if
// clients accept that, and nobody was told of a problem that may be gone. Whose Secret was refused can wait, for each try costs a key.
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

// readPassword reads the password of the keystore, where one is wanted.
func (r *Reconciler) readPassword(ctx context.Context, in *input) (problem *issuance.Problem, err error) {
	keystore := in.desired.Keystore
	if problem = keystore.Check(); problem == nil && keystore != nil {
		in.password, keystore.Version, problem, err = injector.ReadPassword(ctx, r.Live, in.service.Namespace, keystore.Password)
	}
	return problem, err
}

// getSecret is the digest of the Secret under the wanted name, from the cache or, where that has none and live is set, from the
// API server; nil when there is none.
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
