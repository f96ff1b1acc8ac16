package controllers_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// A CA may sign without a common name, but not without a subject: its certificates could not name
// it as their issuer.
func TestSourceSecretSubject(t *testing.T) {
	t.Parallel()
	is := func(subject pkix.Name) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.Subject = subject }
	}
	r := newRealm(t, withSourceSecret("corp-"+realmName(t)))
	createSourceSecret(t, "corp-"+r.name, generateCA(t, "", nil, is(pkix.Name{})).data(t))
	r.service("web", withSecretName("web-tls"))
	r.serviceCA(isStalled("SourceInvalid", "has no subject", "make it with one"))
	r.expectError("web", "ServiceCANotReady: ", "has no subject")

	named := generateCA(t, "", nil, is(pkix.Name{Organization: []string{"Corp"}}))
	createSourceSecret(t, "corp-"+r.name, named.data(t))
	ca := r.serviceCA(isReady)
	if got := activeOf(ca).Subject; got != "O=Corp" {
		t.Errorf("the status names the CA %q", got)
	}
	r.handshake(r.secret("web-tls", r.signedBy(named.certificate)), "web."+r.name+".svc")
	r.expectError("web")
}

// When an intermediate CA is renewed by its parent before it expires, certificates issued before
// receive the renewed chain.
func TestRenewedChainReachesEveryCertificate(t *testing.T) {
	t.Parallel()
	root := generateCA(t, "Corp Root", nil)
	upper := generateCA(t, "Corp Policy", root)
	issuing := generateCA(t, "Corp Issuing", upper)
	r := newRealm(t, withSourceSecret("corp-"+realmName(t)))
	createSourceSecret(t, "corp-"+r.name, with(issuing.data(t, upper), "ca.crt", root.pem()))
	r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", r.signedBy(issuing.certificate))
	for _, renew := range []func(){
		func() { upper = generateCAWith(t, "Corp Policy", upper.key, root) },
		func() { issuing = generateCAWith(t, "Corp Issuing", issuing.key, upper) },
	} {
		renew()
		createSourceSecret(t, "corp-"+r.name, with(issuing.data(t, upper), "ca.crt", root.pem()))
		secret := r.secret("web-tls", func(secret *corev1.Secret) string {
			chain := parse(t, secret.Data[corev1.TLSCertKey])
			if len(chain) != 3 || !chain[1].Equal(issuing.certificate) || !chain[2].Equal(upper.certificate) {
				return "the certificate has the former chain"
			}
			return r.signedBy(issuing.certificate)(secret)
		})
		r.handshake(secret, "web."+r.name+".svc")
		r.trusts(root.certificate)
	}
}

// It is unknown which Services an unreadable policy selects: the Secrets issued for it stay until
// it can be read again.
func TestPolicyThatBecomesUnreadableRemovesNothing(t *testing.T) {
	t.Parallel()
	r := newRealm(t, issueAll)
	service := r.service("web", nil)
	served := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	asking := r.service("asking", withSecretName("asking-tls"))
	other := r.secret("asking-tls", r.issued("asking."+r.name+".svc"))
	selector := r.policy.Spec.ServiceSelector
	update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) {
		p.Spec.ServiceSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "-app", Operator: metav1.LabelSelectorOpExists}}
	})
	r.report(func(p *v1alpha1.ServingCertPolicy) string {
		if stalled := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionStalled); stalled == nil || stalled.Reason != "InvalidSelector" {
			return "the policy is not stalled"
		}
		return ""
	})
	r.expectError("asking", "NoPolicy: ")
	touch(t, service)
	touch(t, asking)
	newRealmIn(t, kube, r.name+"-n").passes()
	unchanged(t, served, other)
	update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) { p.Spec.ServiceSelector = selector })
	r.expectError("asking")
	r.serves(2)
	unchanged(t, served, other)
}
