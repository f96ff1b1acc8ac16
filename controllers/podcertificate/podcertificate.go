// Package podcertificate answers PodCertificateRequests (KEP-4317) for the signers servingcert.dev/<serviceca>: a pod gets a certificate for the
// Services that select it, with a private key that its kubelet makes and refreshes, and no Secret anywhere.
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
	// MaxLifetime is the longest of a pod certificate, whatever the pod allows: so nobody has to wait longer for the last that a compromised CA
	// signed. Kubernetes' own signers keep to the same.
	MaxLifetime = 24 * time.Hour
	// minLifetime is the shortest that the API server accepts.
	minLifetime = time.Hour
	// skew is how far before its making a certificate begins; the API server allows five minutes.
	skew = 2 * time.Minute
	// refreshWait is for how long a refresh waits for the next CA.
	refreshWait = 12 * time.Minute
	// refreshFraction and jitterFraction are the parts of its lifetime after which the kubelet begins to refresh a certificate, and by which that is earlier.
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

// MaxWait is none: Kubernetes removes a request after 15 to 20 minutes, and the kubelet makes another.
func (RequestKind) MaxWait() time.Duration { return 0 }

// DeferUntil returns a time before the request is removed where the pod's containers have started: then
// they have a certificate, of which the kubelet renews the last third, twenty minutes at least.
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

// Name is the controller's.
func (RequestKind) Name() string { return "podcertificate" }

// New is an empty request.
func (RequestKind) New() *certificatesv1.PodCertificateRequest {
	return &certificatesv1.PodCertificateRequest{}
}

// List is an empty list of requests.
func (RequestKind) List() client.ObjectList { return &certificatesv1.PodCertificateRequestList{} }

// StripForCache drops what is for another signer, and of the answer all but the certificate.
func (RequestKind) StripForCache(request *certificatesv1.PodCertificateRequest) {
	request.Labels, request.Annotations = nil, nil
	request.Status.CertificateChain = string(certrequest.FirstCertificate([]byte(request.Status.CertificateChain)))
	if certrequest.ServiceCAOfSigner(request.Spec.SignerName) == "" {
		request.Spec, request.Status.CertificateChain = certificatesv1.PodCertificateRequestSpec{}, ""
	}
}

// Response returns the certificate: another pod gets another.
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

// ServiceCAName is the ServiceCA that is asked.
func (RequestKind) ServiceCAName(request *certificatesv1.PodCertificateRequest) string {
	if len(request.Status.Conditions) > 0 {
		// Issued, Denied or Failed: there are no others, and none is taken back.
		return ""
	}
	return certrequest.ServiceCAOfSigner(request.Spec.SignerName)
}

// Evaluate is a certificate for every Service that selects the pod and that a policy of this CA rules. A denial at a refresh would take the volume
// from a pod that runs: only what no other request of this pod could change is final.
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
	// A policy of shorter certificates than a pod may have must not take the others' away.
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

// pod is the very pod that a request is for; nil where there is none.
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

// Issue answers by a certificate.
func (k RequestKind) Issue(ctx context.Context, request *certificatesv1.PodCertificateRequest, certificate *certrequest.Certificate) error {
	return k.answer(ctx, request, certificatesac.PodCertificateRequestStatus().
		WithCertificateChain(string(certificate.Chain)).
		WithNotBefore(metav1.NewTime(certificate.NotBefore)).
		WithNotAfter(metav1.NewTime(certificate.NotAfter)).
		WithBeginRefreshAt(metav1.NewTime(refreshAt(request, certificate))).
		WithConditions(k.condition(certificatesv1.PodCertificateRequestConditionTypeIssued, "Issued", "signed by "+certificate.SignedBy)))
}

// refreshAt spreads the refreshes of the pods of a node, and of those that came at once.
func refreshAt(request *certificatesv1.PodCertificateRequest, certificate *certrequest.Certificate) time.Time {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(request.UID))
	share := refreshFraction - jitterFraction*float64(hash.Sum32())/(1<<32)
	lifetime := certificate.NotAfter.Sub(certificate.NotBefore)
	return certificate.NotBefore.Add(time.Duration(share * float64(lifetime))).Truncate(time.Second)
}

// Refuse denies what is final. Of anything else the API has no place to tell, and an Event does.
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

// answer takes effect on the very request that was read.
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

// EventObject is the pod, where people look.
func (RequestKind) EventObject(request *certificatesv1.PodCertificateRequest) runtime.Object {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: request.Namespace, Name: request.Spec.PodName, UID: request.Spec.PodUID}}
}
