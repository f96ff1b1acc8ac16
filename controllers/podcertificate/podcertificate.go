// Package podcertificate answers PodCertificateRequests (KEP-4317) for the signers
// servingcert.dev/<serviceca>. A pod gets a certificate for the Services that select it. The
// kubelet generates the private key and refreshes the certificate, and no Secret exists.
package podcertificate

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	certificatesac "k8s.io/client-go/applyconfigurations/certificates/v1"
	metaac "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/controllers/certrequest"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/csr"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

const (
	// MaxLifetime is the longest lifetime of a pod certificate, even if the pod allows more. It
	// limits how long the last certificate of a compromised CA remains valid. Kubernetes' own
	// signers have the same limit.
	MaxLifetime = 24 * time.Hour
	// minLifetime is the shortest lifetime that the API server accepts.
	minLifetime = time.Hour
	// skew is how far notBefore is before the time of signing; the API server allows five minutes.
	skew = 2 * time.Minute
	// refreshWait is how long a refresh waits for the next CA.
	refreshWait = 12 * time.Minute
	// refreshFraction is the fraction of the lifetime after which the kubelet starts to refresh a
	// certificate. jitterFraction is the largest fraction by which this is earlier.
	refreshFraction, jitterFraction = 2.0 / 3, 0.1
)

const (
	reasonNoService    = "NoService"
	reasonTooManyNames = "TooManyNames"
	reasonPodGone      = "PodGone"
)

// RequestKind answers PodCertificateRequests.
type RequestKind struct {
	Signer certrequest.Signer
	Live   client.Client
	Clock  clock.PassiveClock
}

// MaxWait returns zero: Kubernetes removes a request after 15 to 20 minutes, and the kubelet makes
// another.
func (RequestKind) MaxWait() time.Duration { return 0 }

// DeferUntil returns a time before Kubernetes removes the request, if the pod's containers have
// started. They then have a certificate, which the kubelet refreshes when a third of its lifetime
// is left, at least twenty minutes.
func (k RequestKind) DeferUntil(ctx context.Context, request *certificatesv1.PodCertificateRequest) (time.Time, error) {
	pod, err := k.pod(ctx, request)
	if err != nil || pod == nil || !slices.ContainsFunc(pod.Status.ContainerStatuses, hasStarted) {
		return time.Time{}, err
	}
	return request.CreationTimestamp.Add(refreshWait), nil
}

func hasStarted(container corev1.ContainerStatus) bool {
	return container.State.Running != nil || container.State.Terminated != nil || container.LastTerminationState.Terminated != nil
}

// Name returns the controller's name.
func (RequestKind) Name() string { return "podcertificate" }

// New returns an empty request.
func (RequestKind) New() *certificatesv1.PodCertificateRequest {
	return &certificatesv1.PodCertificateRequest{}
}

// List returns an empty list of requests.
func (RequestKind) List() client.ObjectList { return &certificatesv1.PodCertificateRequestList{} }

// StripForCache removes the content of requests to other signers, and everything but the
// certificate from an answer.
func (RequestKind) StripForCache(request *certificatesv1.PodCertificateRequest) {
	request.Labels, request.Annotations = nil, nil
	request.Status.CertificateChain = string(certrequest.FirstCertificate([]byte(request.Status.CertificateChain)))
	if certrequest.ServiceCAOfSigner(request.Spec.SignerName) == "" {
		request.Spec, request.Status.CertificateChain = certificatesv1.PodCertificateRequestSpec{}, ""
	}
}

// Response returns the certificate. It has no holder, because each pod has its own certificate;
// deleting the pod replaces it.
func (RequestKind) Response(request *certificatesv1.PodCertificateRequest) certrequest.Response {
	answer := certrequest.Response{
		CA: certrequest.ServiceCAOfSigner(request.Spec.SignerName), Certificate: []byte(request.Status.CertificateChain),
		RenewCommand: "PodCertificateRequest " + request.Namespace + "/" + request.Name,
	}
	if command, valid := certrequest.Command("kubectl delete pod -n %s %s", request.Namespace, request.Spec.PodName); valid {
		answer.RenewCommand = command
	}
	return answer
}

// ServiceCAName returns the ServiceCA of an unanswered request; empty for other signers.
func (RequestKind) ServiceCAName(request *certificatesv1.PodCertificateRequest) string {
	if len(request.Status.Conditions) > 0 {
		// The condition is Issued, Denied or Failed: no others exist, and none is reverted.
		return ""
	}
	return certrequest.ServiceCAOfSigner(request.Spec.SignerName)
}

// Evaluate grants a certificate for every Service that selects the pod and that a policy of this CA
// rules. A refusal is final only if no other request of this pod could be granted: denying a
// refresh would take the volume away from a running pod.
func (k RequestKind) Evaluate(ctx context.Context, request *certificatesv1.PodCertificateRequest) (*certrequest.Grant, *certrequest.Refusal, error) {
	parsed, err := csr.ParseKey(request.Spec.StubPKCS10Request)
	if err != nil {
		return nil, certrequest.Reject(issuance.NewProblem(certificatesv1.PodCertificateRequestConditionUnsupportedKeyType, "%v", err)), nil
	}
	for key := range request.Spec.UnverifiedUserAnnotations {
		return nil, certrequest.Reject(issuance.NewProblem(certificatesv1.PodCertificateRequestConditionInvalidUserConfig,
			"userAnnotations: there is no option %.64q, nor any other: leave them out", key)), nil
	}
	pod, err := k.pod(ctx, request)
	switch {
	case err != nil:
		return nil, nil, err
	case pod == nil:
		return nil, certrequest.Reject(issuance.NewProblem(reasonPodGone, "there is no pod %s as the request says", request.Spec.PodName)), nil
	}
	ca := certrequest.ServiceCAOfSigner(request.Spec.SignerName)
	offers, err := k.Signer.Offers(ctx, ca, pod.Namespace, func(service *corev1.Service) bool {
		return len(service.Spec.Selector) > 0 && labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pod.Labels))
	})
	if err != nil {
		return nil, nil, err
	}
	// A policy with lifetimes that are too short for a pod certificate must not prevent the
	// certificate for the other Services.
	offers = slices.DeleteFunc(offers, func(offer issuance.Terms) bool { return offer.Duration < minLifetime })
	terms, ok := offers.Combine()
	if !ok {
		if missing, err := k.Signer.MissingPrerequisite(ctx, ca); missing != nil || err != nil {
			return nil, missing, err
		}
		return nil, &certrequest.Refusal{Problem: issuance.NewProblem(reasonNoService,
			"no Service that a ServingCertPolicy of ServiceCA %s rules selects pod %s: the certificate comes when one does", ca, pod.Name)}, nil
	}
	if names := len(terms.DNSNames); names > csr.MaxNames {
		return nil, &certrequest.Refusal{Problem: issuance.NewProblem(reasonTooManyNames,
			"the Services that select pod %s have %d names, and a certificate has %d at most: let fewer Services select it", pod.Name, names, csr.MaxNames)}, nil
	}
	return &certrequest.Grant{
		PublicKey: parsed.PublicKey, Key: parsed.Key, Terms: terms, Duration: maxLifetime(request), MinDuration: minLifetime, Backdate: skew,
	}, nil, nil
}

func maxLifetime(request *certificatesv1.PodCertificateRequest) time.Duration {
	if seconds := request.Spec.MaxExpirationSeconds; seconds != nil {
		return min(MaxLifetime, time.Duration(*seconds)*time.Second)
	}
	return MaxLifetime
}

// pod returns exactly the pod that the request is for; nil if it does not exist.
func (k RequestKind) pod(ctx context.Context, request *certificatesv1.PodCertificateRequest) (*corev1.Pod, error) {
	var pods corev1.PodList
	err := k.Live.List(ctx, &pods, client.InNamespace(request.Namespace), client.MatchingFields{metav1.ObjectNameField: request.Spec.PodName})
	index := slices.IndexFunc(pods.Items, func(pod corev1.Pod) bool {
		return pod.UID == request.Spec.PodUID && pod.Spec.ServiceAccountName == request.Spec.ServiceAccountName &&
			pod.Spec.NodeName == string(request.Spec.NodeName) && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
	})
	if err != nil || index < 0 {
		return nil, err
	}
	return &pods.Items[index], nil
}

// Issue writes the certificate to the request's status.
func (k RequestKind) Issue(ctx context.Context, request *certificatesv1.PodCertificateRequest, certificate *certrequest.Certificate) error {
	return k.answer(ctx, request, certificatesac.PodCertificateRequestStatus().
		WithCertificateChain(string(certificate.Chain)).
		WithNotBefore(metav1.NewTime(certificate.NotBefore)).
		WithNotAfter(metav1.NewTime(certificate.NotAfter)).
		WithBeginRefreshAt(metav1.NewTime(refreshAt(request, certificate))).
		WithConditions(k.condition(certificatesv1.PodCertificateRequestConditionTypeIssued, "Issued", "signed by "+certificate.SignedBy)))
}

// refreshAt returns when the kubelet starts to refresh the certificate. The time is spread over the
// pods of a node, and over requests that were made at the same time.
func refreshAt(request *certificatesv1.PodCertificateRequest, certificate *certrequest.Certificate) time.Time {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(request.UID))
	share := refreshFraction - jitterFraction*float64(hash.Sum32())/(1<<32)
	lifetime := certificate.NotAfter.Sub(certificate.NotBefore)
	return certificate.NotBefore.Add(time.Duration(share * float64(lifetime))).Truncate(time.Second)
}

// Refuse denies the request if the refusal is final. The API has no field for other refusals; an
// Event reports them.
func (k RequestKind) Refuse(ctx context.Context, request *certificatesv1.PodCertificateRequest, refusal *certrequest.Refusal) error {
	if !refusal.Final {
		return nil
	}
	return k.answer(ctx, request, certificatesac.PodCertificateRequestStatus().
		WithConditions(k.condition(certificatesv1.PodCertificateRequestConditionTypeDenied, refusal.Reason, refusal.Message)))
}

func (k RequestKind) condition(kind, reason, message string) *metaac.ConditionApplyConfiguration {
	return metaac.Condition().WithType(kind).WithStatus(metav1.ConditionTrue).WithReason(reason).WithMessage(message).
		WithLastTransitionTime(metav1.NewTime(k.Clock.Now()))
}

// answer writes the status of exactly the version of the request that was read.
func (k RequestKind) answer(
	ctx context.Context, request *certificatesv1.PodCertificateRequest, status *certificatesac.PodCertificateRequestStatusApplyConfiguration,
) error {
	configuration := certificatesac.PodCertificateRequest(request.Name, request.Namespace).
		WithUID(request.UID).WithResourceVersion(request.ResourceVersion).WithStatus(status)
	if err := k.Live.Status().Apply(ctx, configuration, apply.Signer, client.ForceOwnership); err != nil {
		return fmt.Errorf("answer PodCertificateRequest %s/%s: %w", request.Namespace, request.Name, err)
	}
	return nil
}

// EventObject returns the pod, where users look for Events.
func (RequestKind) EventObject(request *certificatesv1.PodCertificateRequest) runtime.Object {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: request.Namespace, Name: request.Spec.PodName, UID: request.Spec.PodUID}}
}
