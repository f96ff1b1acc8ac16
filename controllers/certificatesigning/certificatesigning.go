// Package certificatesigning answers approved CertificateSigningRequests for the signers servingcert.dev/<serviceca>.
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

	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/csr"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/signing"
)

// serviceAccountPrefix begins the user name of a ServiceAccount.
const serviceAccountPrefix = "system:serviceaccount:"

// Door answers CertificateSigningRequests.
type Door struct {
	Signer signing.Signer
	Live   client.Client
	Clock  clock.PassiveClock
}

// Bound is none: Kubernetes removes a request 24 hours after its approval.
func (Door) Bound() time.Duration { return 0 }

// CanWait is zero: nobody knows what the holder has.
func (Door) CanWait(context.Context, *certificatesv1.CertificateSigningRequest) (time.Time, error) {
	return time.Time{}, nil
}

// Name is the controller's.
func (Door) Name() string { return "certificatesigning" }

// New is an empty request.
func (Door) New() *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{}
}

// List is an empty list of requests.
func (Door) List() client.ObjectList { return &certificatesv1.CertificateSigningRequestList{} }

// Slim drops what is for another signer.
func (Door) Slim(request *certificatesv1.CertificateSigningRequest) {
	request.Labels, request.Annotations = nil, nil
	request.Spec.Request, request.Spec.Extra = csr.Slim(request.Spec.Request), nil
	if signing.OfCA(request.Spec.SignerName) == "" {
		request.Spec, request.Status = certificatesv1.CertificateSigningRequestSpec{}, certificatesv1.CertificateSigningRequestStatus{}
	}
	if len(request.Status.Certificate) > 0 {
		request.Spec.Request, request.Status.Certificate = nil, signing.LeafOf(request.Status.Certificate)
	}
}

// Answer returns the certificate: nobody knows who holds it.
func (Door) Answer(request *certificatesv1.CertificateSigningRequest) signing.Answer {
	return signing.Answer{
		CA: signing.OfCA(request.Spec.SignerName), Certificate: request.Status.Certificate,
		Renew: fmt.Sprintf("CertificateSigningRequest %.64q", request.Name),
	}
}

// CA is the ServiceCA that is asked, once somebody has approved it.
func (Door) CA(request *certificatesv1.CertificateSigningRequest) string {
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
	return signing.OfCA(request.Spec.SignerName)
}

// Claim is what is asked for. Whoever approves vouches for the asker, and not for more than the policies allow: a ServiceAccount gets names of its
// own namespace only.
func (d Door) Claim(ctx context.Context, request *certificatesv1.CertificateSigningRequest) (*signing.Claim, *signing.Refusal, error) {
	read, err := csr.Parse(request.Spec.Request)
	if err != nil {
		return nil, signing.Invalid(err), nil
	}
	if err := addUsages(read, request.Spec.Usages); err != nil {
		return nil, signing.Invalid(err), nil
	}
	namespace := ""
	if account, is := strings.CutPrefix(request.Spec.Username, serviceAccountPrefix); is {
		namespace, _, _ = strings.Cut(account, ":")
	}
	ca := signing.OfCA(request.Spec.SignerName)
	offers, err := d.Signer.Offers(ctx, ca, namespace, func(*corev1.Service) bool { return true })
	if err != nil {
		return nil, nil, err
	}
	terms, obstacle := offers.Grant(read.DNSNames, read.Usages)
	if obstacle != nil {
		refusal, err := d.Signer.NotGranted(ctx, obstacle, ca, request.CreationTimestamp.Time, namespace, read.DNSNames)
		return nil, refusal, err
	}
	claim := &signing.Claim{PublicKey: read.PublicKey, Key: read.Key, Terms: terms, Skew: pki.ClockSkew}
	if seconds := request.Spec.ExpirationSeconds; seconds != nil {
		claim.Duration = time.Duration(*seconds) * time.Second
	}
	return claim, nil, nil
}

func addUsages(read *csr.Request, usages []certificatesv1.KeyUsage) error {
	for _, usage := range usages {
		if err := read.AddUsage(string(usage)); err != nil {
			return fmt.Errorf("spec.usages: %w", err)
		}
	}
	return nil
}

// Issue answers by a certificate.
func (d Door) Issue(ctx context.Context, request *certificatesv1.CertificateSigningRequest, certificate *signing.Certificate) error {
	return d.answer(ctx, request, certificatesac.CertificateSigningRequestStatus().WithCertificate(certificate.Chain...))
}

// Refuse fails what is final. Anything else waits, and an Event tells.
func (d Door) Refuse(ctx context.Context, request *certificatesv1.CertificateSigningRequest, refusal *signing.Refusal) error {
	if !refusal.Final {
		return nil
	}
	now := metav1.NewTime(d.Clock.Now())
	return d.answer(ctx, request, certificatesac.CertificateSigningRequestStatus().WithConditions(
		certificatesac.CertificateSigningRequestCondition().WithType(certificatesv1.CertificateFailed).WithStatus(corev1.ConditionTrue).
			WithReason(refusal.Reason).WithMessage(refusal.Message).WithLastUpdateTime(now).WithLastTransitionTime(now)))
}

// answer takes effect on the very request that was read.
func (d Door) answer(
	ctx context.Context, request *certificatesv1.CertificateSigningRequest, status *certificatesac.CertificateSigningRequestStatusApplyConfiguration,
) error {
	configuration := certificatesac.CertificateSigningRequest(request.Name).
		WithUID(request.UID).WithResourceVersion(request.ResourceVersion).WithStatus(status)
	if err := d.Live.Status().Apply(ctx, configuration, apply.Signer, client.ForceOwnership); err != nil {
		return fmt.Errorf("answer CertificateSigningRequest %s: %w", request.Name, err)
	}
	return nil
}

// About is the request itself.
func (Door) About(request *certificatesv1.CertificateSigningRequest) runtime.Object { return request }
