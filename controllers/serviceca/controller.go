// Package serviceca keeps the signing key of each ServiceCA, and publishes its trust bundle.
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
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/gather"
	"github.com/servingcert/operator/controllers/internal/installation"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pace"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
	"github.com/servingcert/operator/controllers/servingcert"
	"github.com/servingcert/operator/controllers/signing"
	"github.com/servingcert/operator/controllers/trust"
)

// Reconciler reconciles ServiceCAs.
type Reconciler struct {
	// Client writes the status of ServiceCAs, and reads what it wrote.
	Client client.Client
	// Cache counts who carries the bundle and whom the CA signed for.
	Cache client.Reader
	// Live reads and writes without a cache: no cache holds a signing key.
	Live     client.Client
	Keyring  *keyring.Keyring
	Recorder events.EventRecorder
	Clock    clock.PassiveClock
	// Targets are what asks for bundles.
	Targets *trust.Trust
	// Published counts the ConfigMaps that a ServiceCA publishes, and PublishedChanged announces those of which the result is another.
	Published        func(ctx context.Context, ca *v1alpha1.ServiceCA, hash string, since time.Time, counted *trust.Targets) (problem string, err error)
	PublishedChanged <-chan event.GenericEvent
	// Claims answers what a Secret is to the Service that owns it, so that a stray one counts for nothing.
	Claims func(context.Context) (func(*corev1.Secret) servingcert.Claim, error)
	// ReissueRate is how many certificates are reissued in a second after the switch of the signer.
	ReissueRate float64
	// Restarts is what a rotation waits for of the workloads that policies restart; RestartsChanged announces the ServiceCAs for which it is
	// something else.
	Restarts        func(ca string, changedAt time.Time) rotation.Restarts
	RestartsChanged <-chan event.GenericEvent
	// Given returns the certificates that requests to a ServiceCA got; false while that is not known yet.
	Given func(ctx context.Context, ca string) ([]signing.Given, bool, error)
	// Signatures remembers which of theirs verify.
	Signatures *pki.Signatures
	// Namespace is the operator's own.
	Namespace string

	// changes gather before they are counted.
	changes gather.Changes
	// clusterBundles tells whether the cluster serves ClusterTrustBundles, and toldAbsent which ServiceCAs have been told that it does not.
	clusterBundles atomic.Bool
	toldAbsent     sync.Map
	// bundleRefused is, by ServiceCA, why its ClusterTrustBundle could not be written when that was last tried.
	bundleRefused sync.Map
	// failures are the ServiceCAs about which requests fail. Those about a ClusterTrustBundle, and those that ask cert-manager for a CA, are no
	// failures of the CA that is there: bundleFailures and askFailures have them, by ServiceCA.
	failures                    pace.Reports
	bundleFailures, askFailures pace.Pace
	// announced is, by ServiceCA, the reason of the last Event about a problem: a status that cannot be written does not have it.
	announced sync.Map
}

// Reconcile brings the signing key, the published bundle and the status of one ServiceCA up to date, in this order: a bundle is
// published before the status lets anybody sign. It takes one step of a rotation at a time.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	begin := r.Clock.Now()
	var ca v1alpha1.ServiceCA
	if err := r.Client.Get(ctx, request.NamespacedName, &ca); err != nil {
		r.forget(request)
		return ctrl.Result{}, r.afterDeletion(ctx, request.Name, err)
	}
	if !ca.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	result, reported, err := r.reconcile(ctx, begin, &ca)
	if err != nil {
		return result, r.failed(ctx, &ca, reported, err)
	}
	r.failures.Recovered(request.NamespacedName)
	return result, nil
}

// forget leaves nothing of a ServiceCA that is gone.
func (r *Reconciler) forget(request ctrl.Request) {
	r.Keyring.Forget(request.Name)
	r.failures.Recovered(request.NamespacedName)
	r.bundleFailures.Recovered(request.NamespacedName)
	r.askFailures.Recovered(request.NamespacedName)
	r.announced.Delete(request.Name)
}

// reconcile does one step for a ServiceCA; reported is set once its status is written.
func (r *Reconciler) reconcile(ctx context.Context, begin time.Time, ca *v1alpha1.ServiceCA) (result ctrl.Result, reported bool, err error) {
	in, decided, seen, err := r.decide(ctx, ca)
	if err != nil {
		return ctrl.Result{}, false, err
	}
	if err := decided.refused(reasonKeyRefused, r.write(ctx, in, decided)); err != nil {
		return ctrl.Result{}, false, err
	}
	// Nothing that fails from here on takes back what was done, and the next look would not know that it was.
	r.announceEvents(ca, decided)
	changed, err := r.publishAll(ctx, &in, &decided)
	if err != nil {
		return ctrl.Result{}, false, err
	}
	if changed = changed || decided.secret != nil; changed && decided.state != nil {
		in.published = decided.state.Bundle().Encode()
		if seen, err = r.evidence(ctx, in, decided.state); err != nil {
			return ctrl.Result{}, false, err
		}
	}
	if err := r.ask(ctx, in, &decided); err != nil {
		return ctrl.Result{}, false, err
	}
	r.announceProblem(ca, decided.problem)
	if err := r.writeStatus(ctx, ca, buildStatus(in.now, ca, decided, seen)); err != nil {
		return ctrl.Result{}, false, apply.IgnoreGone(err)
	}
	r.counted(begin, decided)
	r.tellClusterBundle(ca, in.clusterBundle)
	decided.lookAgain(seen)
	return ctrl.Result{RequeueAfter: untilNext(in, decided)}, true, r.cleanUp(ctx, ca, decided)
}

// counted notes how long it took to count, where there was something to count.
func (r *Reconciler) counted(begin time.Time, decided step) {
	if decided.state != nil {
		r.changes.Counted(r.Clock.Since(begin))
	}
}

// publishAll publishes the bundle in the ConfigMap and in the ClusterTrustBundle, and tells whether either had to be written.
func (r *Reconciler) publishAll(ctx context.Context, in *observed, decided *step) (changed bool, err error) {
	changed, err = r.publish(ctx, *in, decided)
	if err := decided.refused(reasonBundleRefused, err); err != nil {
		return false, err
	}
	clusterwide, err := r.publishClusterBundle(ctx, in, decided.state)
	return changed || clusterwide, err
}

// decide looks and plans. What is to be written is planned once more by the clock of the API server: ours may have leapt, that of
// another replica may differ, and what a key or a root that is given up depends on must not.
func (r *Reconciler) decide(ctx context.Context, ca *v1alpha1.ServiceCA) (observed, step, evidence, error) {
	in, err := r.observe(ctx, ca)
	if err != nil {
		return in, step{}, evidence{}, err
	}
	given := resolve(in)
	seen, err := r.evidence(ctx, in, given.state)
	if err != nil {
		return in, step{}, seen, err
	}
	decided := plan(in, given, seen)
	if decided.secret != nil || in.isBehind(given) {
		if in.now, err = r.serverTime(ctx, in.now); err != nil {
			refusal := decided.refused(reasonKeyRefused, err)
			return in, decided, seen, refusal
		}
		decided = plan(in, resolve(in), seen)
	}
	return in, decided, seen, nil
}

// isBehind tells whether our clock is behind that of the API server, by which the phase began: it would wait too long.
func (in observed) isBehind(given found) bool {
	return given.state != nil && in.now.Before(given.state.Since.Add(-nextStep))
}

// maxClockError is how far our clock may be ahead of the API server's: what we sign would be valid too late.
const maxClockError = time.Hour

// serverTime asks the API server for the time, by what it stamps even where it is only asked to try.
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
	if in.longest, err = r.longest(ctx, ca.Name); err != nil {
		return in, err
	}
	if in.secret, err = get(ctx, r.Live, r.key(ca.SigningKeySecretName()), &corev1.Secret{}); err != nil {
		return in, err
	}
	if in.secret == nil {
		if in.formerly, err = r.formerSecret(ctx, in.now, ca); err != nil {
			return in, err
		}
		if in.elsewhere, err = installation.KeyElsewhere(ctx, in.now, r.Live, ca, r.Namespace); err != nil {
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
	if in.clusterBundle, err = r.observeClusterBundle(ctx, ca); err != nil {
		return in, err
	}
	if err := r.observeSource(ctx, &in); err != nil {
		return in, err
	}
	err = r.recover(ctx, &in)
	return in, err
}

// observeSource reads what the source has to give.
func (r *Reconciler) observeSource(ctx context.Context, in *observed) (err error) {
	if source := in.serviceCA.Spec.Source.Secret; source != nil {
		if in.brought, err = get(ctx, r.Live, r.key(source.Name), &corev1.Secret{}); err != nil {
			return err
		}
	}
	in.asked, err = r.observeAsked(ctx, in.serviceCA)
	return err
}

// recover looks for the bundle in what carries it, where neither the signing-key Secret nor the trust-bundle ConfigMap has it.
func (r *Reconciler) recover(ctx context.Context, in *observed) error {
	told := in.serviceCA.Status.TrustBundle
	if told == nil || told.Hash == pki.Hash(in.published) || in.formerly != nil {
		return nil
	}
	if in.secret != nil && pki.Hash(in.secret.Data[rotation.BundleKey]) == told.Hash {
		return nil
	}
	var err error
	in.carried, err = r.Targets.Carried(ctx, in.serviceCA.Name, told.Hash, r.Namespace)
	return err
}

// longest is the longest lifetime that a policy asks for certificates of this CA.
func (r *Reconciler) longest(ctx context.Context, ca string) (time.Duration, error) {
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

// formerSecret finds the signing key where spec.signingKey.secretName was changed: it moves, and no new CA begins. What somebody else put
// there, out of a backup perhaps, is meant only where nothing of ours is, and if it is the CA that signs.
func (r *Reconciler) formerSecret(ctx context.Context, now time.Time, ca *v1alpha1.ServiceCA) (*corev1.Secret, error) {
	var secrets corev1.SecretList
	err := r.Live.List(ctx, &secrets, client.InNamespace(r.Namespace), client.MatchingLabels{v1alpha1.LabelServiceCA: ca.Name})
	for i := range secrets.Items {
		if apply.MadeBy(&secrets.Items[i], apply.ServiceCA) {
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

// get reads an object; a nil pointer when there is none.
func get[T client.Object](ctx context.Context, c client.Reader, key client.ObjectKey, into T) (T, error) {
	err := c.Get(ctx, key, into)
	if apierrors.IsNotFound(err) {
		var none T
		return none, nil
	}
	return into, err
}

// untilNext is the time until the clock alone changes something: the threshold, the end of a wait, the begin or end of a certificate.
func untilNext(in observed, decided step) time.Duration {
	var moments []time.Time
	if in.brought != nil {
		for _, key := range []string{corev1.TLSCertKey, corev1.ServiceAccountRootCAKey} {
			brought, _ := pki.ParseBundle(in.brought.Data[key])
			for _, certificate := range brought {
				moments = append(moments, certificate.NotBefore, certificate.NotAfter)
			}
		}
	}
	if decided.state != nil {
		moments = append(moments, decided.state.Moments(in.threshold(decided.state))...)
	}
	next := decided.retry
	for _, moment := range moments {
		if left := moment.Sub(in.now); left > 0 && (next == 0 || left < next) {
			next = left
		}
	}
	return next
}
