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
	"github.com/servingcert/operator/controllers/internal/optional"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// With source.certManager the CA is an intermediate that an issuer of cert-manager signs. Its private key is made here, and waits in a Secret of
// its own until the CertificateRequest for it is answered. Both go once the CA stands in the signing-key Secret.

const (
	// annotationAttempts on the Secret with the waiting key is how many requests were in vain before.
	annotationAttempts = v1alpha1.GroupName + "/attempts"
	// labelRequester on it is the UID of the ServiceCA whose key it is. It bears no LabelServiceCA: it is no signing key yet.
	labelRequester = v1alpha1.GroupName + "/requester"
	// firstBackoff is how long to wait after a request that was in vain; twice as long after each further one, up to lastBackoff.
	firstBackoff, lastBackoff = 5 * time.Minute, 24 * time.Hour
	// retryRequest is how often a request that waits for its issuer is looked at.
	retryRequest = 5 * time.Second
)

// asked is what is there of a CA that cert-manager was asked for.
type asked struct {
	// secret holds the private key; nil where none waits.
	secret *corev1.Secret
	// request is the CertificateRequest; nil where there is none yet.
	request *cmapi.CertificateRequest
}

// requestSecretName is the Secret in which the private key of the next CA waits.
func requestSecretName(ca *v1alpha1.ServiceCA) string { return ca.SigningKeySecretName() + "-request" }

// requestName is that of the request for a key. Another issuer is asked by another request.
func requestName(ca *v1alpha1.ServiceCA, secret *corev1.Secret) string {
	asks := []string{string(secret.UID), secret.Annotations[annotationAttempts], issuerOf(ca.Spec.Source.CertManager.IssuerRef)}
	return ca.Name + "-" + pki.Hash([]byte(strings.Join(asks, "/")))[:10]
}

func (r *Reconciler) observeAsked(ctx context.Context, ca *v1alpha1.ServiceCA) (asked, error) {
	secret, err := get(ctx, r.Live, r.key(requestSecretName(ca)), &corev1.Secret{})
	if err != nil || secret == nil || ca.Spec.Source.CertManager == nil {
		return asked{secret: secret}, err
	}
	request, err := get(ctx, r.Live, r.key(requestName(ca, secret)), &cmapi.CertificateRequest{})
	if optional.Absent(err) || apierrors.IsForbidden(err) {
		request, err = nil, nil
	}
	return asked{secret: secret, request: request}, err
}

// issuerOf is how the source of a CA that an issuer signed is called.
func issuerOf(ref v1alpha1.IssuerReference) string {
	return strings.Join([]string{"certManager", ref.Group, ref.Kind, ref.Name}, "/")
}

// requested is the CA that cert-manager has given, or what is waited for.
func (in observed) requested() (*rotation.Signer, *problem) {
	ref := in.serviceCA.Spec.Source.CertManager.IssuerRef
	waiting := func(format string, arguments ...any) *problem {
		return &problem{reason: reasonSourceNotThere, passing: true, message: fmt.Sprintf("spec.source.certManager: "+format, arguments...)}
	}
	request := in.asked.request
	if request == nil {
		return nil, waiting("%s %s is being asked for a CA", ref.Kind, ref.Name)
	}
	again := in.asked.again().UTC().Format(time.RFC3339)
	if turnedDown, why := in.asked.turnedDown(); turnedDown {
		return nil, waiting("CertificateRequest %s was turned down: %s; it is asked again %s", request.Name, why, again)
	}
	if !in.asked.isReady() {
		return nil, waiting("CertificateRequest %s waits for %s %s, and for its approval", request.Name, ref.Kind, ref.Name)
	}
	signer, err := in.readRequested()
	if err != nil {
		unusable := waiting("CertificateRequest %s: %v; it is asked again %s", request.Name, err, again)
		unusable.reason = reasonSourceInvalid
		return nil, unusable
	}
	return signer, nil
}

// readRequested reads the answer to a request, or says why it is of no use.
func (in observed) readRequested() (*rotation.Signer, error) {
	status := in.asked.request.Status
	pair := pki.Pair{Certificate: status.Certificate, PrivateKey: in.asked.secret.Data[corev1.TLSPrivateKeyKey]}
	authority, err := pki.LoadAuthority(pair)
	if err != nil {
		return nil, err
	}
	root, err := authority.Root(in.now, status.Certificate, status.CA)
	if err != nil {
		return nil, err
	}
	if end := authority.NotAfter(); !in.now.Before(end) {
		return nil, fmt.Errorf("the CA expired %s", end.UTC().Format(time.RFC3339))
	}
	signer := &rotation.Signer{Authority: authority, Root: root, Source: issuerOf(in.serviceCA.Spec.Source.CertManager.IssuerRef)}
	err = signer.CheckStrength()
	return signer, err
}

// says tells whether a request has this condition.
func (a asked) says(kind cmapi.CertificateRequestConditionType, status cmmeta.ConditionStatus) bool {
	for _, condition := range a.request.Status.Conditions {
		if condition.Type == kind && condition.Status == status {
			return true
		}
	}
	return false
}

func (a asked) isReady() bool {
	return a.says(cmapi.CertificateRequestConditionReady, cmmeta.ConditionTrue)
}

// inVain tells whether no CA comes of a request: it was turned down, or what came is of no use.
func (in observed) inVain() bool {
	if down, _ := in.asked.turnedDown(); down || !in.asked.isReady() {
		return down
	}
	_, err := in.readRequested()
	return err != nil
}

// turnedDown tells whether a request was denied, or failed, and why.
func (a asked) turnedDown() (bool, string) {
	why := "it failed"
	for _, condition := range a.request.Status.Conditions {
		if condition.Type == cmapi.CertificateRequestConditionReady && condition.Message != "" {
			why = condition.Message
		}
	}
	denied := a.says(cmapi.CertificateRequestConditionDenied, cmmeta.ConditionTrue) || a.says(cmapi.CertificateRequestConditionInvalidRequest, cmmeta.ConditionTrue)
	return denied || a.request.Status.FailureTime != nil, why
}

func (a asked) attempts() int {
	attempts, _ := strconv.Atoi(a.secret.Annotations[annotationAttempts])
	return max(0, attempts)
}

// again is when a request that was in vain is followed by another.
func (a asked) again() time.Time {
	return a.request.CreationTimestamp.Add(min(lastBackoff, firstBackoff<<min(a.attempts(), 16)))
}

// isOf tells whether the key that waits is this ServiceCA's.
func (a asked) isOf(ca *v1alpha1.ServiceCA) bool {
	return apply.MadeBy(a.secret, apply.ServiceCA) && a.secret.Labels[labelRequester] == string(ca.UID)
}

// requestedSuccessor is what cert-manager has to give after a CA.
func (in observed) requestedSuccessor(current *rotation.Signer) successor {
	source := in.serviceCA.Spec.Source.CertManager
	next := successor{}
	switch {
	case current.Source != issuerOf(source.IssuerRef):
		next.cause = v1alpha1.RotationSourceChanged
	case current.Key() != pki.KeySpecOf(in.serviceCA.Spec.Certificate.PrivateKey):
		next.cause = v1alpha1.RotationSpecChanged
	}
	signer, problem := in.requested()
	if problem != nil || same(signer, current) {
		next.none = fmt.Sprintf("%s %s is being asked for another CA", source.IssuerRef.Kind, source.IssuerRef.Name)
		if in.asked.request != nil && problem != nil {
			next.none = problem.message
		}
		return next
	}
	next.signer = signer
	return next
}

// ask asks for a CA of cert-manager's where one is wanted, and removes what it asked by where none is.
func (r *Reconciler) ask(ctx context.Context, in observed, decided *step) error {
	asks := in.serviceCA.Spec.Source.CertManager != nil
	switch {
	case asks && !decided.wanted && len(decided.blockedBy) > 0 && !in.asked.taken(decided.state):
		// What was asked for is waited with: another rotation goes on, or all of them are held.
		return nil
	case !asks || !decided.wanted:
		return r.collect(ctx, in, decided)
	}
	decided.retry = retryRequest
	unasked, err := r.askNext(ctx, in)
	decided.tellUnasked(unasked)
	return err
}

// taken tells whether the key that waited stands in the signing-key Secret.
func (a asked) taken(state *rotation.State) bool {
	if a.secret == nil || state == nil {
		return false
	}
	for _, signer := range []*rotation.Signer{state.Active, state.Next} {
		if signer != nil && pki.CheckPair(pki.Pair{
			Certificate: pki.Bundle{signer.Certificate()}.Encode(), PrivateKey: a.secret.Data[corev1.TLSPrivateKeyKey],
		}) == nil {
			return true
		}
	}
	return false
}

// askNext takes the next step towards a CA, one write at a time: a key, a request for it, and another after one that was in vain. What
// stands in the way comes back as a problem.
func (r *Reconciler) askNext(ctx context.Context, in observed) (*problem, error) {
	ca, asked := in.serviceCA, in.asked
	switch {
	case asked.secret == nil:
		return r.refusedRequest(ca, r.makeKey(ctx, ca, nil))
	case !asked.isOf(ca):
		return &problem{reason: reasonSigningKeyNotOur, message: fmt.Sprintf("Secret %s is left alone, because this ServiceCA did not make it: delete it, "+
			"so that the private key of the next CA can wait there", asked.secret.Name)}, nil
	case asked.request == nil:
		return r.refusedRequest(ca, r.createRequest(ctx, in))
	}
	if in.inVain() && !in.now.Before(asked.again()) {
		return r.refusedRequest(ca, r.makeKey(ctx, ca, asked.secret))
	}
	return nil, nil
}

// refusedRequest returns as a problem what the cluster lacks, or refuses, or cannot do for longer than a moment; any other error comes back.
func (r *Reconciler) refusedRequest(ca *v1alpha1.ServiceCA, err error) (*problem, error) {
	key := client.ObjectKeyFromObject(ca)
	switch {
	case err == nil:
		r.askFailures.Recovered(key)
		return nil, nil
	case optional.Absent(err) && !apply.Refused(err):
		return &problem{reason: reasonSourceNotThere, passing: true, message: "spec.source.certManager: this cluster has no cert-manager: install it, " +
			"or choose another source"}, nil
	case apierrors.IsForbidden(err):
		return &problem{reason: reasonSourceNotThere, passing: true, message: "spec.source.certManager: the operator may not create CertificateRequests: install " +
			"the component config/components/cert-manager, or put right what else refuses it: " + err.Error()}, nil
	case apply.Refused(err):
		return &problem{reason: reasonSourceInvalid, message: "spec.source.certManager: " + err.Error()}, nil
	}
	if failure := r.askFailures.Failed(key, r.Clock.Now(), err); failure != nil {
		return &problem{reason: failure.Reason, passing: true, message: "spec.source.certManager: " + failure.Message}, nil
	}
	return nil, err
}

// makeKey makes the private key of the next CA, in place of one whose request was in vain. It goes with the ServiceCA.
func (r *Reconciler) makeKey(ctx context.Context, ca *v1alpha1.ServiceCA, before *corev1.Secret) error {
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
	metav1.SetMetaDataAnnotation(&secret.ObjectMeta, annotationAttempts, strconv.Itoa(asked{secret: before}.attempts()+1))
	return r.Live.Patch(ctx, secret, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), apply.ServiceCA)
}

func (r *Reconciler) createRequest(ctx context.Context, in observed) error {
	ca := in.serviceCA
	ref := ca.Spec.Source.CertManager.IssuerRef
	var before pki.Bundle
	for _, p := range in.recovered() {
		before = append(before, p.Root)
	}
	encoded, err := pki.RequestCA(in.now, in.asked.secret.Data[corev1.TLSPrivateKeyKey], ca.Spec.Certificate.CommonName, before...)
	if err != nil {
		return err
	}
	request := &cmapi.CertificateRequest{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: r.Namespace, Name: requestName(ca, in.asked.secret), Labels: map[string]string{v1alpha1.LabelServiceCA: ca.Name},
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

// collect removes the requests that are of no use any more, and the key that waited once it stands in the signing-key Secret.
func (r *Reconciler) collect(ctx context.Context, in observed, decided *step) error {
	secret := in.asked.secret
	if secret == nil || decided.state == nil || !in.asked.isOf(in.serviceCA) {
		return nil
	}
	if err := r.deleteRequests(ctx, in.serviceCA.Name); err != nil {
		return err
	}
	return apply.IgnoreGone(r.Live.Delete(ctx, secret, apply.Unchanged(secret)))
}

// tellUnasked says why cert-manager cannot be asked: of a CA that signs, it is what its rotation waits for.
func (s *step) tellUnasked(p *problem) {
	switch {
	case p == nil:
	case s.state == nil:
		s.problem = p
	default:
		s.blockedBy = append(s.blockedBy, p.message)
	}
}
