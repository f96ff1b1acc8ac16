package liveintegrations_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// early returns a namespace with a Service, for which a ServiceCA and a policy are created later.
func early(t *testing.T, name string) realm {
	t.Helper()
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	r := realm{t, name}
	r.service("web")
	return r
}

func (r realm) addServiceCA(adjust ...func(*v1alpha1.ServiceCA)) {
	r.Helper()
	ca := &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
	for _, a := range adjust {
		a(ca)
	}
	create(r.T, ca)
	r.ready()
}

func (r realm) addPolicy() {
	r.Helper()
	policy := &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
	policy.Spec.ServiceCAName = r.name
	policy.Spec.NamespaceSelector.MatchLabels = map[string]string{corev1.LabelMetadataName: r.name}
	create(r.T, policy)
}

// eventSays waits for an Event on an object of that name with that text.
func (r realm) eventSays(kind, name, says string) {
	r.Helper()
	eventually(r.T, func(ctx context.Context) string {
		var events eventsv1.EventList
		if err := env.kube.List(ctx, &events); err != nil {
			return err.Error()
		}
		for _, e := range events.Items {
			if e.Regarding.Kind == kind && e.Regarding.Name == name && strings.Contains(e.Note, says) {
				return ""
			}
		}
		return fmt.Sprintf("no Event on %s %s says %q", kind, name, says)
	})
}

// On a pod and a CertificateSigningRequest that are created before their ServiceCA and its policy,
// the operator reports what is missing, and it answers them once both exist.
func TestRequestsBeforeTheirCA(t *testing.T) {
	t.Parallel()
	r := early(t, "bootstrap")
	pod := r.pod("web")
	name := "web." + r.name + ".svc"
	request, key := requestFor(t, x509.CertificateRequest{DNSNames: []string{name}})
	current := r.ask("early", request)
	r.approve(current)
	for _, missing := range []struct {
		message string
		add     func()
	}{{"there is no ServiceCA bootstrap: create it", func() { r.addServiceCA() }}, {"no ServingCertPolicy names ServiceCA bootstrap", r.addPolicy}} {
		r.eventSays("Pod", pod.Name, missing.message)
		r.eventSays("CertificateSigningRequest", current.Name, missing.message)
		missing.add()
	}
	response := get(t, current, func(current *certificatesv1.CertificateSigningRequest) string {
		if len(current.Status.Certificate) == 0 {
			return fmt.Sprintf("no certificate: %+v", current.Status.Conditions)
		}
		return ""
	})
	verify(t, response.Status.Certificate, r.bundle(), key, name)
	eventually(t, func(context.Context) string {
		if _, err := credentials(pod); err != nil {
			return err.Error()
		}
		return ""
	})
}

// bootstrap is the same for a CertificateRequest; it runs while cert-manager's CRDs exist.
func bootstrap(t *testing.T) {
	t.Helper()
	r := early(t, "bootstrap-cert-manager")
	name := "web." + r.name + ".svc"
	request, key := requestFor(t, x509.CertificateRequest{DNSNames: []string{name}})
	current := r.want("early", request)
	r.decide(current, cmapi.CertificateRequestConditionApproved)
	r.reads(current, cmapi.CertificateRequestReasonPending, "there is no ServiceCA "+r.name+": create it; the request waits for this until ")
	r.addServiceCA()
	r.reads(current, cmapi.CertificateRequestReasonPending, "no ServingCertPolicy names ServiceCA "+r.name)
	r.addPolicy()
	issued := r.reads(current, cmapi.CertificateRequestReasonIssued, "signed by")
	verify(t, issued.Status.Certificate, r.bundle(), key, name)
}
