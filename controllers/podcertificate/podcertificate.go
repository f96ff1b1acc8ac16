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

	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/csr"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/signing"
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
	// refreshShare and jitterShare are the parts of its lifetime after which the kubelet begins to refresh a certificate, and by which that is earlier.
	refreshShare, jitterShare = 2.0 / 3, 0.1
)

const (
	reasonNoService    = "NoService"
	reasonTooManyNames = "TooManyNames"
	reasonPodGone      = "PodGone"
)

// Door answers PodCertificateRequests.
type Door struct {
	Signer signing.Signer
	Live   client.Client
	Clock  clock.PassiveClock
}

// Bound is none: Kubernetes removes a request after 15 to 20 minutes, and the kubelet makes another.
func (Door) Bound() time.Duration { return 0 }

// CanWait returns a time before the request is removed where the pod's containers have started: then
// they have a certificate, of which the kubelet renews the last third, twenty minutes at least.
func (d Door) CanWait(ctx context.Context, request *certificatesv1.PodCertificateRequest) (time.Time, error) {
	pod, err := d.pod(ctx, request)
	if err != nil || pod == nil || !slices.ContainsFunc(pod.Status.ContainerStatuses, started) {
		return time.Time{}, err
	}
	return request.CreationTimestamp.Add(refreshWait), nil
}

func started(container corev1.ContainerStatus) bool {
	return container.State.Running != nil || container.State.Terminated != nil || container.LastTerminationState.Terminated != nil
}

// Name is the controller's.
func (Door) Name() string { return "podcertificate" }

// New is an empty request.
func (Door) New() *certificatesv1.PodCertificateRequest {
	return &certificatesv1.PodCertificateRequest{}
}

// List is an empty list of requests.
func (Door) List() client.ObjectList { return &certificatesv1.PodCertificateRequestList{} }

// Slim drops what is for another signer, and of the answer all but the certificate.
func (Door) Slim(request *certificatesv1.PodCertificateRequest) {
	request.Labels, request.Annotations = nil, nil
	request.Status.CertificateChain = string(signing.LeafOf([]byte(request.Status.CertificateChain)))
	if signing.OfCA(request.Spec.SignerName) == "" {
		request.Spec, request.Status.CertificateChain = certificatesv1.PodCertificateRequestSpec{}, ""
	}
}

// Answer returns the certificate: another pod gets another.
func (Door) Answer(request *certificatesv1.PodCertificateRequest) signing.Answer {
	answer := signing.Answer{
		CA: signing.OfCA(request.Spec.SignerName), Certificate: []byte(request.Status.CertificateChain),
		Renew: "PodCertificateRequest " + request.Namespace + "/" + request.Name,
	}
	if command, valid := signing.Command("kubectl delete pod -n %s %s", request.Namespace, request.Spec.PodName); valid {
		answer.Renew = command
	}
	return answer
}

// CA is the ServiceCA that is asked.
func (Door) CA(request *certificatesv1.PodCertificateRequest) string {
	if len(request.Status.Conditions) > 0 {
		// Issued, Denied or Failed: there are no others, and none is taken back.
		return ""
	}
	return signing.OfCA(request.Spec.SignerName)
}

// Claim is a certificate for every Service that selects the pod and that a policy of this CA rules. A denial at a refresh would take the volume
// from a pod that runs: only what no other request of this pod could change is final.
func (d Door) Claim(ctx context.Context, request *certificatesv1.PodCertificateRequest) (*signing.Claim, *signing.Refusal, error) {
	read, err := csr.ParseKey(request.Spec.StubPKCS10Request)
	if err != nil {
		return nil, signing.Reject(issuance.NewObstacle(certificatesv1.PodCertificateRequestConditionUnsupportedKeyType, "%v", err)), nil
	}
	for key := range request.Spec.UnverifiedUserAnnotations {
		return nil, signing.Reject(issuance.NewObstacle(certificatesv1.PodCertificateRequestConditionInvalidUserConfig,
			"userAnnotations: there is no option %.64q, nor any other: leave them out", key)), nil
	}
	pod, err := d.pod(ctx, request)
	switch {
	case err != nil:
		return nil, nil, err
	case pod == nil:
		return nil, signing.Reject(issuance.NewObstacle(reasonPodGone, "there is no pod %s as the request says", request.Spec.PodName)), nil
	}
	ca := signing.OfCA(request.Spec.SignerName)
	offers, err := d.Signer.Offers(ctx, ca, pod.Namespace, func(service *corev1.Service) bool {
		return len(service.Spec.Selector) > 0 && labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pod.Labels))
	})
	if err != nil {
		return nil, nil, err
	}
	// A policy of shorter certificates than a pod may have must not take the others' away.
	offers = slices.DeleteFunc(offers, func(offer issuance.Terms) bool { return offer.Duration < minLifetime })
	terms, some := offers.All()
	if !some {
		if missing, err := d.Signer.Missing(ctx, ca); missing != nil || err != nil {
			return nil, missing, err
		}
		return nil, &signing.Refusal{Obstacle: issuance.NewObstacle(reasonNoService,
			"no Service that a ServingCertPolicy of ServiceCA %s rules selects pod %s: the certificate comes when one does", ca, pod.Name)}, nil
	}
	if names := len(terms.DNSNames); names > csr.MaxNames {
		return nil, &signing.Refusal{Obstacle: issuance.NewObstacle(reasonTooManyNames,
			"the Services that select pod %s have %d names, and a certificate has %d at most: let fewer Services select it", pod.Name, names, csr.MaxNames)}, nil
	}
	return &signing.Claim{
		PublicKey: read.PublicKey, Key: read.Key, Terms: terms, Duration: longest(request), Least: minLifetime, Skew: skew,
	}, nil, nil
}

func longest(request *certificatesv1.PodCertificateRequest) time.Duration {
	if seconds := request.Spec.MaxExpirationSeconds; seconds != nil {
		return min(MaxLifetime, time.Duration(*seconds)*time.Second)
	}
	return MaxLifetime
}

// pod is the very pod that a request is for; nil where there is none.
func (d Door) pod(ctx context.Context, request *certificatesv1.PodCertificateRequest) (*corev1.Pod, error) {
	var pods corev1.PodList
	err := d.Live.List(ctx, &pods, client.InNamespace(request.Namespace), client.MatchingFields{metav1.ObjectNameField: request.Spec.PodName})
	at := slices.IndexFunc(pods.Items, func(pod corev1.Pod) bool {
		return pod.UID == request.Spec.PodUID && pod.Spec.ServiceAccountName == request.Spec.ServiceAccountName &&
			pod.Spec.NodeName == string(request.Spec.NodeName) && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
	})
	if err != nil || at < 0 {
		return nil, err
	}
	return &pods.Items[at], nil
}

// Issue answers by a certificate.
func (d Door) Issue(ctx context.Context, request *certificatesv1.PodCertificateRequest, certificate *signing.Certificate) error {
	return d.answer(ctx, request, certificatesac.PodCertificateRequestStatus().
		WithCertificateChain(string(certificate.Chain)).
		WithNotBefore(metav1.NewTime(certificate.NotBefore)).
		WithNotAfter(metav1.NewTime(certificate.NotAfter)).
		WithBeginRefreshAt(metav1.NewTime(refreshAt(request, certificate))).
		WithConditions(d.condition(certificatesv1.PodCertificateRequestConditionTypeIssued, "Issued", "signed by "+certificate.SignedBy)))
}

// refreshAt spreads the refreshes of the pods of a node, and of those that came at once.
func refreshAt(request *certificatesv1.PodCertificateRequest, certificate *signing.Certificate) time.Time {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(request.UID))
	share := refreshShare - jitterShare*float64(hash.Sum32())/(1<<32)
	lifetime := certificate.NotAfter.Sub(certificate.NotBefore)
	return certificate.NotBefore.Add(time.Duration(share * float64(lifetime))).Truncate(time.Second)
}

// Refuse denies what is final. Of anything else the API has no place to tell, and an Event does.
func (d Door) Refuse(ctx context.Context, request *certificatesv1.PodCertificateRequest, refusal *signing.Refusal) error {
	if !refusal.Final {
		return nil
	}
	return d.answer(ctx, request, certificatesac.PodCertificateRequestStatus().
		WithConditions(d.condition(certificatesv1.PodCertificateRequestConditionTypeDenied, refusal.Reason, refusal.Message)))
}

func (d Door) condition(kind, reason, message string) *metaac.ConditionApplyConfiguration {
	return metaac.Condition().WithType(kind).WithStatus(metav1.ConditionTrue).WithReason(reason).WithMessage(message).
		WithLastTransitionTime(metav1.NewTime(d.Clock.Now()))
}

// answer takes effect on the very request that was read.
func (d Door) answer(
	ctx context.Context, request *certificatesv1.PodCertificateRequest, status *certificatesac.PodCertificateRequestStatusApplyConfiguration,
) error {
	configuration := certificatesac.PodCertificateRequest(request.Name, request.Namespace).
		WithUID(request.UID).WithResourceVersion(request.ResourceVersion).WithStatus(status)
	if err := d.Live.Status().Apply(ctx, configuration, apply.Signer, client.ForceOwnership); err != nil {
		return fmt.Errorf("answer PodCertificateRequest %s/%s: %w", request.Namespace, request.Name, err)
	}
	return nil
}

// About is the pod, where people look.
func (Door) About(request *certificatesv1.PodCertificateRequest) runtime.Object {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: request.Namespace, Name: request.Spec.PodName, UID: request.Spec.PodUID}}
}
