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

// errSecretExists is returned when the API server has a Secret under a name for which the cache has
// none.
var errSecretExists = errors.New("there is a Secret that the cache does not hold")

// errKeyPending is returned when the policy wants a private key that is slow to generate and the
// KeyQueue has not generated it yet.
var errKeyPending = errors.New("the private key takes long to make")

// execute carries out a plan and returns the result to report. It returns errSecretExists when a
// Secret that the cache does not hold already has the name.
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
		// Another client was faster: read the new state before deciding again.
		return reconcileResult{keepReport: true, requeueAfter: pollInterval}, nil
	case err != nil:
		if plan.Action == issuance.Issue {
			// The reconciliation will be retried. Keep the generated key for it, because keys are
			// slow to generate.
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

// signedBy returns the common name of the CA that signed the certificate in the Secret, or "" if
// the Secret has no valid certificate.
func signedBy(plan issuance.Plan) string {
	if plan.NotAfter.IsZero() {
		return ""
	}
	return plan.SignedBy
}

// write writes to the Secret what the plan says; a plan to refuse writes nothing.
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

// untilNext returns the time until the renewal, or pollInterval if that is shorter and the plan has
// a problem whose end no watch event would show. It returns 0 if no time is set.
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

// needsPolling reports whether no watch event would show that a problem with this reason is gone.
func needsPolling(reason string) bool {
	return reason == issuance.ReasonSecretNotOurs || reason == issuance.ReasonSecretRefused
}

// issue issues a new certificate and stores it in the Secret by a single write. It returns
// errKeyPending or errSecretExists if there is no key yet or the Secret already exists.
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

// recordIssued records metrics and an Event for a new certificate; took is how long it took to sign
// it and to generate its private key, unless the KeyQueue generated that.
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

// keyFor returns the private key for a new certificate: the current one if the policy keeps it
// across renewals, otherwise the key that the KeyQueue generated. It returns nil, so that a new key
// is generated, if there is neither, or if the Secret already holds a certificate for the generated
// key: an earlier write may have succeeded although no response arrived.
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

// repair rewrites a valid certificate together with its labels, annotations and bundle, and encodes
// its private key as the policy wants it.
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

// takeOwnership makes the operator a field manager of a Secret that was restored or copied without
// managedFields, so that the operator deletes it once its Service no longer wants it. A patch that
// changes nothing would not be recorded in managedFields; a server-side apply of the labels is.
// Later reconciliations make all other repairs.
func (r *Reconciler) takeOwnership(ctx context.Context, in input, live *corev1.Secret) error {
	return r.recordWrite(in, r.Client.Apply(ctx, coreac.Secret(live.Name, live.Namespace).
		WithUID(live.UID).WithResourceVersion(live.ResourceVersion).WithLabels(in.desired.Labels()), apply.ServingCert, client.ForceOwnership))
}

// readLive reads a Secret with its private key from the API server. It returns a conflict if the
// Secret is no longer at the version of the digest.
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

// writeSecret creates the Secret, or patches the existing one with its UID and resourceVersion as
// preconditions. Server-side apply would cost the API server nearly twice as much, and it would
// overwrite a Secret that the cache does not hold.
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

// recordOtherWriter records which client overwrites a Secret. It reads the managedFields right
// before the last write of a burst, because that write removes the other client's entries.
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

// recordWrite counts a write for conflict detection and returns its error. Writes that differ in
// bundle, signer or policy generation are not counted as a conflict.
func (r *Reconciler) recordWrite(in input, err error) error {
	content := fmt.Sprintf("%d %.8s", in.desired.Policy.Generation, pki.Hash(in.ca.Bundle))
	if signer := in.ca.Certificate; signer != nil {
		content += fmt.Sprintf(" %.8x", signer.SubjectKeyId)
	}
	r.View.Conflicts.RecordWrite(client.ObjectKeyFromObject(in.service), content, r.Clock.Now(), err)
	return err
}

// removeUnexpectedKeys removes the data keys that OpenShift's annotation does not allow.
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

// reportStatus writes the status annotations of a Service, and records an Event when the problem is
// new.
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

// reportInjection writes on a Secret why the bundle that its annotation requests is not injected,
// and records an Event when that is new.
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
