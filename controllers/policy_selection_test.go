package controllers_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// issueAll makes a realm's policy issue to every Service that it selects.
func issueAll(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
	p.Spec.Issuance = v1alpha1.IssueAll
}

// serves waits until the policy has issued to that many Services, and no work is left.
func (r realm) serves(count int32) *v1alpha1.ServingCertPolicy {
	r.Helper()
	return r.report(func(p *v1alpha1.ServingCertPolicy) string {
		counts := p.Status.Services
		if *counts != (v1alpha1.ServiceCounts{Matched: count, Issued: count}) {
			return fmt.Sprintf("the counts are %+v, want %d", *counts, count)
		}
		if !meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionAllServed) || len(p.Status.Failures) > 0 {
			return "not all are served"
		}
		return ""
	})
}

// without waits until the realm has no Secret of that name.
func (r realm) without(secret string) {
	r.Helper()
	gone(r.T, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: secret}})
}

// absent fails if the realm has a Secret of that name now.
func (r realm) absent(secret string) {
	r.Helper()
	if uidOf(r.T, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: secret}}) != "" {
		r.Errorf("there is a Secret %s", secret)
	}
}

func TestPolicyAnnotatedServesAnnotatedServices(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.service("silent", nil)
	r.service("empty", withSecretName(""))
	r.service("web", withSecretName("web-tls"))
	// An ExternalName Service points outside the cluster, and asks for a certificate anyway.
	r.service("far", withSecretName("far-tls"), func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalName, s.Spec.Ports = corev1.ServiceTypeExternalName, "example.org", nil
	})
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.secret("far-tls", r.issued("far."+r.name+".svc"))
	r.serves(2)
	r.absent("silent-tls")
}

func TestPolicyAllServesEveryService(t *testing.T) {
	t.Parallel()
	r := newRealm(t, issueAll, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) { p.Spec.SecretNameSuffix = ".cert" })
	r.service("silent", nil)
	r.service("web", withSecretName("named-by-the-service"))
	far := r.service("far", nil, func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalName, s.Spec.Ports = corev1.ServiceTypeExternalName, "example.org", nil
	})
	r.secret("silent.cert", r.issued("silent."+r.name+".svc"))
	r.secret("named-by-the-service", r.issued("web."+r.name+".svc"))
	r.serves(2)
	r.absent("web.cert")
	r.absent("far.cert")

	// A Service that changes from ExternalName to ClusterIP is served, and one that changes to
	// ExternalName no longer is.
	update(t, far, func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalName, s.Spec.Ports = corev1.ServiceTypeClusterIP, "", []corev1.ServicePort{{Port: 443}}
	})
	r.secret("far.cert", r.issued("far."+r.name+".svc"))
	update(t, far, func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalName, s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ServiceTypeExternalName, "example.org", "", nil
	})
	r.without("far.cert")
	r.serves(2)

	// Another suffix changes the name of the Secret.
	update(t, r.policy, func(p *v1alpha1.ServingCertPolicy) { p.Spec.SecretNameSuffix = "-tls" })
	r.secret("silent-tls", r.issued("silent."+r.name+".svc"))
	r.without("silent.cert")
	r.serves(2)
}

// No policy issues a certificate for the Service of the API server.
func TestPolicyAllLeavesTheAPIServerAlone(t *testing.T) {
	t.Parallel()
	r := newRealm(t, issueAll, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		p.Spec.NamespaceSelector.MatchLabels[corev1.LabelMetadataName] = metav1.NamespaceDefault
		p.Spec.SecretNameSuffix = "-of-the-api-server"
	})
	there := r
	there.name = metav1.NamespaceDefault
	there.service("beside-kubernetes", nil)
	there.secret("beside-kubernetes-of-the-api-server", there.issued("beside-kubernetes.default.svc"))
	r.serves(1)
	there.absent("kubernetes-of-the-api-server")
}

// A label that is added to or removed from a namespace later makes a policy select or deselect its
// Services.
func TestPolicySelectsNamespacesByLabel(t *testing.T) {
	t.Parallel()
	label := map[string]string{"servingcert.test/" + realmName(t): "yes"}
	r := newRealm(t, issueAll, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		p.Spec.NamespaceSelector = metav1.LabelSelector{MatchLabels: label}
	})
	r.service("web", withSecretName("web-tls"))
	r.service("silent", nil)
	r.expectError("web", "NoPolicy: ", "no ServingCertPolicy selects this Service")
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
	update(t, namespace, func(n *corev1.Namespace) { n.Labels["servingcert.test/"+r.name] = "yes" })
	r.expectError("web")
	served := r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.secret("silent-tls", r.issued("silent."+r.name+".svc"))
	r.serves(2)
	update(t, namespace, func(n *corev1.Namespace) { delete(n.Labels, "servingcert.test/"+r.name) })
	// A Service with an annotation keeps its Secret, and the error is reported on it; a Secret for
	// a Service without one is deleted.
	service := r.expectError("web", "NoPolicy: ", "is kept and not renewed")
	event(t, service, corev1.EventTypeWarning, "NoPolicy")
	r.without("silent-tls")
	unchanged(t, served)
	r.serves(0)
}

func TestPolicySelectsServicesByExpression(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		p.Spec.ServiceSelector = metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "tier", Operator: metav1.LabelSelectorOpIn, Values: []string{"front", "back"}},
			{Key: "plain", Operator: metav1.LabelSelectorOpDoesNotExist},
		}}
	})
	tier := func(labels ...string) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Labels = map[string]string{}
			for i := 0; i < len(labels); i += 2 {
				s.Labels[labels[i]] = labels[i+1]
			}
		}
	}
	r.service("web", withSecretName("web-tls"), tier("tier", "front"))
	plain := r.service("plain", withSecretName("plain-tls"), tier("tier", "back", "plain", ""))
	r.service("db", withSecretName("db-tls"), tier("tier", "data"))
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.expectError("plain", "NoPolicy")
	r.expectError("db", "NoPolicy")
	r.serves(1)
	update(t, plain, tier("tier", "back"))
	r.secret("plain-tls", r.issued("plain."+r.name+".svc"))
	r.expectError("plain")
	r.serves(2)
}

// besides creates another policy for the same namespace.
func (r realm) besides(suffix string, priority int32, adjust ...func(*v1alpha1.ServingCertPolicy)) realm {
	r.Helper()
	other := r
	other.policy = &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: r.name + suffix}, Spec: *r.policy.Spec.DeepCopy()}
	other.policy.Spec.Priority = priority
	for _, a := range adjust {
		a(other.policy)
	}
	create(r.T, other.policy)
	return other
}

// markedBy accepts a Secret whose certificate has the extra DNS name by which the policies of a
// test differ.
func (r realm) markedBy(name string) func(*corev1.Secret) string {
	return func(secret *corev1.Secret) string {
		if names := leaf(r.T, secret).DNSNames; names[len(names)-1] != name {
			return fmt.Sprintf("the names are %v", names)
		}
		return ""
	}
}

func marks(name string) func(*v1alpha1.ServingCertPolicy) {
	return func(p *v1alpha1.ServingCertPolicy) { p.Spec.Certificate.ExtraDNSNames = []string{name} }
}

// The policy with the highest priority applies to a Service, whichever policy was created first.
func TestPolicyPriority(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) { marks("low.example.org")(p) })
	r.service("web", withSecretName("web-tls"))
	r.secret("web-tls", r.markedBy("low.example.org"))
	high := r.besides("-high", 10, marks("high.example.org"))
	r.secret("web-tls", r.markedBy("high.example.org"))
	r.serves(0)
	high.serves(1)
	update(t, high.policy, func(p *v1alpha1.ServingCertPolicy) { p.Spec.Priority = -1 })
	r.secret("web-tls", r.markedBy("low.example.org"))
	r.serves(1)
	update(t, high.policy, func(p *v1alpha1.ServingCertPolicy) { p.Spec.Priority = 1 })
	r.secret("web-tls", r.markedBy("high.example.org"))
	remove(t, high.policy)
	r.secret("web-tls", r.markedBy("low.example.org"))
	if p := r.serves(1); meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionConflicted) {
		t.Error("a policy is in conflict with none")
	}
}

// Of two policies with equal priority the older one applies; a condition and an Event on both
// report the tie, until it is resolved.
func TestPolicyTie(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) { marks("elder.example.org")(p) })
	r.service("web", withSecretName("web-tls"))
	served := r.secret("web-tls", r.markedBy("elder.example.org"))
	// If both were created within one second, the name decides, and always in the same way.
	younger := r.besides("-younger", 0, marks("younger.example.org"))
	for _, pair := range [][2]realm{{r, younger}, {younger, r}} {
		p := pair[0].report(func(p *v1alpha1.ServingCertPolicy) string {
			condition := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionConflicted)
			if condition == nil || condition.Status != metav1.ConditionTrue || condition.Reason != "SamePriority" {
				return "it is not told of the conflict"
			}
			if ready := meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady); !ready {
				return "a tie does not make a policy unready"
			}
			return ""
		})
		event(t, p, corev1.EventTypeWarning, "SamePriority", pair[1].policy.Name, "give one a higher priority")
	}
	r.serves(1)
	younger.serves(0)
	unchanged(t, served)
	update(t, younger.policy, func(p *v1alpha1.ServingCertPolicy) {
		p.Spec.ServiceSelector.MatchLabels = map[string]string{"no": "one"}
	})
	for _, told := range []realm{r, younger} {
		told.report(func(p *v1alpha1.ServingCertPolicy) string {
			if meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionConflicted) {
				return "it is still told of the conflict"
			}
			return ""
		})
	}
	unchanged(t, served)
}

// An invalid selector stalls its policy, which then selects nothing, and affects no other policy.
func TestPolicyInvalidSelector(t *testing.T) {
	t.Parallel()
	for field, corrupt := range map[string]func(*v1alpha1.ServingCertPolicySpec, metav1.LabelSelector){
		"namespaceSelector": func(s *v1alpha1.ServingCertPolicySpec, selector metav1.LabelSelector) { s.NamespaceSelector = selector },
		"serviceSelector":   func(s *v1alpha1.ServingCertPolicySpec, selector metav1.LabelSelector) { s.ServiceSelector = selector },
	} {
		t.Run(field, func(t *testing.T) {
			t.Parallel()
			r := newRealm(t)
			wrong := r.besides("-wrong", 10, func(p *v1alpha1.ServingCertPolicy) {
				corrupt(&p.Spec, metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "-tier", Operator: metav1.LabelSelectorOpExists}}})
			})
			r.service("web", withSecretName("web-tls"))
			r.secret("web-tls", r.issued("web."+r.name+".svc"))
			p := wrong.report(func(p *v1alpha1.ServingCertPolicy) string {
				if got := kstatus(p); got != failed {
					return "kstatus is " + got.String()
				}
				return ""
			})
			event(t, p, corev1.EventTypeWarning, "InvalidSelector", "spec."+field, "-tier")
			r.serves(1)
			update(t, wrong.policy, func(p *v1alpha1.ServingCertPolicy) {
				p.Spec.ServiceSelector, p.Spec.NamespaceSelector = r.policy.Spec.ServiceSelector, r.policy.Spec.NamespaceSelector
			})
			wrong.serves(1)
			if p := wrong.report(func(*v1alpha1.ServingCertPolicy) string { return "" }); kstatus(p) != current {
				t.Errorf("a policy that was put right is not healthy: %+v", p.Status.Conditions)
			}
		})
	}
}

// A policy whose ServiceCA is created later waits for it, and reports that.
func TestPolicyBeforeItsServiceCA(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) { p.Spec.ServiceCAName = p.Name + "-later" })
	if got := kstatus(r.policy); got != inProgress {
		t.Errorf("kstatus of a fresh policy is %s", got)
	}
	r.service("web", withSecretName("web-tls"))
	r.expectError("web", "ServiceCANotReady: ", "there is no ServiceCA "+r.name+"-later", "create it")
	p := r.policyReports("ServiceCANotReady", "web")
	ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
	if ready.Reason != "ServiceCANotFound" || kstatus(p) != inProgress {
		t.Errorf("Ready is %+v", ready)
	}
	r.ca = create(t, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: r.name + "-later"}})
	r.secret("web-tls", r.issued("web."+r.name+".svc"))
	r.expectError("web")
	r.serves(1)
	if p := r.serves(1); kstatus(p) != current {
		t.Errorf("the policy is not healthy: %+v", p.Status.Conditions)
	}
}
