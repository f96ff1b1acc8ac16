// Package serviceca keeps the signing key of each ServiceCA, and publishes its trust bundle.
package serviceca

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	ac "github.com/servingcert/operator/api/v1alpha1/applyconfiguration/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
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
	// Targets is the ServiceCA whose bundle an object asks for, empty when it asks for none.
	Targets func(client.Object) string
	// Wanted answers whether a policy wants a Secret for the Service that owns it, so that a stray one counts for nothing.
	Wanted func(context.Context) (func(*corev1.Secret) bool, error)
	// Namespace is the operator's own.
	Namespace string
}

// Reconcile brings the signing key, the published bundle and the status of one ServiceCA up to date, in this order: a bundle is
// published before the status lets anybody sign.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var ca v1alpha1.ServiceCA
	if err := r.Client.Get(ctx, request.NamespacedName, &ca); err != nil {
		r.Keyring.Forget(request.Name)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !ca.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	in, err := r.observe(ctx, &ca)
	if err != nil {
		return ctrl.Result{}, err
	}
	decided := plan(in)
	if decided.byClock {
		if err := r.checkClock(ctx, in.now); err != nil {
			return ctrl.Result{}, err
		}
	}
	if err := decided.refused(reasonKeyRefused, r.write(ctx, in, decided)); err != nil {
		return ctrl.Result{}, err
	}
	if err := decided.refused(reasonBundleRefused, r.publish(ctx, &ca, &decided)); err != nil {
		return ctrl.Result{}, err
	}
	seen, err := r.evidence(ctx, &ca, decided)
	if err != nil {
		return ctrl.Result{}, err
	}
	status := buildStatus(in.now, &ca, decided, seen)
	if err := apply.Status(ctx, r.Client, apply.ServiceCA, ca.Status, status, ac.ServiceCA(ca.Name)); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	r.announce(&ca, decided)
	return ctrl.Result{RequeueAfter: untilNext(in, decided, status)}, r.cleanUp(ctx, &ca, decided)
}

// maxClockError is how far our clock may be ahead of the API server's when time alone makes us give something up.
const maxClockError = time.Hour

// checkClock compares our clock with the API server's, which stamps even what it is only asked to try.
func (r *Reconciler) checkClock(ctx context.Context, now time.Time) error {
	probe := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, GenerateName: "clock-"}}
	if err := r.Live.Create(ctx, probe, client.DryRunAll, apply.ServiceCA); err != nil {
		return fmt.Errorf("ask the API server for the time: %w", err)
	}
	if ahead := now.Sub(probe.CreationTimestamp.Time); ahead > maxClockError {
		return fmt.Errorf("a certificate has expired by this clock, which is %s ahead of the API server's: correct it", ahead)
	}
	return nil
}

func (r *Reconciler) observe(ctx context.Context, ca *v1alpha1.ServiceCA) (observed, error) {
	in := observed{now: r.Clock.Now(), serviceCA: ca}
	var err error
	if in.secret, err = get(ctx, r.Live, r.key(ca.SigningKeySecretName()), &corev1.Secret{}); err != nil {
		return in, err
	}
	if in.secret == nil {
		if in.formerly, err = r.formerSecret(ctx, ca); err != nil {
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
	if source := ca.Spec.Source.Secret; source != nil {
		in.brought, err = get(ctx, r.Live, r.key(source.Name), &corev1.Secret{})
	}
	return in, err
}

// formerSecret finds the signing key where spec.signingKey.secretName was changed: it moves, and no new CA begins. A copy that
// somebody else made, a backup perhaps, is not meant.
func (r *Reconciler) formerSecret(ctx context.Context, ca *v1alpha1.ServiceCA) (*corev1.Secret, error) {
	var secrets corev1.SecretList
	err := r.Live.List(ctx, &secrets, client.InNamespace(r.Namespace), client.MatchingLabels{v1alpha1.LabelServiceCA: ca.Name})
	for i := range secrets.Items {
		if apply.MadeBy(&secrets.Items[i], apply.ServiceCA) {
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

// untilNext is the time until the clock alone changes something: the threshold, or the begin or end of a certificate.
func untilNext(in observed, decided step, status v1alpha1.ServiceCAStatus) time.Duration {
	var certificates []*x509.Certificate
	var moments []time.Time
	if in.brought != nil {
		for _, key := range []string{corev1.TLSCertKey, corev1.ServiceAccountRootCAKey} {
			brought, _ := pki.ParseBundle(in.brought.Data[key])
			certificates = append(certificates, brought...)
		}
	}
	if decided.state != nil {
		certificates = append(append(certificates, decided.state.authority.Certificate()), decided.state.bundle...)
		moments = append(moments, status.NextRotationTime.Time)
	}
	for _, certificate := range certificates {
		moments = append(moments, certificate.NotBefore, certificate.NotAfter)
	}
	next := decided.retry
	for _, moment := range moments {
		if left := moment.Sub(in.now); left > 0 && (next == 0 || left < next) {
			next = left
		}
	}
	return next
}

func (r *Reconciler) announce(ca *v1alpha1.ServiceCA, decided step) {
	if decided.reason != "" {
		kind := corev1.EventTypeNormal
		if decided.reason == reasonSigningKeyLost || decided.reason == reasonCAExpired {
			kind = corev1.EventTypeWarning
		}
		r.Recorder.Eventf(ca, nil, kind, decided.reason, "Sign", "%s", decided.note)
	}
	ready := meta.FindStatusCondition(ca.Status.Conditions, v1alpha1.ConditionReady)
	if decided.problem != nil && (ready == nil || ready.Reason != decided.problem.reason) {
		r.Recorder.Eventf(ca, nil, corev1.EventTypeWarning, decided.problem.reason, "Sign", "%s", decided.problem.message)
	}
}
