// Package certificatesigning answers approved CertificateSigningRequests for the signers
// servingcert.dev/<serviceca>.
package certificatesigning

import (
	"context"
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	certificatesac "k8s.io/client-go/applyconfigurations/certificates/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/controllers/certrequest"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/csr"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// serviceAccountPrefix is the prefix of the user name of a ServiceAccount.
const serviceAccountPrefix = "system:serviceaccount:"

// RequestKind answers CertificateSigningRequests.
type RequestKind struct {
	Signer certrequest.Signer
	Live   client.Client
	Clock  clock.PassiveClock
}

// MaxWait returns zero: Kubernetes removes a request 24 hours after its approval.
func (RequestKind) MaxWait() time.Duration { return 0 }

// DeferUntil returns zero: the operator does not know whether the holder has another certificate.
func (RequestKind) DeferUntil(context.Context, *certificatesv1.CertificateSigningRequest) (time.Time, error) {
	return time.Time{}, nil
}

// Name returns the controller's name.
func (RequestKind) Name() string { return "certificatesigning" }

// New returns an empty request.
func (RequestKind) New() *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{}
}

// List returns an empty list of requests.
func (RequestKind) List() client.ObjectList { return &certificatesv1.CertificateSigningRequestList{} }

// StripForCache removes the content of requests to other signers, and everything but the
// certificate from an answer.
func (RequestKind) StripForCache(request *certificatesv1.CertificateSigningRequest) {
	request.Labels, request.Annotations = nil, nil
	request.Spec.Request, request.Spec.Extra = csr.Truncate(request.Spec.Request), nil
	if certrequest.ServiceCAOfSigner(request.Spec.SignerName) == "" {
		request.Spec, request.Status = certificatesv1.CertificateSigningRequestSpec{}, certificatesv1.CertificateSigningRequestStatus{}
	}
	if len(request.Status.Certificate) > 0 {
		request.Spec.Request, request.Status.Certificate = nil, certrequest.FirstCertificate(request.Status.Certificate)
	}
}

// Response returns the certificate. Its holder is unknown.
func (RequestKind) Response(request *certificatesv1.CertificateSigningRequest) certrequest.Response {
	return certrequest.Response{
		CA: certrequest.ServiceCAOfSigner(request.Spec.SignerName), Certificate: request.Status.Certificate,
		RenewCommand: fmt.Sprintf("CertificateSigningRequest %.64q", request.Name),
	}
}

// ServiceCAName returns the ServiceCA of a request that is approved; empty before that, once it is
// answered, and for other signers.
func (RequestKind) ServiceCAName(request *certificatesv1.CertificateSigningRequest) string {
	approved := false
	for _, condition := range request.Status.Conditions {
		switch condition.Type {
		case certificatesv1.CertificateApproved:
			approved = true
		case certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			return ""
		}
	}
	if !approved || len(request.Status.Certificate) > 0 {
		return ""
	}
	return certrequest.ServiceCAOfSigner(request.Spec.SignerName)
}

// Evaluate grants what the request asks for if the CA's policies offer it. The approver vouches for
// the client, but cannot grant more than the policies allow: a ServiceAccount gets names of its own
// namespace only.
func (k RequestKind) Evaluate(ctx context.Context, request *certificatesv1.CertificateSigningRequest) (*certrequest.Grant, *certrequest.Refusal, error) {
	parsed, err := csr.Parse(request.Spec.Request)
	if err != nil {
		return nil, certrequest.Invalid(err), nil
	}
	if err := addUsages(parsed, request.Spec.Usages); err != nil {
		return nil, certrequest.Invalid(err), nil
	}
	namespace := ""
	if account, ok := strings.CutPrefix(request.Spec.Username, serviceAccountPrefix); ok {
		namespace, _, _ = strings.Cut(account, ":")
	}
	ca := certrequest.ServiceCAOfSigner(request.Spec.SignerName)
	offers, err := k.Signer.Offers(ctx, ca, namespace, func(*corev1.Service) bool { return true })
	if err != nil {
		return nil, nil, err
	}
	terms, problem := offers.Grant(parsed.DNSNames, parsed.Usages)
	if problem != nil {
		refusal, err := k.Signer.NotGranted(ctx, problem, ca, request.CreationTimestamp.Time, namespace, parsed.DNSNames)
		return nil, refusal, err
	}
	grant := &certrequest.Grant{PublicKey: parsed.PublicKey, Key: parsed.Key, Terms: terms, Backdate: pki.ClockSkew}
	if seconds := request.Spec.ExpirationSeconds; seconds != nil {
		grant.Duration = time.Duration(*seconds) * time.Second
	}
	return grant, nil, nil
}

func addUsages(parsed *csr.Request, usages []certificatesv1.KeyUsage) error {
	for _, usage := range usages {
		if err := parsed.AddUsage(string(usage)); err != nil {
			return fmt.Errorf("spec.usages: %w", err)
		}
	}
	return nil
}

// Issue writes the certificate to the request's status.
func (k RequestKind) Issue(ctx context.Context, request *certificatesv1.CertificateSigningRequest, certificate *certrequest.Certificate) error {
	return k.answer(ctx, request, certificatesac.CertificateSigningRequestStatus().WithCertificate(certificate.Chain...))
}

// Refuse fails the request if the refusal is final. Otherwise the request waits, and an Event
// reports why.
func (k RequestKind) Refuse(ctx context.Context, request *certificatesv1.CertificateSigningRequest, refusal *certrequest.Refusal) error {
	if !refusal.Final {
		return nil
	}
	now := metav1.NewTime(k.Clock.Now())
	return k.answer(ctx, request, certificatesac.CertificateSigningRequestStatus().WithConditions(
		certificatesac.CertificateSigningRequestCondition().WithType(certificatesv1.CertificateFailed).WithStatus(corev1.ConditionTrue).
			WithReason(refusal.Reason).WithMessage(refusal.Message).WithLastUpdateTime(now).WithLastTransitionTime(now)))
}

// answer writes the status of exactly the version of the request that was read.
func (k RequestKind) answer(
	ctx context.Context, request *certificatesv1.CertificateSigningRequest, status *certificatesac.CertificateSigningRequestStatusApplyConfiguration,
) error {
	configuration := certificatesac.CertificateSigningRequest(request.Name).
		WithUID(request.UID).WithResourceVersion(request.ResourceVersion).WithStatus(status)
	if err := k.Live.Status().Apply(ctx, configuration, apply.Signer, client.ForceOwnership); err != nil {
		return fmt.Errorf("answer CertificateSigningRequest %s: %w", request.Name, err)
	}
	return nil
}

// EventObject returns the request itself.
func (RequestKind) EventObject(request *certificatesv1.CertificateSigningRequest) runtime.Object {
	return request
}
