package serviceca

import (
	"context"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/availability"
)

// ownedBy returns the owner reference for the objects that request a CA: the garbage collector
// deletes them with the ServiceCA.
func ownedBy(ca *v1alpha1.ServiceCA) []metav1.OwnerReference {
	return []metav1.OwnerReference{{
		APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "ServiceCA", Name: ca.Name, UID: ca.UID,
	}}
}

// deleteRequests deletes the CertificateRequests that the operator created for a ServiceCA.
func (r *Reconciler) deleteRequests(ctx context.Context, ca string) error {
	requests, err := r.ownRequests(ctx, client.MatchingLabels{v1alpha1.LabelServiceCA: ca})
	for i := range requests {
		request := &requests[i]
		if err := r.Live.Delete(ctx, request, apply.PreconditionsFor(request)); apply.IgnoreGone(err) != nil {
			return err
		}
	}
	return err
}

// ownRequests returns the CertificateRequests that the operator created. It returns none when
// cert-manager is not installed or the operator may not list them.
func (r *Reconciler) ownRequests(
	ctx context.Context, labelled client.ListOption,
) ([]cmapi.CertificateRequest, error) {
	var requests cmapi.CertificateRequestList
	err := r.Live.List(ctx, &requests, client.InNamespace(r.Namespace), labelled)
	if availability.IsNotServed(err) || apierrors.IsForbidden(err) {
		return nil, nil
	}
	var owned []cmapi.CertificateRequest
	for _, request := range requests.Items {
		if apply.IsManagedBy(&request, apply.ServiceCA) {
			owned = append(owned, request)
		}
	}
	return owned, err
}

// afterDeletion deletes the CertificateRequests of a deleted ServiceCA when err is NotFound, and
// returns any other err unchanged. Earlier versions of the operator set no owner on their
// CertificateRequests.
func (r *Reconciler) afterDeletion(ctx context.Context, ca string, err error) error {
	if !apierrors.IsNotFound(err) {
		return err
	}
	return r.deleteRequests(ctx, ca)
}

// deleteLeftovers deletes the CertificateRequests of ServiceCAs that were deleted while the
// operator was not running.
func (r *Reconciler) deleteLeftovers(ctx context.Context) error {
	requests, err := r.ownRequests(ctx, client.HasLabels{v1alpha1.LabelServiceCA})
	for _, request := range requests {
		ca := request.Labels[v1alpha1.LabelServiceCA]
		getErr := r.Live.Get(ctx, client.ObjectKey{Name: ca}, &v1alpha1.ServiceCA{})
		if getErr == nil {
			continue
		}
		if err := r.afterDeletion(ctx, ca, getErr); err != nil {
			return err
		}
	}
	return err
}

// cleanUpRequests calls deleteLeftovers once, as soon as the cluster serves CertificateRequests.
func (r *Reconciler) cleanUpRequests(mgr ctrl.Manager) error {
	return availability.StartWhenAvailable(mgr, func(ctx context.Context) (bool, error) {
		served, err := availability.IsServed(ctx, r.Live, &cmapi.CertificateRequestList{})
		if !served || err != nil {
			return false, err
		}
		return true, r.deleteLeftovers(ctx)
	}, func(context.Context) error { return nil })
}
