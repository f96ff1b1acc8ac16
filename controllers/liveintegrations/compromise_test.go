package liveintegrations_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// certificate creates a Certificate that cert-manager considers issued, and returns a function that
// makes it the owner of a request.
func (r realm) certificate(name string) func(*cmapi.CertificateRequest) {
	r.Helper()
	made := create(r.T, &cmapi.Certificate{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name},
		Spec: cmapi.CertificateSpec{
			SecretName: name, DNSNames: []string{name + "." + r.name + ".svc"},
			IssuerRef: cmmeta.IssuerReference{Group: v1alpha1.GroupName, Kind: "ServiceCA", Name: r.name},
		},
	})
	made.Status = cmapi.CertificateStatus{
		NotAfter: &metav1.Time{Time: time.Now().Add(1000 * time.Hour)},
		Conditions: []cmapi.CertificateCondition{{
			Type: cmapi.CertificateConditionReady, Status: cmmeta.ConditionTrue, ObservedGeneration: made.Generation,
		}},
	}
	if err := env.kube.Status().Update(r.Context(), made); err != nil {
		r.Fatal(err)
	}
	return func(request *cmapi.CertificateRequest) {
		request.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(made, cmapi.SchemeGroupVersion.WithKind("Certificate"))}
	}
}

// issuerOf waits until a request is answered, and returns the name of the CA that signed.
func (r realm) issuerOf(request *cmapi.CertificateRequest) string {
	r.Helper()
	block, _ := pem.Decode(r.reads(request, cmapi.CertificateRequestReasonIssued, "signed by").Status.Certificate)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		r.Fatal(err)
	}
	return leaf.Issuer.CommonName
}

// compromised takes a CA through a compromise: a renewal waits for the next CA, a first certificate
// does not, and has to be renewed before the old root is removed. It runs while cert-manager's CRDs
// exist.
func compromised(t *testing.T) {
	t.Helper()
	r := early(t, "stolen")
	r.addServiceCA(func(ca *v1alpha1.ServiceCA) { ca.Spec.Rotation.Propagation.Minimum = "2s" })
	r.addPolicy()
	csr, _ := requestFor(t, x509.CertificateRequest{DNSNames: []string{"web." + r.name + ".svc"}})
	ask := func(name string, adjust ...func(*cmapi.CertificateRequest)) *cmapi.CertificateRequest {
		request := r.want(name, csr, adjust...)
		r.decide(request, cmapi.CertificateRequestConditionApproved)
		return request
	}
	ofWeb := r.certificate("web")
	before := r.issuerOf(ask("web-1", ofWeb))

	ca := &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
	update(t, ca, func(ca *v1alpha1.ServiceCA) {
		ca.Spec.Rotation.Mode = v1alpha1.RotationPaused
		ca.Spec.Rotation.Trigger, ca.Spec.Rotation.TriggerReason = "stolen", v1alpha1.TriggerCompromise
	})
	renewal := ask("web-2", ofWeb)
	r.reads(renewal, cmapi.CertificateRequestReasonPending, "the key of ServiceCA stolen was stolen")
	urgent := ask("urgent")
	if got := r.issuerOf(urgent); got != before {
		t.Errorf("%s signed, want %s", got, before)
	}
	update(t, ca, func(ca *v1alpha1.ServiceCA) { ca.Spec.Rotation.Mode = v1alpha1.RotationAutomatic })
	if r.issuerOf(renewal) == before {
		t.Errorf("%s signed again, whose key was stolen", before)
	}
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if !slices.ContainsFunc(ca.Status.Rotation.BlockedBy, func(wait string) bool {
			return strings.Contains(wait, "distrusted as soon as 1 certificates that requests got are renewed, and at the latest") &&
				strings.HasSuffix(wait, ": CertificateRequest stolen/urgent")
		}) {
			return fmt.Sprintf("nobody is told what to renew: %+v", ca.Status.Rotation)
		}
		return ""
	})
	if err := env.kube.Delete(t.Context(), urgent); err != nil {
		t.Fatal(err)
	}
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if len(ca.Status.Previous) > 0 || !meta.IsStatusConditionTrue(ca.Status.Conditions, v1alpha1.ConditionTrustEstablished) {
			return fmt.Sprintf("the compromised root is still trusted: %+v", ca.Status.Rotation)
		}
		return ""
	})
}
