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
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/ownwrites"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/policy"
	"github.com/servingcert/operator/controllers/metrics"
	"github.com/servingcert/operator/controllers/trust"
)

const (
	// retryUnseen is how often a Service looks again at what no event reports, such as somebody else's Secret in its way.
	retryUnseen = 30 * time.Second
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
	Live     client.Reader
	Usage    *Usage
	Keyring  *keyring.Keyring
	Recorder events.EventRecorder
	News     *News
	Expected *Expected
	Clock    clock.PassiveClock
	Metrics  *metrics.Signing
	// Refusals tells when to try again a write that the API server refused: each costs a key.
	Refusals workqueue.TypedRateLimiter[types.NamespacedName]
	// Line is where Services wait whose private key takes long to make.
	Line *Line
	// Failures announces that the requests about some Service fail that cannot be told, or no longer do; sending never waits.
	Failures chan<- event.GenericEvent

	// reports are the annotations that were written on Services, until their events come.
	reports ownwrites.Annotations
}

// NewRefusals waits for 30 seconds first, and twice as long each time, up to a quarter of an hour.
func NewRefusals() workqueue.TypedRateLimiter[types.NamespacedName] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](retryUnseen, 15*time.Minute)
}

// situation is what was found for one Service.
type situation struct {
	now     time.Time
	service *corev1.Service
	want    issuance.Want
	ca      *keyring.CA
	// secret is the digest of the Secret under the wanted name, nil when there is none.
	secret *corev1.Secret
	rivals []*corev1.Service
	// password is that of the keystore; empty for none.
	password string
	// made is a private key that took long to make, for this look; nil for none.
	made *pki.Key
}

// outcome is what a reconciliation comes to.
type outcome struct {
	obstacle *issuance.Obstacle
	// signedBy is the common name of the CA of the Service's certificate, empty without one.
	signedBy string
	// silent leaves what the Service says of itself as it is: what is missing will come by itself.
	silent bool
	// inLine leaves everything as it is until the private key is made.
	inLine bool
	again  time.Duration
}

// Reconcile gives one Service the Secret that it should have, tells it what stands in the way, and removes what it no longer wants.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	r.Expected.forget(request.NamespacedName)
	r.reports.Forget(request.NamespacedName)
	made := r.Line.take(request.NamespacedName)
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
	want, wanted := r.View.Rules.Want(&service, ruling)
	var result outcome
	if wanted {
		result, err = r.serve(ctx, wish{want, policies, namespace.Labels, made})
	} else {
		result = r.unserved(&service, ruling)
		_, want.SecretName = r.View.Rules.Request(&service)
	}
	if result.inLine {
		return later(result.again), nil
	}
	// Whom an unreadable policy means is not known; nothing is removed that it may want.
	if err == nil && !policies.Unreadable() {
		var inUse bool
		if inUse, err = r.cleanUp(ctx, &service, want.SecretName); inUse {
			result.again = sooner(result.again, retryInUse)
		}
	}
	return r.report(ctx, &service, result, err)
}

// Round is how often each Service is looked at in any case.
const Round = 10 * time.Hour

// later asks for a Service again, if the next round does not come before that: most renewals are months away, and ten thousand Services that wait
// for theirs in the queue would take 5 MiB. Whatever made us look now, then it is urgent.
func later(again time.Duration) ctrl.Result {
	if again > Round+time.Hour {
		return ctrl.Result{}
	}
	return ctrl.Result{RequeueAfter: again, Priority: new(0)}
}

// forget leaves nothing of a Service that is gone.
func (r *Reconciler) forget(key types.NamespacedName) {
	r.View.Pace.Told(key, true)
	if r.View.Pace.Recovered(key) {
		r.failuresChanged()
	}
	r.Refusals.Forget(key)
}

// sooner is the shorter of two times; zero is never.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b < a {
		return b
	}
	return a
}

// unserved is what becomes of a Service that gets no certificate: nothing, unless it asks for one.
func (r *Reconciler) unserved(service *corev1.Service, ruling *v1alpha1.ServingCertPolicy) outcome {
	if family, _ := r.View.Rules.Request(service); family == issuance.NotAsked || ruling != nil {
		return outcome{}
	}
	return outcome{
		signedBy: issuance.SignedBy(service),
		obstacle: issuance.NewObstacle(issuance.ReasonNoPolicy, "no ServingCertPolicy selects this Service: "+
			"create one, or change the labels of the Service or its namespace; a certificate that is there is kept and not renewed"),
	}
}

// wish is what a Service wants, by these policies and the labels of its namespace, and the key that was made for it, if one was.
type wish struct {
	issuance.Want

	policies  policy.Set
	namespace labels.Set
	made      *pki.Key
}

// serve brings the Secret of a Service up to date, unless it has been fought over just now.
func (r *Reconciler) serve(ctx context.Context, want wish) (outcome, error) {
	now := r.Clock.Now()
	if wait := r.View.Pace.Wait(client.ObjectKeyFromObject(want.Service), now); wait > 0 {
		return r.fought(now, want, outcome{silent: true, signedBy: issuance.SignedBy(want.Service), again: wait}), nil
	}
	result, err := r.serveAt(ctx, now, want)
	if err != nil || result.silent || result.inLine || result.obstacle != nil {
		return result, err
	}
	return r.fought(now, want, result), nil
}

// fought adds to what else there is to say of a Service that somebody keeps overwriting its Secret, if somebody does.
func (r *Reconciler) fought(now time.Time, want wish, result outcome) outcome {
	lasts := r.View.Pace.Fought(client.ObjectKeyFromObject(want.Service), now)
	if lasts == 0 {
		return result
	}
	result.silent, result.again, result.obstacle = false, sooner(result.again, lasts), r.overwritten(want)
	return result
}

// overwritten says who keeps overwriting the Secret of a Service: the same for as long as it lasts.
func (r *Reconciler) overwritten(want wish) *issuance.Obstacle {
	told := issuance.ParseObstacle(want.Service.Annotations[v1alpha1.AnnotationError])
	if told.Reason == issuance.ReasonSecretOverwritten {
		return &told
	}
	rival, _ := r.View.Pace.Rival(client.ObjectKeyFromObject(want.Service))
	return issuance.NewObstacle(issuance.ReasonSecretOverwritten, "%s keeps overwriting Secret %s, or changing it meanwhile; it is put back a few times every "+
		"30 seconds: let that client write another Secret, or ask for another name", rival, want.SecretName)
}

func (r *Reconciler) serveAt(ctx context.Context, now time.Time, want wish) (outcome, error) {
	ca, obstacle, err := r.Keyring.Find(ctx, r.View, want.Policy.Spec.ServiceCAName)
	if err != nil {
		return outcome{}, err
	}
	found := situation{now: now, service: want.Service, want: want.Want, ca: ca, made: want.made}
	// Somebody else's Secret is in no cache: whoever was told of one looks for it first.
	told := issuance.ParseObstacle(want.Service.Annotations[v1alpha1.AnnotationError])
	if found.secret, err = r.secret(ctx, want.Want, unseen(told.Reason)); err != nil {
		return outcome{}, err
	}
	if ca == nil {
		// A Service that has a certificate need not know that its CA is away: the policy tells.
		return outcome{obstacle: obstacle, silent: obstacle == nil || found.secret != nil, again: retryUnseen}, nil
	}
	if ca.Authority != nil && ca.Longest < want.Duration {
		// What is signed for longer must first be written down in the ServiceCA's state; its status then tells.
		return outcome{silent: true}, nil
	}
	if obstacle, err := r.readPassword(ctx, &found); err != nil || obstacle != nil {
		// Nothing is made anew that would lack its keystore.
		return outcome{obstacle: obstacle, signedBy: issuance.SignedBy(want.Service)}, err
	}
	if found.rivals, err = r.View.rivals(ctx, want.Want, want.policies, want.namespace); err != nil {
		return outcome{}, err
	}
	plan := want.Plan(found.now, &ca.CA, found.secret, found.rivals)
	result, err := r.carryOut(ctx, found, plan)
	if !errors.Is(err, errSecretThere) {
		return result, err
	}
	if found.secret, err = r.secret(ctx, want.Want, true); err != nil {
		return outcome{}, err
	}
	return r.carryOut(ctx, found, want.Plan(found.now, &ca.CA, found.secret, found.rivals))
}

// patience is for how long a Service whose key takes long to make may wait behind all others: until the last third of the certificate that it has, if
// clients accept that, and nobody was told of an obstacle that may be gone. Whose Secret was refused can wait, for each try costs a key.
func (s situation) patience(plan issuance.Plan) time.Duration {
	told := s.service.Annotations[v1alpha1.AnnotationError]
	if issuance.ParseObstacle(told).Reason == issuance.ReasonSecretRefused {
		return Round
	}
	leaf := s.want.Serving(s.now, s.secret, &s.ca.CA)
	if leaf == nil || plan.Renewal || told != "" {
		return 0
	}
	return max(0, leaf.NotAfter.Sub(s.now)-leaf.NotAfter.Sub(leaf.IssuedAt())/3)
}

// readPassword reads the password of the keystore, where one is wanted.
func (r *Reconciler) readPassword(ctx context.Context, found *situation) (obstacle *issuance.Obstacle, err error) {
	keystore := found.want.Keystore
	if obstacle = keystore.Check(); obstacle == nil && keystore != nil {
		found.password, keystore.Version, obstacle, err = trust.Password(ctx, r.Live, found.service.Namespace, keystore.Password)
	}
	return obstacle, err
}

// secret is the digest of the Secret under the wanted name, from the cache or, where that has none and live is set, from the
// API server; nil when there is none.
func (r *Reconciler) secret(ctx context.Context, want issuance.Want, live bool) (*corev1.Secret, error) {
	key := client.ObjectKey{Namespace: want.Service.Namespace, Name: want.SecretName}
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
