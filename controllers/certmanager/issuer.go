// Package certmanager makes a ServiceCA an external issuer for cert-manager: it answers approved
// CertificateRequests whose issuerRef names a ServiceCA
// (https://cert-manager.io/docs/contributing/external-issuers/).
package certmanager

import (
	"context"
	"fmt"
	"strings"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/certrequest"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/availability"
	"github.com/servingcert/operator/controllers/internal/csr"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// issuerKind is the kind in the issuerRef of requests to a ServiceCA.
const issuerKind = "ServiceCA"

// RequestKind answers CertificateRequests.
type RequestKind struct {
	Signer certrequest.Signer
	Live   client.Client
	Clock  clock.PassiveClock
}

// MaxWait returns one day: cert-manager replaces a failed request by another.
func (RequestKind) MaxWait() time.Duration { return 24 * time.Hour }

// Name returns the controller's name.
func (RequestKind) Name() string { return "certmanager" }

// New returns an empty request.
func (RequestKind) New() *cmapi.CertificateRequest { return &cmapi.CertificateRequest{} }

// List returns an empty list of requests.
func (RequestKind) List() client.ObjectList { return &cmapi.CertificateRequestList{} }

// StripForCache removes the content of requests to other issuers, and everything but the
// certificate from an answer.
func (RequestKind) StripForCache(request *cmapi.CertificateRequest) {
	request.Labels, request.Annotations, request.Status.CA = nil, nil, nil
	request.Spec.Request, request.Spec.Extra, request.Spec.Groups = csr.Truncate(request.Spec.Request), nil, nil
	if !isForServiceCA(request) {
		request.Spec, request.Status = cmapi.CertificateRequestSpec{}, cmapi.CertificateRequestStatus{}
		request.OwnerReferences = nil
	}
	if len(request.Status.Certificate) > 0 {
		request.Spec.Request, request.Status.Certificate = nil, certrequest.FirstCertificate(request.Status.Certificate)
	}
}

// Response returns the certificate. Its holder is the Certificate for which cert-manager made the
// request: the answer to the newest request of a Certificate is the one in use.
func (RequestKind) Response(request *cmapi.CertificateRequest) certrequest.Response {
	answer := certrequest.Response{RenewCommand: "CertificateRequest " + request.Namespace + "/" + request.Name}
	if !isForServiceCA(request) || !isTrue(condition(request, cmapi.CertificateRequestConditionReady)) {
		return answer
	}
	answer.CA, answer.Certificate = request.Spec.IssuerRef.Name, request.Status.Certificate
	owner := certificateOf(request)
	if owner == nil {
		return answer
	}
	if command, valid := certrequest.Command("cmctl renew -n %s %s", request.Namespace, owner.Name); valid {
		answer.Holder, answer.RenewCommand = owner.UID, command
	}
	return answer
}

// maxRenewalWait limits how long a renewal waits for the next CA.
const maxRenewalWait = 12 * time.Hour

// DeferUntil returns a time before notAfter of the current certificate of a Certificate, if
// cert-manager reports that the certificate is up to date: half of the lifetime that was left when
// the request was made, at most maxRenewalWait. Otherwise it returns zero.
func (k RequestKind) DeferUntil(ctx context.Context, request *cmapi.CertificateRequest) (time.Time, error) {
	owner := certificateOf(request)
	if owner == nil {
		return time.Time{}, nil
	}
	var certificate cmapi.Certificate
	err := k.Live.Get(ctx, client.ObjectKey{Namespace: request.Namespace, Name: owner.Name}, &certificate)
	if availability.IsNotServed(err) || apierrors.IsForbidden(err) {
		return time.Time{}, nil
	}
	if err != nil || certificate.UID != owner.UID || certificate.Status.NotAfter == nil || !isCurrent(&certificate) {
		return time.Time{}, err
	}
	created := request.CreationTimestamp.Time
	return created.Add(min(maxRenewalWait, certificate.Status.NotAfter.Sub(created)/2)), nil
}

// isCurrent reports whether, according to cert-manager, the certificate matches the spec of the
// Certificate.
func isCurrent(certificate *cmapi.Certificate) bool {
	for _, condition := range certificate.Status.Conditions {
		if condition.Type == cmapi.CertificateConditionReady {
			return condition.Status == cmmeta.ConditionTrue && condition.ObservedGeneration == certificate.Generation
		}
	}
	return false
}

// certificateOf returns the Certificate for which cert-manager made the request; nil if it was made
// for another object.
func certificateOf(request *cmapi.CertificateRequest) *metav1.OwnerReference {
	owner := metav1.GetControllerOf(request)
	if owner == nil || owner.Kind != cmapi.CertificateKind || !strings.HasPrefix(owner.APIVersion, cmapi.SchemeGroupVersion.Group+"/") {
		return nil
	}
	return owner
}

func isForServiceCA(request *cmapi.CertificateRequest) bool {
	return request.Spec.IssuerRef.Group == v1alpha1.GroupName && request.Spec.IssuerRef.Kind == issuerKind
}

// condition returns the condition of the request with this type; nil if there is none.
func condition(request *cmapi.CertificateRequest, kind cmapi.CertificateRequestConditionType) *cmapi.CertificateRequestCondition {
	for i := range request.Status.Conditions {
		if request.Status.Conditions[i].Type == kind {
			return &request.Status.Conditions[i]
		}
	}
	return nil
}

func isTrue(c *cmapi.CertificateRequestCondition) bool {
	return c != nil && c.Status == cmmeta.ConditionTrue
}

// ServiceCAName returns the ServiceCA of a request that is approved or denied; empty before that,
// once it is answered, and for other issuers.
func (RequestKind) ServiceCAName(request *cmapi.CertificateRequest) string {
	ready := condition(request, cmapi.CertificateRequestConditionReady)
	answered := isTrue(ready) || request.Status.FailureTime != nil ||
		(ready != nil && (ready.Reason == cmapi.CertificateRequestReasonFailed || ready.Reason == cmapi.CertificateRequestReasonDenied))
	decided := isTrue(condition(request, cmapi.CertificateRequestConditionApproved)) || isTrue(condition(request, cmapi.CertificateRequestConditionDenied))
	if !isForServiceCA(request) || answered || !decided {
		return ""
	}
	return request.Spec.IssuerRef.Name
}

// Evaluate grants what the request asks for if the CA's policies offer it to Services of the
// request's namespace.
func (k RequestKind) Evaluate(ctx context.Context, request *cmapi.CertificateRequest) (*certrequest.Grant, *certrequest.Refusal, error) {
	if isTrue(condition(request, cmapi.CertificateRequestConditionDenied)) {
		return nil, certrequest.Reject(issuance.NewProblem(cmapi.CertificateRequestReasonDenied, "the request was denied, and is not signed")), nil
	}
	parsed, err := parse(request)
	if err != nil {
		return nil, certrequest.Invalid(err), nil
	}
	offers, err := k.Signer.Offers(ctx, request.Spec.IssuerRef.Name, request.Namespace, func(*corev1.Service) bool { return true })
	if err != nil {
		return nil, nil, err
	}
	terms, problem := offers.Grant(parsed.DNSNames, parsed.Usages)
	if problem != nil {
		refusal, err := k.Signer.NotGranted(
			ctx, problem, request.Spec.IssuerRef.Name, request.CreationTimestamp.Time, request.Namespace, parsed.DNSNames)
		return nil, refusal, err
	}
	grant := &certrequest.Grant{PublicKey: parsed.PublicKey, Key: parsed.Key, Terms: terms, Backdate: pki.ClockSkew}
	if request.Spec.Duration != nil {
		grant.Duration = request.Spec.Duration.Duration
	}
	return grant, nil, nil
}

func parse(request *cmapi.CertificateRequest) (*csr.Request, error) {
	if request.Spec.IsCA {
		return nil, fmt.Errorf("spec.isCA: only serving certificates are signed")
	}
	parsed, err := csr.Parse(request.Spec.Request)
	if err != nil {
		return nil, fmt.Errorf("spec.request: %w", err)
	}
	for _, usage := range request.Spec.Usages {
		if err := parsed.AddUsage(string(usage)); err != nil {
			return nil, fmt.Errorf("spec.usages: %w", err)
		}
	}
	return parsed, nil
}

// Issue writes the certificate to the request's status.
func (k RequestKind) Issue(ctx context.Context, request *cmapi.CertificateRequest, certificate *certrequest.Certificate) error {
	return k.answer(ctx, request, cmapi.CertificateRequestStatus{
		Certificate: certificate.Chain, CA: certificate.Bundle,
		Conditions: k.ready(request, cmmeta.ConditionTrue, cmapi.CertificateRequestReasonIssued, "signed by "+certificate.SignedBy),
	})
}

// Refuse fails the request if the refusal is final. Otherwise it reports what the request waits
// for.
func (k RequestKind) Refuse(ctx context.Context, request *cmapi.CertificateRequest, refusal *certrequest.Refusal) error {
	if !refusal.Final {
		if ready := condition(request, cmapi.CertificateRequestConditionReady); ready != nil && ready.Message == refusal.String() {
			return nil
		}
		return k.answer(ctx, request, cmapi.CertificateRequestStatus{
			Conditions: k.ready(request, cmmeta.ConditionFalse, cmapi.CertificateRequestReasonPending, refusal.String()),
		})
	}
	reason := cmapi.CertificateRequestReasonFailed
	if refusal.Reason == cmapi.CertificateRequestReasonDenied {
		reason = refusal.Reason
	}
	failed := metav1.NewTime(k.Clock.Now())
	return k.answer(ctx, request, cmapi.CertificateRequestStatus{
		FailureTime: &failed, Conditions: k.ready(request, cmmeta.ConditionFalse, reason, refusal.String()),
	})
}

// ready returns the condition Ready, the only one that an issuer sets.
func (k RequestKind) ready(request *cmapi.CertificateRequest, status cmmeta.ConditionStatus, reason, message string) []cmapi.CertificateRequestCondition {
	since := metav1.NewTime(k.Clock.Now())
	if previous := condition(request, cmapi.CertificateRequestConditionReady); previous != nil && previous.Status == status && previous.LastTransitionTime != nil {
		since = *previous.LastTransitionTime
	}
	return []cmapi.CertificateRequestCondition{{
		Type: cmapi.CertificateRequestConditionReady, Status: status, Reason: reason, Message: message, LastTransitionTime: &since,
	}}
}

// answer writes the status of exactly the version of the request that was read.
func (k RequestKind) answer(ctx context.Context, request *cmapi.CertificateRequest, status cmapi.CertificateRequestStatus) error {
	encoded, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&status)
	if err != nil {
		return err
	}
	configuration := &unstructured.Unstructured{Object: map[string]any{"status": encoded}}
	configuration.SetGroupVersionKind(cmapi.SchemeGroupVersion.WithKind(cmapi.CertificateRequestKind))
	configuration.SetNamespace(request.Namespace)
	configuration.SetName(request.Name)
	configuration.SetUID(request.UID)
	configuration.SetResourceVersion(request.ResourceVersion)
	err = k.Live.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(configuration), apply.Signer, client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("answer CertificateRequest %s/%s: %w", request.Namespace, request.Name, err)
	}
	return nil
}

// EventObject returns the request itself.
func (RequestKind) EventObject(request *cmapi.CertificateRequest) runtime.Object { return request }
