package serviceca

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/availability"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// With source.certManager, the CA is an intermediate that a cert-manager issuer signs. The operator
// generates its private key and keeps it in a separate Secret until the CertificateRequest for it
// is signed. It deletes both once the signing-key Secret holds the CA.

const (
	// annotationAttempts on the Secret with the pending key is the number of earlier requests that
	// failed.
	annotationAttempts = v1alpha1.GroupName + "/attempts"
	// labelRequester on that Secret is the UID of the ServiceCA that the key is for. The Secret does
	// not have LabelServiceCA: it is not a signing key yet.
	labelRequester = v1alpha1.GroupName + "/requester"
	// firstBackoff is how long the operator waits after a failed request. The wait doubles with each
	// further failure, up to lastBackoff.
	firstBackoff, lastBackoff = 5 * time.Minute, 24 * time.Hour
	// retryRequest is how often the operator checks a request that its issuer has not answered.
	retryRequest = 5 * time.Second
)

// pendingRequest is the private key and the CertificateRequest for the next CA from cert-manager.
type pendingRequest struct {
	// secret holds the private key; nil when no key is pending.
	secret *corev1.Secret
	// request is the CertificateRequest; nil when it does not exist yet.
	request *cmapi.CertificateRequest
}

// requestSecretName returns the name of the Secret that holds the private key of the next CA until
// cert-manager has signed it.
func requestSecretName(ca *v1alpha1.ServiceCA) string { return ca.SigningKeySecretName() + "-request" }

// requestName returns the name of the CertificateRequest for the key in secret. The name depends on
// the issuer: a change of issuerRef results in a new request.
func requestName(ca *v1alpha1.ServiceCA, secret *corev1.Secret) string {
	parts := []string{string(secret.UID), secret.Annotations[annotationAttempts], issuerSource(ca.Spec.Source.CertManager.IssuerRef)}
	return ca.Name + "-" + pki.Hash([]byte(strings.Join(parts, "/")))[:10]
}

func (r *Reconciler) observeRequest(ctx context.Context, ca *v1alpha1.ServiceCA) (pendingRequest, error) {
	secret, err := get(ctx, r.Live, r.key(requestSecretName(ca)), &corev1.Secret{})
	if err != nil || secret == nil || ca.Spec.Source.CertManager == nil {
		return pendingRequest{secret: secret}, err
	}
	request, err := get(ctx, r.Live, r.key(requestName(ca, secret)), &cmapi.CertificateRequest{})
	if availability.IsNotServed(err) || apierrors.IsForbidden(err) {
		request, err = nil, nil
	}
	return pendingRequest{secret: secret, request: request}, err
}

// issuerSource returns the source that is recorded for a CA signed by the issuer ref.
func issuerSource(ref v1alpha1.IssuerReference) string {
	return strings.Join([]string{"certManager", ref.Group, ref.Kind, ref.Name}, "/")
}

// requestedSigner returns the CA that cert-manager signed, or the problem that explains why there
// is none yet.
func (in observed) requestedSigner() (*rotation.Signer, *problem) {
	ref := in.serviceCA.Spec.Source.CertManager.IssuerRef
	pending := func(format string, arguments ...any) *problem {
		return &problem{reason: reasonSourceNotThere, transient: true, message: fmt.Sprintf("spec.source.certManager: "+format, arguments...)}
	}
	request := in.pendingRequest.request
	if request == nil {
		return nil, pending("%s %s is being asked for a CA", ref.Kind, ref.Name)
	}
	retryAt := in.pendingRequest.retryAt().UTC().Format(time.RFC3339)
	if rejected, reason := in.pendingRequest.isRejected(); rejected {
		return nil, pending("CertificateRequest %s was turned down: %s; it is asked again %s", request.Name, reason, retryAt)
	}
	if !in.pendingRequest.isReady() {
		return nil, pending("CertificateRequest %s waits for %s %s, and for its approval", request.Name, ref.Kind, ref.Name)
	}
	signer, err := in.parseRequested()
	if err != nil {
		unusable := pending("CertificateRequest %s: %v; it is asked again %s", request.Name, err, retryAt)
		unusable.reason = reasonSourceInvalid
		return nil, unusable
	}
	return signer, nil
}

// parseRequested returns the CA from the status of the CertificateRequest, or an error if that CA
// is not usable.
func (in observed) parseRequested() (*rotation.Signer, error) {
	status := in.pendingRequest.request.Status
	pair := pki.Pair{Certificate: status.Certificate, PrivateKey: in.pendingRequest.secret.Data[corev1.TLSPrivateKeyKey]}
	authority, err := pki.LoadAuthority(pair)
	if err != nil {
		return nil, err
	}
	root, err := authority.Root(in.now, status.Certificate, status.CA)
	if err != nil {
		return nil, err
	}
	if notAfter := authority.NotAfter(); !in.now.Before(notAfter) {
		return nil, fmt.Errorf("the CA expired %s", notAfter.UTC().Format(time.RFC3339))
	}
	signer := &rotation.Signer{Authority: authority, Root: root, Source: issuerSource(in.serviceCA.Spec.Source.CertManager.IssuerRef)}
	err = signer.CheckStrength()
	return signer, err
}

// hasCondition reports whether the request has a condition of this type and status.
func (p pendingRequest) hasCondition(kind cmapi.CertificateRequestConditionType, status cmmeta.ConditionStatus) bool {
	for _, condition := range p.request.Status.Conditions {
		if condition.Type == kind && condition.Status == status {
			return true
		}
	}
	return false
}

func (p pendingRequest) isReady() bool {
	return p.hasCondition(cmapi.CertificateRequestConditionReady, cmmeta.ConditionTrue)
}

// requestFailed reports whether the request will yield no CA: it was rejected, or its certificate
// is not usable.
func (in observed) requestFailed() bool {
	if rejected, _ := in.pendingRequest.isRejected(); rejected || !in.pendingRequest.isReady() {
		return rejected
	}
	_, err := in.parseRequested()
	return err != nil
}

// isRejected reports whether the request was denied or has failed, and why.
func (p pendingRequest) isRejected() (bool, string) {
	reason := "it failed"
	for _, condition := range p.request.Status.Conditions {
		if condition.Type == cmapi.CertificateRequestConditionReady && condition.Message != "" {
			reason = condition.Message
		}
	}
	denied := p.hasCondition(cmapi.CertificateRequestConditionDenied, cmmeta.ConditionTrue) || p.hasCondition(cmapi.CertificateRequestConditionInvalidRequest, cmmeta.ConditionTrue)
	return denied || p.request.Status.FailureTime != nil, reason
}

func (p pendingRequest) attempts() int {
	attempts, _ := strconv.Atoi(p.secret.Annotations[annotationAttempts])
	return max(0, attempts)
}

// retryAt returns when the operator follows a failed request with another.
func (p pendingRequest) retryAt() time.Time {
	return p.request.CreationTimestamp.Add(min(lastBackoff, firstBackoff<<min(p.attempts(), 16)))
}

// belongsTo reports whether the pending key belongs to this ServiceCA.
func (p pendingRequest) belongsTo(ca *v1alpha1.ServiceCA) bool {
	return apply.IsManagedBy(p.secret, apply.ServiceCA) && p.secret.Labels[labelRequester] == string(ca.UID)
}

// requestedSuccessor returns the successor that cert-manager provides for the current CA.
func (in observed) requestedSuccessor(current *rotation.Signer) successor {
	source := in.serviceCA.Spec.Source.CertManager
	next := successor{}
	switch {
	case current.Source != issuerSource(source.IssuerRef):
		next.cause = v1alpha1.RotationSourceChanged
	case current.Key() != pki.KeySpecOf(in.serviceCA.Spec.Certificate.PrivateKey):
		next.cause = v1alpha1.RotationSpecChanged
	}
	signer, problem := in.requestedSigner()
	if problem != nil || sameCA(signer, current) {
		next.unavailableReason = fmt.Sprintf("%s %s is being asked for another CA", source.IssuerRef.Kind, source.IssuerRef.Name)
		if in.pendingRequest.request != nil && problem != nil {
			next.unavailableReason = problem.message
		}
		return next
	}
	next.signer = signer
	return next
}

// ensureRequest requests a CA from cert-manager when the plan needs one. When it does not, it
// deletes the pending request and its key.
func (r *Reconciler) ensureRequest(ctx context.Context, in observed, plan *changePlan) error {
	usesCertManager := in.serviceCA.Spec.Source.CertManager != nil
	switch {
	case usesCertManager && !plan.needsRequest && len(plan.blockedBy) > 0 && !in.pendingRequest.isUsedBy(plan.state):
		// Keep the request: another rotation is in progress, or rotations are paused.
		return nil
	case !usesCertManager || !plan.needsRequest:
		return r.deleteRequest(ctx, in, plan)
	}
	plan.retry = retryRequest
	problem, err := r.advanceRequest(ctx, in)
	plan.addRequestProblem(problem)
	return err
}

// isUsedBy reports whether the pending key is already in the signing-key Secret.
func (p pendingRequest) isUsedBy(state *rotation.State) bool {
	if p.secret == nil || state == nil {
		return false
	}
	for _, signer := range []*rotation.Signer{state.Active, state.Next} {
		if signer != nil && pki.CheckPair(pki.Pair{
			Certificate: pki.Bundle{signer.Certificate()}.Encode(), PrivateKey: p.secret.Data[corev1.TLSPrivateKeyKey],
		}) == nil {
			return true
		}
	}
	return false
}

// advanceRequest takes the next step towards a CA, one write at a time: it creates a key, then a
// request for it, and replaces the key after a request that failed. It returns a problem when it
// cannot proceed.
func (r *Reconciler) advanceRequest(ctx context.Context, in observed) (*problem, error) {
	ca, request := in.serviceCA, in.pendingRequest
	switch {
	case request.secret == nil:
		return r.classifyRequestError(ca, r.generateRequestKey(ctx, ca, nil))
	case !request.belongsTo(ca):
		return &problem{reason: reasonSigningKeyNotOur, message: fmt.Sprintf("Secret %s is left alone, because this ServiceCA did not make it: delete it, "+
			"so that the private key of the next CA can wait there", request.secret.Name)}, nil
	case request.request == nil:
		return r.classifyRequestError(ca, r.createRequest(ctx, in))
	}
	if in.requestFailed() && !in.now.Before(request.retryAt()) {
		return r.classifyRequestError(ca, r.generateRequestKey(ctx, ca, request.secret))
	}
	return nil, nil
}

// classifyRequestError returns a problem when the cluster lacks or rejects something, or when the
// error has lasted. It returns any other error unchanged.
func (r *Reconciler) classifyRequestError(ca *v1alpha1.ServiceCA, err error) (*problem, error) {
	key := client.ObjectKeyFromObject(ca)
	switch {
	case err == nil:
		r.requestFailures.ClearFailure(key)
		return nil, nil
	case availability.IsNotServed(err) && !apply.IsRejected(err):
		return &problem{reason: reasonSourceNotThere, transient: true, message: "spec.source.certManager: this cluster has no cert-manager: install it, " +
			"or choose another source"}, nil
	case apierrors.IsForbidden(err):
		return &problem{reason: reasonSourceNotThere, transient: true, message: "spec.source.certManager: the operator may not create CertificateRequests: install " +
			"the component config/components/cert-manager, or put right what else refuses it: " + err.Error()}, nil
	case apply.IsRejected(err):
		return &problem{reason: reasonSourceInvalid, message: "spec.source.certManager: " + err.Error()}, nil
	}
	if failure := r.requestFailures.RecordFailure(key, r.Clock.Now(), err); failure != nil {
		return &problem{reason: failure.Reason, transient: true, message: "spec.source.certManager: " + failure.Message}, nil
	}
	return nil, err
}

// generateRequestKey generates the private key of the next CA and replaces before, the key of a
// failed request; before may be nil. The garbage collector deletes the Secret with the ServiceCA.
func (r *Reconciler) generateRequestKey(ctx context.Context, ca *v1alpha1.ServiceCA, before *corev1.Secret) error {
	key, err := pki.GenerateKey(pki.KeySpecOf(ca.Spec.Certificate.PrivateKey))
	if err != nil {
		return err
	}
	if before == nil {
		return r.Live.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: r.Namespace, Name: requestSecretName(ca), Labels: map[string]string{labelRequester: string(ca.UID)},
				OwnerReferences: ownedBy(ca),
			},
			Data: map[string][]byte{corev1.TLSPrivateKeyKey: key},
		}, apply.ServiceCA)
	}
	secret := before.DeepCopy()
	secret.Data = map[string][]byte{corev1.TLSPrivateKeyKey: key}
	metav1.SetMetaDataAnnotation(&secret.ObjectMeta, annotationAttempts, strconv.Itoa(pendingRequest{secret: before}.attempts()+1))
	return r.Live.Patch(ctx, secret, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), apply.ServiceCA)
}

func (r *Reconciler) createRequest(ctx context.Context, in observed) error {
	ca := in.serviceCA
	ref := ca.Spec.Source.CertManager.IssuerRef
	var before pki.Bundle
	for _, p := range in.recoveredRoots() {
		before = append(before, p.Root)
	}
	encoded, err := pki.RequestCA(in.now, in.pendingRequest.secret.Data[corev1.TLSPrivateKeyKey], ca.Spec.Certificate.CommonName, before...)
	if err != nil {
		return err
	}
	request := &cmapi.CertificateRequest{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: r.Namespace, Name: requestName(ca, in.pendingRequest.secret), Labels: map[string]string{v1alpha1.LabelServiceCA: ca.Name},
			OwnerReferences: ownedBy(ca),
		},
		Spec: cmapi.CertificateRequestSpec{
			IssuerRef: cmmeta.IssuerReference{Group: ref.Group, Kind: ref.Kind, Name: ref.Name}, Request: encoded, IsCA: true,
			Duration: &metav1.Duration{Duration: ca.Spec.Certificate.Duration.Std()},
			Usages:   []cmapi.KeyUsage{cmapi.UsageDigitalSignature, cmapi.UsageCertSign, cmapi.UsageCRLSign},
		},
	}
	return r.Live.Create(ctx, request, apply.ServiceCA)
}

// deleteRequest deletes the CertificateRequests that are no longer needed, and the pending key once
// it is in the signing-key Secret.
func (r *Reconciler) deleteRequest(ctx context.Context, in observed, plan *changePlan) error {
	secret := in.pendingRequest.secret
	if secret == nil || plan.state == nil || !in.pendingRequest.belongsTo(in.serviceCA) {
		return nil
	}
	if err := r.deleteRequests(ctx, in.serviceCA.Name); err != nil {
		return err
	}
	return apply.IgnoreGone(r.Live.Delete(ctx, secret, apply.PreconditionsFor(secret)))
}

// addRequestProblem records why the operator cannot request a CA from cert-manager. While a CA
// signs, its rotation is blocked by the problem; without a CA, the problem is that of the plan.
func (p *changePlan) addRequestProblem(problem *problem) {
	switch {
	case problem == nil:
	case p.state == nil:
		p.problem = problem
	default:
		p.blockedBy = append(p.blockedBy, problem.message)
	}
}
