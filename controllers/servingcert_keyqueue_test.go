package controllers_test

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"runtime"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// slowly adds a policy whose keys take long to generate, for the Services with a label.
func (r realm) slowly() (slow *v1alpha1.ServingCertPolicy, label func(*corev1.Service)) {
	r.Helper()
	slow = &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: r.name + "-slow"}, Spec: r.policy.Spec}
	slow.Spec.Priority = 1
	slow.Spec.ServiceSelector.MatchLabels = map[string]string{"keys": "slow"}
	slow.Spec.Certificate.PrivateKey.PrivateKey = v1alpha1.PrivateKey{Algorithm: v1alpha1.RSA, Size: 3072}
	createBy(r.T, r.admin(), slow)
	return slow, func(s *corev1.Service) { s.Labels = map[string]string{"keys": "slow"} }
}

// A Service whose key is generated quickly does not wait for all those whose keys take long; and
// those are served too.
func TestKeyQueueOfSlowKeys(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	policy, slow := r.slowly()
	many := 24 * runtime.GOMAXPROCS(0)
	for i := range many {
		r.service(fmt.Sprintf("slow-%d", i), withSecretName(fmt.Sprintf("slow-%d-tls", i)), slow)
	}
	before := r.keysFor(v1alpha1.UsageServerAuth)
	r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	if made := r.keysFor(v1alpha1.UsageServerAuth); made-before > (many-before)/2 {
		t.Errorf("%d of %d Services whose keys take long were served meanwhile", made-before, many-before)
	}
	for i := range many {
		r.secret(fmt.Sprintf("slow-%d-tls", i), r.issued(fmt.Sprintf("slow-%d.%s.svc", i, r.name)))
	}

	// Nor does a Service without a certificate wait for those that have a valid certificate and
	// only need another one.
	update(t, policy, func(p *v1alpha1.ServingCertPolicy) {
		p.Spec.Certificate.Usages = []v1alpha1.CertificateUsage{v1alpha1.UsageClientAuth, v1alpha1.UsageServerAuth}
	})
	eventually(t, func(context.Context) string {
		if before = r.keysFor(v1alpha1.UsageClientAuth); before == 0 {
			return "the policy is not followed"
		}
		return ""
	})
	r.service("slow-new", withSecretName("slow-new-tls"), slow)
	r.secret("slow-new-tls", r.issued("slow-new."+r.name+".svc"))
	if made := r.keysFor(v1alpha1.UsageClientAuth); made-before > (many-before)/2 {
		t.Errorf("%d of %d Services that had a certificate were served meanwhile", made-before, many-before)
	}
	eventually(t, func(context.Context) string {
		if made := r.keysFor(v1alpha1.UsageClientAuth); made != many+1 {
			return fmt.Sprintf("%d of %d follow the policy", made, many+1)
		}
		return ""
	})
}

// keysFor returns how many of the realm's certificates with RSA keys have this usage.
func (r realm) keysFor(usage v1alpha1.CertificateUsage) (count int) {
	r.Helper()
	var made corev1.SecretList
	if err := r.admin().List(r.Context(), &made, client.InNamespace(r.name)); err != nil {
		r.Fatal(err)
	}
	for i := range made.Items {
		certificate := leaf(r.T, &made.Items[i])
		wanted := x509.ExtKeyUsageServerAuth
		if usage == v1alpha1.UsageClientAuth {
			wanted = x509.ExtKeyUsageClientAuth
		}
		if _, ok := certificate.PublicKey.(*rsa.PublicKey); ok && slices.Contains(certificate.ExtKeyUsage, wanted) {
			count++
		}
	}
	return count
}

// A Service that asks for another Secret keeps its present one until the other is created, even
// though that takes long.
func TestKeyQueueKeepsExistingCertificates(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	_, slow := r.slowly()
	service := r.service("web", withSecretName("before"), slow)
	r.secret("before", r.issued("web."+r.name+".svc"))
	update(t, service, func(s *corev1.Service) { s.Annotations[v1alpha1.AnnotationSecretName] = "after" })
	eventually(t, func(context.Context) string {
		before := uidOf(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "before"}})
		if after := uidOf(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "after"}}); after != "" {
			return ""
		}
		if before == "" {
			t.Fatal("the Secret was removed before the other was made")
		}
		return "the other is not made"
	})
	r.without("before")
	r.secret("after", r.issued("web."+r.name+".svc"))
}
