package servingcert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coreac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/metrics"
)

// errSecretThere means that a Secret lies under a name where the cache has none.
var errSecretThere = errors.New("there is a Secret that the cache does not hold")

// errMustWait means that the private key takes long to make.
var errMustWait = errors.New("the private key takes long to make")

// carryOut does what a plan says.
func (r *Reconciler) carryOut(ctx context.Context, found situation, plan issuance.Plan) (outcome, error) {
	err := r.write(ctx, found, &plan)
	key := client.ObjectKeyFromObject(found.service)
	switch {
	case errors.Is(err, errSecretThere):
		return outcome{}, errSecretThere
	case errors.Is(err, errMustWait):
		patience := found.patience(plan)
		r.Line.add(key, found.want.Leaf.Key, patience == 0)
		return outcome{inLine: true, again: patience}, nil
	case apply.Refused(err):
		plan.Obstacle = issuance.NewObstacle(issuance.ReasonSecretRefused, "%v", err)
		return outcome{obstacle: plan.Obstacle, signedBy: signedBy(plan), again: r.Refusals.When(key)}, nil
	case apply.Going(err), apply.Conflict(err):
		// Something else was faster.
		return outcome{silent: true, again: retryUnseen}, nil
	case err != nil:
		if plan.Action == issuance.Issue {
			// The next look comes, and should cost no other key.
			r.Line.giveBack(key, found.made)
		}
		return outcome{}, err
	}
	r.Refusals.Forget(key)
	if err := r.tellSecret(ctx, found, plan); err != nil {
		return outcome{}, err
	}
	return outcome{obstacle: plan.Obstacle, signedBy: signedBy(plan), again: untilNext(found.now, plan)}, nil
}

// signedBy is who signed the certificate that is there and sound; empty without one.
func signedBy(plan issuance.Plan) string {
	if plan.NotAfter.IsZero() {
		return ""
	}
	return plan.SignedBy
}

// write does to the Secret what a plan says.
func (r *Reconciler) write(ctx context.Context, found situation, plan *issuance.Plan) error {
	switch plan.Action {
	case issuance.Issue:
		return r.issue(ctx, found, plan)
	case issuance.Repair:
		return r.repair(ctx, found)
	case issuance.Keep:
		return r.trim(ctx, found)
	case issuance.Refuse:
	}
	return nil
}

// untilNext is the time until the renewal, or until an obstacle that no event would report gone is looked at again.
func untilNext(now time.Time, plan issuance.Plan) time.Duration {
	var next time.Duration
	if !plan.RenewAt.IsZero() {
		next = plan.RenewAt.Sub(now)
	}
	if plan.Obstacle != nil && plan.Obstacle.Reason == issuance.ReasonSecretNotOurs {
		return sooner(next, retryUnseen)
	}
	return next
}

// unseen tells of which obstacles no event would report that they are gone.
func unseen(reason string) bool {
	return reason == issuance.ReasonSecretNotOurs || reason == issuance.ReasonSecretRefused
}

// issue makes a new certificate, by one write.
func (r *Reconciler) issue(ctx context.Context, found situation, plan *issuance.Plan) error {
	key, err := r.keyFor(ctx, found)
	if err != nil {
		return err
	}
	if spec := found.want.Leaf.Key; spec.TakesLong() && !key.Is(spec) {
		return errMustWait
	}
	began := r.Clock.Now()
	pair, err := found.ca.Authority.Issue(found.now, found.want.Leaf, found.want.Duration, key)
	if err != nil {
		return err
	}
	took := r.Clock.Since(began)
	leaf, err := pair.Leaf()
	if err != nil {
		return err
	}
	if err := found.ca.Path.Verify(leaf, found.now); err != nil {
		plan.Action, plan.Obstacle = issuance.Refuse, issuance.NewObstacle(issuance.ReasonNameNotPermitted, "no client could verify it: %v", err)
		return nil
	}
	found.ca.Signatures.Made(leaf, found.ca.Certificate)
	err = r.writeSecret(ctx, found, pair)
	if apierrors.IsAlreadyExists(err) && !apply.Refused(err) {
		return errSecretThere
	}
	if err != nil {
		return err
	}
	plan.CarriedOut(leaf, &found.ca.CA)
	r.announce(found, *plan, took)
	return nil
}

// announce says that a certificate is new, and that it took so long to make it.
func (r *Reconciler) announce(found situation, plan issuance.Plan, took time.Duration) {
	reason := metrics.Reissued
	switch {
	case found.secret == nil:
		reason = metrics.Issued
	case plan.Renewal:
		reason = metrics.Renewed
	}
	r.Metrics.Signed(controllerName, found.want.Policy.Name, reason, took)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: found.service.Namespace, Name: plan.Want.SecretName}}
	r.News.tell(reason, certificate{found.want.Policy, found.service, secret, plan.SignedBy, plan.NotAfter, plan.Why})
}

// keyFor is the private key that a renewal keeps, if the policy says so, or the one that was made. That may have been written, though no answer came: then it
// has its certificate.
func (r *Reconciler) keyFor(ctx context.Context, found situation) (*pki.Key, error) {
	if found.want.KeepsKey(found.secret, &found.ca.CA) {
		live, err := r.readLive(ctx, found.secret)
		if err != nil {
			return nil, err
		}
		if kept := pki.ReadKey(live.Data[corev1.TLSPrivateKeyKey]); kept.Is(found.want.Leaf.Key) {
			return kept, nil
		}
	}
	if found.made != nil && found.secret != nil {
		if leaf, err := issuance.Leaf(found.secret); err == nil && found.made.IsOf(leaf) {
			return nil, nil
		}
	}
	return found.made, nil
}

// repair writes a sound certificate again, with its key in the encoding that the policy wants, and with what should surround them.
func (r *Reconciler) repair(ctx context.Context, found situation) error {
	live, err := r.readLive(ctx, found.secret)
	if err != nil {
		return err
	}
	if !apply.MadeBy(live, apply.ServingCert) {
		return r.adopt(ctx, found, live)
	}
	key, err := pki.EncodeKey(live.Data[corev1.TLSPrivateKeyKey], found.want.Leaf.Encoding)
	if err != nil {
		return err
	}
	return r.writeSecret(ctx, found, pki.Pair{Certificate: live.Data[corev1.TLSCertKey], PrivateKey: key})
}

// adopt makes a Secret that was restored or copied without managedFields known as ours, so that it is removed when its Service wants it no more. A
// patch that changes nothing would not be noted; applying the labels is. What else there is to repair follows.
func (r *Reconciler) adopt(ctx context.Context, found situation, live *corev1.Secret) error {
	return r.count(found, r.Client.Apply(ctx, coreac.Secret(live.Name, live.Namespace).
		WithUID(live.UID).WithResourceVersion(live.ResourceVersion).WithLabels(found.want.Labels()), apply.ServingCert, client.ForceOwnership))
}

// readLive reads a Secret with its key, in the very version of its digest.
func (r *Reconciler) readLive(ctx context.Context, digest *corev1.Secret) (*corev1.Secret, error) {
	var live corev1.Secret
	if err := r.Live.Get(ctx, client.ObjectKeyFromObject(digest), &live); err != nil {
		return nil, err
	}
	if live.UID != digest.UID || live.ResourceVersion != digest.ResourceVersion {
		return nil, apierrors.NewConflict(corev1.Resource("secrets"), digest.Name, errors.New("the cache is behind"))
	}
	return &live, nil
}

// writeSecret makes the Secret, or patches the one that was found, in the very version that was. Server-side apply would cost the API server
// nearly twice as much, and would write into a Secret that the cache does not hold.
func (r *Reconciler) writeSecret(ctx context.Context, found situation, pair pki.Pair) error {
	if found.secret == nil {
		secret, err := found.want.Secret(pair, found.password, &found.ca.CA)
		if err != nil {
			return err
		}
		return r.create(ctx, found, secret)
	}
	patch, err := found.want.Patch(pair, found.password, &found.ca.CA, found.secret)
	if err != nil {
		return err
	}
	return r.patch(ctx, found, patch)
}

func (r *Reconciler) create(ctx context.Context, found situation, secret *corev1.Secret) error {
	service := client.ObjectKeyFromObject(found.service)
	r.Expected.expect(service, secret)
	err := r.Client.Create(ctx, secret, apply.ServingCert)
	if err != nil {
		r.Expected.forget(service)
	}
	return r.count(found, err)
}

func (r *Reconciler) patch(ctx context.Context, found situation, patch []byte) error {
	r.blame(ctx, found)
	return r.count(found, r.Client.Patch(ctx, found.secret.DeepCopy(), client.RawPatch(types.MergePatchType, patch), apply.ServingCert))
}

// blame notes who overwrites a Secret, before the write after which we pause: as long as that is there to be seen.
func (r *Reconciler) blame(ctx context.Context, found situation) {
	service := client.ObjectKeyFromObject(found.service)
	if !r.View.Pace.Exhausts(service) {
		return
	}
	live := &metav1.PartialObjectMetadata{}
	live.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	if r.Live.Get(ctx, client.ObjectKeyFromObject(found.secret), live) == nil {
		r.View.Pace.Blame(service, apply.Rival(live, apply.ServingCert, corev1.TLSCertKey, corev1.TLSPrivateKeyKey))
	}
}

// count counts a write, and returns its error: another bundle, another signer and another policy are nobody's fight.
func (r *Reconciler) count(found situation, err error) error {
	given := fmt.Sprintf("%d %.8s", found.want.Policy.Generation, pki.Hash(found.ca.Bundle))
	if signer := found.ca.Certificate; signer != nil {
		given += fmt.Sprintf(" %.8x", signer.SubjectKeyId)
	}
	r.View.Pace.Wrote(client.ObjectKeyFromObject(found.service), given, r.Clock.Now(), err)
	return err
}

// trim removes the keys that OpenShift's annotation does not allow.
func (r *Reconciler) trim(ctx context.Context, found situation) error {
	surplus := found.want.Surplus(found.secret)
	if len(surplus) == 0 {
		return nil
	}
	data := map[string]any{}
	for _, key := range surplus {
		data[key] = nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": found.secret.UID, "resourceVersion": found.secret.ResourceVersion}, "data": data,
	})
	if err != nil {
		return err
	}
	if err := r.patch(ctx, found, patch); err != nil {
		return fmt.Errorf("remove the keys %s: %w", strings.Join(surplus, ", "), err)
	}
	return nil
}

// tell writes what people read on the Service, and an Event when an obstacle is new.
func (r *Reconciler) tell(ctx context.Context, service *corev1.Service, result outcome) error {
	if result.silent {
		return nil
	}
	changes := r.View.Rules.Annotations(service, result.obstacle, result.signedBy)
	key := client.ObjectKeyFromObject(service)
	r.reports.Expect(key, changes)
	if err := apply.Annotations(ctx, r.Client, apply.ServingCert, service.DeepCopy(), changes); err != nil {
		r.reports.Forget(key)
		return apply.IgnoreGone(err)
	}
	if result.obstacle != nil && len(changes) > 0 && r.View.Pace.AllowsEvent(result.obstacle, r.Clock.Now()) {
		r.Recorder.Eventf(service, nil, corev1.EventTypeWarning, result.obstacle.Reason, "Issue", "%s", result.obstacle.Message)
	}
	return nil
}

// tellSecret writes on a Secret why it gets no bundle, which an annotation on it asks for, and an Event when that is new.
func (r *Reconciler) tellSecret(ctx context.Context, found situation, plan issuance.Plan) error {
	if found.secret == nil || plan.Action == issuance.Refuse {
		return nil
	}
	obstacle := plan.Injection
	changes := issuance.Report(found.secret.Annotations, obstacle)
	if len(changes) == 0 {
		return nil
	}
	if obstacle != nil {
		r.Recorder.Eventf(found.secret, nil, corev1.EventTypeWarning, obstacle.Reason, "InjectCABundle", "%s", obstacle.Message)
	}
	err := r.count(found, apply.Annotations(ctx, r.Client, apply.ServingCert, found.secret.DeepCopy(), changes))
	if apply.Going(err) || apply.Refused(err) {
		return nil
	}
	return err
}
