package hollownode

import (
	"context"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	clientset "k8s.io/client-go/kubernetes"
	certificatesclient "k8s.io/client-go/kubernetes/typed/certificates/v1"
)

// ahead is more than the random delay that the kubelet adds to the time at which it refreshes a pod
// certificate.
const ahead = 10 * time.Minute

// hurried shows the kubelet pod certificates as if they were due for a refresh, so that it
// refreshes them at its next check, within two minutes. The API server accepts no refresh time
// earlier than ten minutes.
type hurried struct{ clientset.Interface }

// CertificatesV1 implements kubernetes.Interface.
func (h hurried) CertificatesV1() certificatesclient.CertificatesV1Interface {
	return hurriedGroup{h.Interface.CertificatesV1()}
}

type hurriedGroup struct {
	certificatesclient.CertificatesV1Interface
}

// PodCertificateRequests implements CertificatesV1Interface.
func (h hurriedGroup) PodCertificateRequests(namespace string) certificatesclient.PodCertificateRequestInterface {
	return hurriedRequests{h.CertificatesV1Interface.PodCertificateRequests(namespace)}
}

type hurriedRequests struct {
	certificatesclient.PodCertificateRequestInterface
}

// List implements PodCertificateRequestInterface.
func (h hurriedRequests) List(ctx context.Context, options metav1.ListOptions) (*certificatesv1.PodCertificateRequestList, error) {
	list, err := h.PodCertificateRequestInterface.List(ctx, options)
	if err == nil {
		for i := range list.Items {
			hurry(&list.Items[i])
		}
	}
	return list, err
}

// Watch implements PodCertificateRequestInterface.
func (h hurriedRequests) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	watched, err := h.PodCertificateRequestInterface.Watch(ctx, options)
	if err != nil {
		return nil, err
	}
	return watch.Filter(watched, func(event watch.Event) (watch.Event, bool) {
		if request, ok := event.Object.(*certificatesv1.PodCertificateRequest); ok {
			hurry(request)
		}
		return event, true
	}), nil
}

func hurry(request *certificatesv1.PodCertificateRequest) {
	if status := &request.Status; status.NotBefore != nil {
		early := metav1.NewTime(status.NotBefore.Add(-ahead))
		status.BeginRefreshAt = &early
	}
}
