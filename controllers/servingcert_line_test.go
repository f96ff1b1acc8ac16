package controllers_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// slowly adds a policy whose keys take long to make, for the Services with a label.
func (r realm) slowly() (label func(*corev1.Service)) {
	r.Helper()
	slow := &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: r.name + "-slow"}, Spec: r.policy.Spec}
	slow.Spec.Priority = 1
	slow.Spec.ServiceSelector.MatchLabels = map[string]string{"keys": "slow"}
	slow.Spec.Certificate.PrivateKey.PrivateKey = v1alpha1.PrivateKey{Algorithm: v1alpha1.RSA, Size: 3072}
	createBy(r.T, r.admin(), slow)
	return func(s *corev1.Service) { s.Labels = map[string]string{"keys": "slow"} }
}

// A Service whose key is made in no time does not wait behind all those whose keys take long; and those come, too.
func TestLineOfKeysThatTakeLong(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	slow := r.slowly()
	const many = 48
	for i := range many {
		r.service(fmt.Sprintf("slow-%d", i), asks(fmt.Sprintf("slow-%d-tls", i)), slow)
	}
	r.service("web", asks("web-tls"))
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	var made corev1.SecretList
	if err := r.admin().List(t.Context(), &made, client.InNamespace(r.name)); err != nil {
		t.Fatal(err)
	}
	if behind := len(made.Items) - 1; behind > many/2 {
		t.Errorf("%d of %d Services whose keys take long were served before", behind, many)
	}
	for i := range many {
		r.secret(fmt.Sprintf("slow-%d-tls", i), r.issued(fmt.Sprintf("slow-%d.%s.svc", i, r.name)))
	}
}

// A Service that asks for another Secret keeps the one that it has until the other is made, though that takes long.
func TestLineKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	slow := r.slowly()
	service := r.service("web", asks("before"), slow)
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
