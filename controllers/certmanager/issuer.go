// Package certmanager makes a ServiceCA an issuer of cert-manager's: it answers approved CertificateRequests whose issuerRef names one
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
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/csr"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/optional"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/signing"
)

// issuerKind is the kind in the issuerRef of those who ask us.
const issuerKind = "ServiceCA"

// Door answers CertificateRequests.
type Door struct {
	Signer signing.Signer
	Live   client.Client
	Clock  clock.PassiveClock
}

// Bound is a day: cert-manager follows a request that failed by another.
func (Door) Bound() time.Duration { return 24 * time.Hour }

// Name is the controller's.
func (Door) Name() string { return "certmanager" }

// New is an empty request.
func (Door) New() *cmapi.CertificateRequest { return &cmapi.CertificateRequest{} }

// List is an empty list of requests.
func (Door) List() client.ObjectList { return &cmapi.CertificateRequestList{} }

// Slim drops what is for another issuer, and of the answer all but the certificate.
func (Door) Slim(request *cmapi.CertificateRequest) {
	request.Labels, request.Annotations, request.Status.CA = nil, nil, nil
	request.Spec.Request, request.Spec.Extra, request.Spec.Groups = csr.Slim(request.Spec.Request), nil, nil
	if !ours(request) {
		request.Spec, request.Status = cmapi.CertificateRequestSpec{}, cmapi.CertificateRequestStatus{}
		request.OwnerReferences = nil
	}
	if len(request.Status.Certificate) > 0 {
		request.Spec.Request, request.Status.Certificate = nil, signing.LeafOf(request.Status.Certificate)
	}
}

// Answer returns the certificate. Its holder is the Certificate for which cert-manager asked: the
// newest request of one is the one whose answer is in use.
func (Door) Answer(request *cmapi.CertificateRequest) signing.Answer {
	answer := signing.Answer{Renew: "CertificateRequest " + request.Namespace + "/" + request.Name}
	if !ours(request) || !isTrue(condition(request, cmapi.CertificateRequestConditionReady)) {
		return answer
	}
	answer.CA, answer.Certificate = request.Spec.IssuerRef.Name, request.Status.Certificate
	owner := certificateOf(request)
	if owner == nil {
		return answer
	}
	if command, valid := signing.Command("cmctl renew -n %s %s", request.Namespace, owner.Name); valid {
		answer.Holder, answer.Renew = owner.UID, command
	}
	return answer
}

// longestWait bounds for how long a renewal waits for the next CA.
const longestWait = 12 * time.Hour

// CanWait returns a time before the end of the certificate that a Certificate has, where cert-manager
// says that it is sound: half of what was left when it was to be renewed.
func (d Door) CanWait(ctx context.Context, request *cmapi.CertificateRequest) (time.Time, error) {
	owner := certificateOf(request)
	if owner == nil {
		return time.Time{}, nil
	}
	var certificate cmapi.Certificate
	err := d.Live.Get(ctx, client.ObjectKey{Namespace: request.Namespace, Name: owner.Name}, &certificate)
	if optional.Absent(err) || apierrors.IsForbidden(err) {
		return time.Time{}, nil
	}
	if err != nil || certificate.UID != owner.UID || certificate.Status.NotAfter == nil || !isSound(&certificate) {
		return time.Time{}, err
	}
	made := request.CreationTimestamp.Time
	return made.Add(min(longestWait, certificate.Status.NotAfter.Sub(made)/2)), nil
}

// isSound reports whether cert-manager has found the certificate to be as the Certificate wants it.
func isSound(certificate *cmapi.Certificate) bool {
	for _, condition := range certificate.Status.Conditions {
		if condition.Type == cmapi.CertificateConditionReady {
			return condition.Status == cmmeta.ConditionTrue && condition.ObservedGeneration == certificate.Generation
		}
	}
	return false
}

// certificateOf returns the Certificate for which cert-manager made a request; nil where it made it
// for another object.
func certificateOf(request *cmapi.CertificateRequest) *metav1.OwnerReference {
	owner := metav1.GetControllerOf(request)
	if owner == nil || owner.Kind != cmapi.CertificateKind || !strings.HasPrefix(owner.APIVersion, cmapi.SchemeGroupVersion.Group+"/") {
		return nil
	}
	return owner
}

func ours(request *cmapi.CertificateRequest) bool {
	return request.Spec.IssuerRef.Group == v1alpha1.GroupName && request.Spec.IssuerRef.Kind == issuerKind
}

// condition is what a request says of itself; nil where it says nothing.
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

// CA is the ServiceCA that is asked, once the request is approved or denied.
func (Door) CA(request *cmapi.CertificateRequest) string {
	ready := condition(request, cmapi.CertificateRequestConditionReady)
	answered := isTrue(ready) || request.Status.FailureTime != nil ||
		(ready != nil && (ready.Reason == cmapi.CertificateRequestReasonFailed || ready.Reason == cmapi.CertificateRequestReasonDenied))
	decided := isTrue(condition(request, cmapi.CertificateRequestConditionApproved)) || isTrue(condition(request, cmapi.CertificateRequestConditionDenied))
	if !ours(request) || answered || !decided {
		return ""
	}
	return request.Spec.IssuerRef.Name
}

// Claim is what is asked for, as far as the policies of this CA give it to Services of the namespace.
func (d Door) Claim(ctx context.Context, request *cmapi.CertificateRequest) (*signing.Claim, *signing.Refusal, error) {
	if isTrue(condition(request, cmapi.CertificateRequestConditionDenied)) {
		return nil, signing.Reject(issuance.NewObstacle(cmapi.CertificateRequestReasonDenied, "the request was denied, and is not signed")), nil
	}
	read, err := parse(request)
	if err != nil {
		return nil, signing.Invalid(err), nil
	}
	offers, err := d.Signer.Offers(ctx, request.Spec.IssuerRef.Name, request.Namespace, func(*corev1.Service) bool { return true })
	if err != nil {
		return nil, nil, err
	}
	terms, obstacle := offers.Grant(read.DNSNames, read.Usages)
	if obstacle != nil {
		refusal, err := d.Signer.NotGranted(
			ctx, obstacle, request.Spec.IssuerRef.Name, request.CreationTimestamp.Time, request.Namespace, read.DNSNames)
		return nil, refusal, err
	}
	claim := &signing.Claim{PublicKey: read.PublicKey, Key: read.Key, Terms: terms, Skew: pki.ClockSkew}
	if request.Spec.Duration != nil {
		claim.Duration = request.Spec.Duration.Duration
	}
	return claim, nil, nil
}

func parse(request *cmapi.CertificateRequest) (*csr.Request, error) {
	if request.Spec.IsCA {
		return nil, fmt.Errorf("spec.isCA: only serving certificates are signed")
	}
	read, err := csr.Parse(request.Spec.Request)
	if err != nil {
		return nil, fmt.Errorf("spec.request: %w", err)
	}
	for _, usage := range request.Spec.Usages {
		if err := read.AddUsage(string(usage)); err != nil {
			return nil, fmt.Errorf("spec.usages: %w", err)
		}
	}
	return read, nil
}

// Issue answers by a certificate.
func (d Door) Issue(ctx context.Context, request *cmapi.CertificateRequest, certificate *signing.Certificate) error {
	return d.answer(ctx, request, cmapi.CertificateRequestStatus{
		Certificate: certificate.Chain, CA: certificate.Bundle,
		Conditions: d.ready(request, cmmeta.ConditionTrue, cmapi.CertificateRequestReasonIssued, "signed by "+certificate.SignedBy),
	})
}

// Refuse answers by a failure or, where it may pass, says what is waited for.
func (d Door) Refuse(ctx context.Context, request *cmapi.CertificateRequest, refusal *signing.Refusal) error {
	if !refusal.Final {
		if ready := condition(request, cmapi.CertificateRequestConditionReady); ready != nil && ready.Message == refusal.String() {
			return nil
		}
		return d.answer(ctx, request, cmapi.CertificateRequestStatus{
			Conditions: d.ready(request, cmmeta.ConditionFalse, cmapi.CertificateRequestReasonPending, refusal.String()),
		})
	}
	reason := cmapi.CertificateRequestReasonFailed
	if refusal.Reason == cmapi.CertificateRequestReasonDenied {
		reason = refusal.Reason
	}
	failed := metav1.NewTime(d.Clock.Now())
	return d.answer(ctx, request, cmapi.CertificateRequestStatus{
		FailureTime: &failed, Conditions: d.ready(request, cmmeta.ConditionFalse, reason, refusal.String()),
	})
}

// ready is the one condition that an issuer sets.
func (d Door) ready(request *cmapi.CertificateRequest, status cmmeta.ConditionStatus, reason, message string) []cmapi.CertificateRequestCondition {
	since := metav1.NewTime(d.Clock.Now())
	if before := condition(request, cmapi.CertificateRequestConditionReady); before != nil && before.Status == status && before.LastTransitionTime != nil {
		since = *before.LastTransitionTime
	}
	return []cmapi.CertificateRequestCondition{{
		Type: cmapi.CertificateRequestConditionReady, Status: status, Reason: reason, Message: message, LastTransitionTime: &since,
	}}
}

// answer takes effect on the very request that was read.
func (d Door) answer(ctx context.Context, request *cmapi.CertificateRequest, status cmapi.CertificateRequestStatus) error {
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
	err = d.Live.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(configuration), apply.Signer, client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("answer CertificateRequest %s/%s: %w", request.Namespace, request.Name, err)
	}
	return nil
}

// About is the request itself.
func (Door) About(request *cmapi.CertificateRequest) runtime.Object { return request }
