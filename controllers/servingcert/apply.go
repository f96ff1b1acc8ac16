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

// errSecretExists means that a Secret lies under a name where the cache has none.
var errSecretExists = errors.New("there is a Secret that the cache does not hold")

// errKeyPending means that the private key takes long to make.
var errKeyPending = errors.New("the private key takes long to make")

// execute does what a plan says.
func (r *Reconciler) execute(ctx context.Context, in input, plan issuance.Plan) (reconcileResult, error) {
	err := r.write(ctx, in, &plan)
	key := client.ObjectKeyFromObject(in.service)
	switch {
	case errors.Is(err, errSecretExists):
		return reconcileResult{}, errSecretExists
	case errors.Is(err, errKeyPending):
		keyWait := in.keyDeadline(plan)
		r.KeyQueue.enqueue(key, in.desired.Leaf.Key, keyWait == 0)
		return reconcileResult{keyPending: true, requeueAfter: keyWait}, nil
	case apply.IsRejected(err):
		plan.Problem = issuance.NewProblem(issuance.ReasonSecretRefused, "%v", err)
		return reconcileResult{problem: plan.Problem, signedBy: signedBy(plan), requeueAfter: r.RejectionBackoff.When(key)}, nil
	case apply.IsGone(err), apply.IsConflict(err):
		// Something else was faster.
		return reconcileResult{keepReport: true, requeueAfter: pollInterval}, nil
	case err != nil:
		if plan.Action == issuance.Issue {
			// The next look comes, and should cost no other key.
			r.KeyQueue.putBack(key, in.generatedKey)
		}
		return reconcileResult{}, err
	}
	r.RejectionBackoff.Forget(key)
	if err := r.reportInjection(ctx, in, plan); err != nil {
		return reconcileResult{}, err
	}
	return reconcileResult{problem: plan.Problem, signedBy: signedBy(plan), requeueAfter: untilNext(in.now, plan)}, nil
}

// signedBy is who signed the certificate that is there and sound; empty without one.
func signedBy(plan issuance.Plan) string {
	if plan.NotAfter.IsZero() {
		return ""
	}
	return plan.SignedBy
}

// write does to the Secret what a plan says.
func (r *Reconciler) write(ctx context.Context, in input, plan *issuance.Plan) error {
	switch plan.Action {
	case issuance.Issue:
		return r.issue(ctx, in, plan)
	case issuance.Repair:
		return r.repair(ctx, in)
	case issuance.Keep:
		return r.removeUnexpectedKeys(ctx, in)
	case issuance.Refuse:
	}
	return nil
}

// untilNext is the time until the renewal, or until a problem that no event would report gone is looked at again.
func untilNext(now time.Time, plan issuance.Plan) time.Duration {
	var next time.Duration
	if !plan.RenewAt.IsZero() {
		next = plan.RenewAt.Sub(now)
	}
	if plan.Problem != nil && plan.Problem.Reason == issuance.ReasonSecretNotOurs {
		return shorter(next, pollInterval)
	}
	return next
}

// needsPolling tells of which problems no event would report that they are gone.
func needsPolling(reason string) bool {
	return reason == issuance.ReasonSecretNotOurs || reason == issuance.ReasonSecretRefused
}

// issue makes a new certificate, by one write.
func (r *Reconciler) issue(ctx context.Context, in input, plan *issuance.Plan) error {
	key, err := r.keyFor(ctx, in)
	if err != nil {
		return err
	}
	if spec := in.desired.Leaf.Key; spec.IsSlow() && !key.HasSpec(spec) {
		return errKeyPending
	}
	start := r.Clock.Now()
	pair, err := in.ca.Authority.Issue(in.now, in.desired.Leaf, in.desired.Duration, key)
	if err != nil {
		return err
	}
	took := r.Clock.Since(start)
	leaf, err := pair.Leaf()
	if err != nil {
		return err
	}
	if err := in.ca.Path.Verify(leaf, in.now); err != nil {
		plan.Action, plan.Problem = issuance.Refuse, issuance.NewProblem(issuance.ReasonNameNotPermitted, "no client could verify it: %v", err)
		return nil
	}
	in.ca.Signatures.AddVerified(leaf, in.ca.Certificate)
	err = r.writeSecret(ctx, in, pair)
	if apierrors.IsAlreadyExists(err) && !apply.IsRejected(err) {
		return errSecretExists
	}
	if err != nil {
		return err
	}
	plan.RecordIssued(leaf, &in.ca.CA)
	r.recordIssued(in, *plan, took)
	return nil
}

// recordIssued says that a certificate is new, and that it took so long to make it.
func (r *Reconciler) recordIssued(in input, plan issuance.Plan, took time.Duration) {
	reason := metrics.Reissued
	switch {
	case in.secret == nil:
		reason = metrics.Issued
	case plan.Renewal:
		reason = metrics.Renewed
	}
	r.Metrics.Signed(controllerName, in.desired.Policy.Name, reason, took)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: in.service.Namespace, Name: plan.Desired.SecretName}}
	r.Events.record(reason, issuedCertificate{in.desired.Policy, in.service, secret, plan.SignedBy, plan.NotAfter, plan.IssueReason})
}

// keyFor is the private key that a renewal keeps, if the policy says so, or the one that was made. That may have been written, though no answer came: then it
// has its certificate.
func (r *Reconciler) keyFor(ctx context.Context, in input) (*pki.Key, error) {
	if in.desired.KeepsPrivateKey(in.secret, &in.ca.CA) {
		live, err := r.readLive(ctx, in.secret)
		if err != nil {
			return nil, err
		}
		if kept := pki.ReadKey(live.Data[corev1.TLSPrivateKeyKey]); kept.HasSpec(in.desired.Leaf.Key) {
			return kept, nil
		}
	}
	if in.generatedKey != nil && in.secret != nil {
		if leaf, err := issuance.Leaf(in.secret); err == nil && in.generatedKey.MatchesCertificate(leaf) {
			return nil, nil
		}
	}
	return in.generatedKey, nil
}

// repair writes a sound certificate again, with its key in the encoding that the policy wants, and with what should surround them.
func (r *Reconciler) repair(ctx context.Context, in input) error {
	live, err := r.readLive(ctx, in.secret)
	if err != nil {
		return err
	}
	if !apply.IsManagedBy(live, apply.ServingCert) {
		return r.takeOwnership(ctx, in, live)
	}
	key, err := pki.EncodeKey(live.Data[corev1.TLSPrivateKeyKey], in.desired.Leaf.Encoding)
	if err != nil {
		return err
	}
	return r.writeSecret(ctx, in, pki.Pair{Certificate: live.Data[corev1.TLSCertKey], PrivateKey: key})
}

// takeOwnership makes a Secret that was restored or copied without managedFields known as ours, so that it is removed when its Service wants it no more. A
// patch that changes nothing would not be noted; applying the labels is. What else there is to repair follows.
func (r *Reconciler) takeOwnership(ctx context.Context, in input, live *corev1.Secret) error {
	return r.recordWrite(in, r.Client.Apply(ctx, coreac.Secret(live.Name, live.Namespace).
		WithUID(live.UID).WithResourceVersion(live.ResourceVersion).WithLabels(in.desired.Labels()), apply.ServingCert, client.ForceOwnership))
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
func (r *Reconciler) writeSecret(ctx context.Context, in input, pair pki.Pair) error {
	if in.secret == nil {
		secret, err := in.desired.Secret(pair, in.password, &in.ca.CA)
		if err != nil {
			return err
		}
		return r.create(ctx, in, secret)
	}
	patch, err := in.desired.Patch(pair, in.password, &in.ca.CA, in.secret)
	if err != nil {
		return err
	}
	return r.patch(ctx, in, patch)
}

func (r *Reconciler) create(ctx context.Context, in input, secret *corev1.Secret) error {
	service := client.ObjectKeyFromObject(in.service)
	r.Expectations.expect(service, secret)
	err := r.Client.Create(ctx, secret, apply.ServingCert)
	if err != nil {
		r.Expectations.forget(service)
	}
	return r.recordWrite(in, err)
}

func (r *Reconciler) patch(ctx context.Context, in input, patch []byte) error {
	r.recordOtherWriter(ctx, in)
	return r.recordWrite(in, r.Client.Patch(ctx, in.secret.DeepCopy(), client.RawPatch(types.MergePatchType, patch), apply.ServingCert))
}

// recordOtherWriter notes who overwrites a Secret, before the write after which we pause: as long as that is there to be seen.
func (r *Reconciler) recordOtherWriter(ctx context.Context, in input) {
	service := client.ObjectKeyFromObject(in.service)
	if !r.View.Conflicts.NextWriteEndsBurst(service) {
		return
	}
	live := &metav1.PartialObjectMetadata{}
	live.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	if r.Live.Get(ctx, client.ObjectKeyFromObject(in.secret), live) == nil {
		r.View.Conflicts.SetOtherWriter(service, apply.OtherWriter(live, apply.ServingCert, corev1.TLSCertKey, corev1.TLSPrivateKeyKey))
	}
}

// recordWrite counts a write, and returns its error: another bundle, another signer and another policy are nobody's fight.
func (r *Reconciler) recordWrite(in input, err error) error {
	content := fmt.Sprintf("%d %.8s", in.desired.Policy.Generation, pki.Hash(in.ca.Bundle))
	if signer := in.ca.Certificate; signer != nil {
		content += fmt.Sprintf(" %.8x", signer.SubjectKeyId)
	}
	r.View.Conflicts.RecordWrite(client.ObjectKeyFromObject(in.service), content, r.Clock.Now(), err)
	return err
}

// removeUnexpectedKeys removes the keys that OpenShift's annotation does not allow.
func (r *Reconciler) removeUnexpectedKeys(ctx context.Context, in input) error {
	unexpected := in.desired.UnexpectedKeys(in.secret)
	if len(unexpected) == 0 {
		return nil
	}
	data := map[string]any{}
	for _, key := range unexpected {
		data[key] = nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": in.secret.UID, "resourceVersion": in.secret.ResourceVersion}, "data": data,
	})
	if err != nil {
		return err
	}
	if err := r.patch(ctx, in, patch); err != nil {
		return fmt.Errorf("remove the keys %s: %w", strings.Join(unexpected, ", "), err)
	}
	return nil
}

// reportStatus writes what people read on the Service, and an Event when a problem is new.
func (r *Reconciler) reportStatus(ctx context.Context, service *corev1.Service, result reconcileResult) error {
	if result.keepReport {
		return nil
	}
	changes := r.View.Resolver.AnnotationChanges(service, result.problem, result.signedBy)
	key := client.ObjectKeyFromObject(service)
	r.ownAnnotations.Expect(key, changes)
	if err := apply.Annotations(ctx, r.Client, apply.ServingCert, service.DeepCopy(), changes); err != nil {
		r.ownAnnotations.Forget(key)
		return apply.IgnoreGone(err)
	}
	if result.problem != nil && len(changes) > 0 && r.View.Conflicts.AllowEvent(result.problem, r.Clock.Now()) {
		r.Recorder.Eventf(service, nil, corev1.EventTypeWarning, result.problem.Reason, "Issue", "%s", result.problem.Message)
	}
	return nil
}

// reportInjection writes on a Secret why it gets no bundle, which an annotation on it asks for, and an Event when that is new.
func (r *Reconciler) reportInjection(ctx context.Context, in input, plan issuance.Plan) error {
	if in.secret == nil || plan.Action == issuance.Refuse {
		return nil
	}
	problem := plan.InjectionProblem
	changes := issuance.ErrorAnnotationChanges(in.secret.Annotations, problem)
	if len(changes) == 0 {
		return nil
	}
	if problem != nil {
		r.Recorder.Eventf(in.secret, nil, corev1.EventTypeWarning, problem.Reason, "InjectCABundle", "%s", problem.Message)
	}
	err := r.recordWrite(in, apply.Annotations(ctx, r.Client, apply.ServingCert, in.secret.DeepCopy(), changes))
	if apply.IsGone(err) || apply.IsRejected(err) {
		return nil
	}
	return err
}
