// Package serviceca reconciles ServiceCAs: it maintains the signing key of each one and publishes
// its trust bundle.
package serviceca

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/certrequest"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/conflict"
	"github.com/servingcert/operator/controllers/internal/debounce"
	"github.com/servingcert/operator/controllers/internal/installation"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
	"github.com/servingcert/operator/controllers/servingcert"
)

// Reconciler reconciles ServiceCAs.
type Reconciler struct {
	// Client writes the status of ServiceCAs, and reads it back.
	Client client.Client
	// Cache counts the objects that carry the bundle and the certificates that the CA signed.
	Cache client.Reader
	// Live reads and writes without a cache: no cache may hold a signing key.
	Live     client.Client
	Keyring  *keyring.Keyring
	Recorder events.EventRecorder
	Clock    clock.PassiveClock
	// Targets counts the objects into which bundles are injected.
	Targets *injector.Injector
	// Published counts the ConfigMaps that a ServiceCA publishes. PublishedChanged announces the
	// ServiceCAs for which that count has changed.
	Published        func(ctx context.Context, ca *v1alpha1.ServiceCA, hash string, since time.Time, targets *injector.Targets) (problem string, err error)
	PublishedChanged <-chan event.GenericEvent
	// Claims returns a function that returns the claim that the owning Service has on a Secret, so
	// that a stray Secret is not counted.
	Claims func(context.Context) (func(*corev1.Secret) servingcert.Claim, error)
	// ReissueRate is how many certificates are reissued per second after the signer has switched.
	ReissueRate float64
	// Restarts returns what a rotation waits for among the workloads that policies restart.
	// RestartsChanged announces the ServiceCAs for which that has changed.
	Restarts        func(ca string, changedAt time.Time) rotation.Restarts
	RestartsChanged <-chan event.GenericEvent
	// IssuedCertificates returns the certificates that were issued for requests to a ServiceCA; false
	// while they are not known yet.
	IssuedCertificates func(ctx context.Context, ca string) ([]certrequest.Issued, bool, error)
	// Signatures caches which of these certificates verify.
	Signatures *pki.Signatures
	// Namespace is the operator's namespace.
	Namespace string

	// debouncer coalesces changes before they are counted.
	debouncer debounce.Debouncer
	// clusterTrustBundlesServed reports whether the cluster serves ClusterTrustBundles.
	// reportedNotServed holds the ServiceCAs that have an Event saying that it does not.
	clusterTrustBundlesServed atomic.Bool
	reportedNotServed         sync.Map
	// bundleRejections holds, by ServiceCA, why the last write of its ClusterTrustBundle was rejected.
	bundleRejections sync.Map
	// failures tracks the ServiceCAs for which requests fail. Failed requests about a
	// ClusterTrustBundle or to cert-manager do not affect the present CA, so bundleFailures and
	// requestFailures track them separately, by ServiceCA.
	failures                        conflict.Reports
	bundleFailures, requestFailures conflict.Tracker
	// recordedProblems holds, by ServiceCA, the reason of the last Event about a problem: a status
	// that could not be written does not have it.
	recordedProblems sync.Map
}

// Reconcile updates the signing key, the published bundle and the status of one ServiceCA, in this
// order: the bundle is published before the status lets a controller sign. Each call takes at most
// one step of a rotation.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	start := r.Clock.Now()
	var ca v1alpha1.ServiceCA
	if err := r.Client.Get(ctx, request.NamespacedName, &ca); err != nil {
		r.forget(request)
		return ctrl.Result{}, r.afterDeletion(ctx, request.Name, err)
	}
	if !ca.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	result, reported, err := r.reconcile(ctx, start, &ca)
	if err != nil {
		return result, r.reportFailure(ctx, &ca, reported, err)
	}
	r.failures.ClearFailure(request.NamespacedName)
	return result, nil
}

// forget removes everything that is kept in memory for a deleted ServiceCA.
func (r *Reconciler) forget(request ctrl.Request) {
	r.Keyring.Forget(request.Name)
	r.failures.ClearFailure(request.NamespacedName)
	r.bundleFailures.ClearFailure(request.NamespacedName)
	r.requestFailures.ClearFailure(request.NamespacedName)
	r.recordedProblems.Delete(request.Name)
}

// reconcile performs one step for a ServiceCA. It reports whether the status was written.
func (r *Reconciler) reconcile(ctx context.Context, start time.Time, ca *v1alpha1.ServiceCA) (result ctrl.Result, reported bool, err error) {
	in, plan, evidence, err := r.decide(ctx, ca)
	if err != nil {
		return ctrl.Result{}, false, err
	}
	if err := plan.asProblem(reasonKeyRefused, r.writeSecret(ctx, in, plan)); err != nil {
		return ctrl.Result{}, false, err
	}
	// Events are recorded now: an error from here on does not undo the write, and the next reconcile
	// would not know of it.
	r.recordEvents(ca, plan)
	changed, err := r.publishAll(ctx, &in, &plan)
	if err != nil {
		return ctrl.Result{}, false, err
	}
	if changed = changed || plan.secret != nil; changed && plan.state != nil {
		in.published = plan.state.Bundle().Encode()
		if evidence, err = r.collectEvidence(ctx, in, plan.state); err != nil {
			return ctrl.Result{}, false, err
		}
	}
	if err := r.ensureRequest(ctx, in, &plan); err != nil {
		return ctrl.Result{}, false, err
	}
	r.recordProblemEvent(ca, plan.problem)
	if err := r.writeStatus(ctx, ca, buildStatus(in.now, ca, plan, evidence)); err != nil {
		return ctrl.Result{}, false, apply.IgnoreGone(err)
	}
	r.recordDuration(start, plan)
	r.reportClusterTrustBundle(ca, in.clusterTrustBundle)
	plan.scheduleRecheck(evidence)
	return ctrl.Result{RequeueAfter: untilNext(in, plan)}, true, r.cleanUp(ctx, ca, plan)
}

// recordDuration passes the duration of the reconcile to the debouncer, when there was a CA to
// count for.
func (r *Reconciler) recordDuration(start time.Time, plan changePlan) {
	if plan.state != nil {
		r.debouncer.RecordDuration(r.Clock.Since(start))
	}
}

// publishAll publishes the bundle in the ConfigMap and in the ClusterTrustBundle, and reports
// whether either has changed.
func (r *Reconciler) publishAll(ctx context.Context, in *observed, plan *changePlan) (changed bool, err error) {
	changed, err = r.publish(ctx, *in, plan)
	if err := plan.asProblem(reasonBundleRefused, err); err != nil {
		return false, err
	}
	clusterwide, err := r.publishClusterTrustBundle(ctx, in, plan.state)
	return changed || clusterwide, err
}

// decide observes and plans. It plans writes once more by the clock of the API server: the clock of
// this node may have jumped, that of another replica may differ, and neither may decide when a key
// is destroyed or a root is dropped.
func (r *Reconciler) decide(ctx context.Context, ca *v1alpha1.ServiceCA) (observed, changePlan, clusterEvidence, error) {
	in, err := r.observe(ctx, ca)
	if err != nil {
		return in, changePlan{}, clusterEvidence{}, err
	}
	resolved := resolve(in)
	evidence, err := r.collectEvidence(ctx, in, resolved.state)
	if err != nil {
		return in, changePlan{}, evidence, err
	}
	plan := makePlan(in, resolved, evidence)
	if plan.secret != nil || in.clockIsBehind(resolved) {
		if in.now, err = r.serverTime(ctx, in.now); err != nil {
			refusal := plan.asProblem(reasonKeyRefused, err)
			return in, plan, evidence, refusal
		}
		plan = makePlan(in, resolve(in), evidence)
	}
	return in, plan, evidence, nil
}

// clockIsBehind reports whether the clock of this node is behind that of the API server, which set
// the start of the phase: the phase would last too long.
func (in observed) clockIsBehind(resolved resolution) bool {
	return resolved.state != nil && in.now.Before(resolved.state.Since.Add(-nextStep))
}

// maxClockError is how far the clock of this node may be ahead of the API server's: beyond it,
// certificates would have a notBefore in the future.
const maxClockError = time.Hour

// serverTime returns the time of the API server: the creationTimestamp that it sets even in a dry
// run.
func (r *Reconciler) serverTime(ctx context.Context, now time.Time) (time.Time, error) {
	probe := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, GenerateName: "clock-"}}
	if err := r.Live.Create(ctx, probe, client.DryRunAll, apply.ServiceCA); err != nil {
		return now, fmt.Errorf("ask the API server for the time: %w", err)
	}
	if ahead := now.Sub(probe.CreationTimestamp.Time); ahead > maxClockError {
		return now, fmt.Errorf("the clock of this node is %s ahead of the API server's: correct it", ahead.Round(time.Second))
	}
	return probe.CreationTimestamp.Time, nil
}

func (r *Reconciler) observe(ctx context.Context, ca *v1alpha1.ServiceCA) (observed, error) {
	in := observed{now: r.Clock.Now(), serviceCA: ca}
	var err error
	var all v1alpha1.ServiceCAList
	if err := r.Cache.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return in, err
	}
	in.serviceCAs = all.Items
	if in.longestDuration, err = r.longestDuration(ctx, ca.Name); err != nil {
		return in, err
	}
	if in.secret, err = get(ctx, r.Live, r.key(ca.SigningKeySecretName()), &corev1.Secret{}); err != nil {
		return in, err
	}
	if in.secret == nil {
		if in.formerSecret, err = r.formerSecret(ctx, in.now, ca); err != nil {
			return in, err
		}
		if in.keyOutside, err = installation.SigningKeyOutside(ctx, in.now, r.Live, ca, r.Namespace); err != nil {
			return in, err
		}
	}
	published, err := get(ctx, r.Live, r.key(ca.TrustBundleConfigMapName()), &corev1.ConfigMap{})
	if err != nil {
		return in, err
	}
	if published != nil && published.Labels[v1alpha1.LabelServiceCA] == ca.Name {
		in.published = []byte(published.Data[ca.Spec.TrustBundle.Key])
	}
	if in.clusterTrustBundle, err = r.observeClusterTrustBundle(ctx, ca); err != nil {
		return in, err
	}
	if err := r.observeSource(ctx, &in); err != nil {
		return in, err
	}
	err = r.recoverBundles(ctx, &in)
	return in, err
}

// observeSource reads the CA or the request of the source.
func (r *Reconciler) observeSource(ctx context.Context, in *observed) (err error) {
	if source := in.serviceCA.Spec.Source.Secret; source != nil {
		if in.sourceSecret, err = get(ctx, r.Live, r.key(source.Name), &corev1.Secret{}); err != nil {
			return err
		}
	}
	in.pendingRequest, err = r.observeRequest(ctx, in.serviceCA)
	return err
}

// recoverBundles looks for the bundle in the targets that carry it, when neither the signing-key
// Secret nor the trust-bundle ConfigMap has it.
func (r *Reconciler) recoverBundles(ctx context.Context, in *observed) error {
	reported := in.serviceCA.Status.TrustBundle
	if reported == nil || reported.Hash == pki.Hash(in.published) || in.formerSecret != nil {
		return nil
	}
	if in.secret != nil && pki.Hash(in.secret.Data[rotation.BundleKey]) == reported.Hash {
		return nil
	}
	var err error
	in.injectedBundles, err = r.Targets.FindBundles(ctx, in.serviceCA.Name, reported.Hash, r.Namespace)
	return err
}

// longestDuration returns the longest certificate duration among the policies that use this CA.
func (r *Reconciler) longestDuration(ctx context.Context, ca string) (time.Duration, error) {
	var list v1alpha1.ServingCertPolicyList
	if err := r.Cache.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return 0, err
	}
	var longest time.Duration
	for _, policy := range list.Items {
		if policy.Spec.ServiceCAName == ca {
			longest = max(longest, policy.Spec.Certificate.Duration.Std())
		}
	}
	return longest, nil
}

// formerSecret returns the signing-key Secret under its former name after
// spec.signingKey.secretName has changed: the key moves, and no new CA is created. A Secret that an
// administrator created, for example from a backup, is used only when the operator has none, and
// only if it holds the CA that signs. It returns nil when there is no such Secret.
func (r *Reconciler) formerSecret(ctx context.Context, now time.Time, ca *v1alpha1.ServiceCA) (*corev1.Secret, error) {
	var secrets corev1.SecretList
	err := r.Live.List(ctx, &secrets, client.InNamespace(r.Namespace), client.MatchingLabels{v1alpha1.LabelServiceCA: ca.Name})
	for i := range secrets.Items {
		if apply.IsManagedBy(&secrets.Items[i], apply.ServiceCA) {
			return &secrets.Items[i], nil
		}
	}
	for i := range secrets.Items {
		if state, _ := rotation.Read(now, &secrets.Items[i]); state != nil && state.Active != nil && sameSigner(ca.Status.Active, state.Active) {
			return &secrets.Items[i], nil
		}
	}
	return nil, err
}

func (r *Reconciler) key(name string) client.ObjectKey {
	return client.ObjectKey{Namespace: r.Namespace, Name: name}
}

// get reads an object. It returns nil, without an error, when the object does not exist.
func get[T client.Object](ctx context.Context, c client.Reader, key client.ObjectKey, into T) (T, error) {
	err := c.Get(ctx, key, into)
	if apierrors.IsNotFound(err) {
		var none T
		return none, nil
	}
	return into, err
}

// untilNext returns the time until the clock alone changes something: the rotation threshold, the
// end of a waiting period, or notBefore or notAfter of a certificate. It returns zero when there is
// no such time.
func untilNext(in observed, plan changePlan) time.Duration {
	var times []time.Time
	if in.sourceSecret != nil {
		for _, key := range []string{corev1.TLSCertKey, corev1.ServiceAccountRootCAKey} {
			certificates, _ := pki.ParseBundle(in.sourceSecret.Data[key])
			for _, certificate := range certificates {
				times = append(times, certificate.NotBefore, certificate.NotAfter)
			}
		}
	}
	if plan.state != nil {
		times = append(times, plan.state.NextTransitions(in.effectiveRotation(plan.state))...)
	}
	next := plan.retry
	for _, at := range times {
		if left := at.Sub(in.now); left > 0 && (next == 0 || left < next) {
			next = left
		}
	}
	return next
}
