package controllers_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
)

// message returns the message of a condition, with its status and reason before it.
func message(p *v1alpha1.ServingCertPolicy, kind string) string {
	condition := meta.FindStatusCondition(p.Status.Conditions, kind)
	if condition == nil {
		return "absent"
	}
	return fmt.Sprintf("%s %s: %s", condition.Status, condition.Reason, condition.Message)
}

// The status of a policy says in one sentence whether every Service has a certificate, and until
// when.
func TestPolicyStatusAtAGlance(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	says := func(kind, want string) *v1alpha1.ServingCertPolicy {
		return r.report(func(p *v1alpha1.ServingCertPolicy) string {
			if got := message(p, kind); got != want {
				return fmt.Sprintf("%s is %q, want %q", kind, got, want)
			}
			return ""
		})
	}
	says(v1alpha1.ConditionAllServed, "True NoServices: no Service wants a certificate by this policy")
	p := says(v1alpha1.ConditionReady, "True Ready: ServiceCA "+r.name+" signs for this policy")
	if p.Status.NextRenewalTime != nil || p.Status.EarliestExpiry != nil || message(p, v1alpha1.ConditionConflicted) == "absent" {
		t.Errorf("a policy that serves nobody says %+v", p.Status)
	}
	var first *corev1.Secret
	for i := range 3 {
		name := fmt.Sprintf("web-%d", i)
		r.service(name, withSecretName(name+"-tls"))
		if secret := r.secret(name+"-tls", r.issued(name+"."+r.name+".svc")); first == nil {
			first = secret
		}
	}
	deadline := leaf(t, first).NotAfter.UTC()
	p = says(v1alpha1.ConditionAllServed, "True AllServed: all 3 Services are served; the first certificate ends "+deadline.Format(time.RFC3339))
	if !p.Status.EarliestExpiry.Time.Equal(deadline) {
		t.Errorf("the earliest expiry is %s, want %s", p.Status.EarliestExpiry, deadline)
	}
	// The renewal is due when a third of 90 days is left, or at most a tenth of the remaining
	// lifetime earlier.
	if left := deadline.Sub(p.Status.NextRenewalTime.Time); left < 30*24*time.Hour-time.Minute || left > 36*24*time.Hour+time.Minute {
		t.Errorf("the next renewal comes %s before the end", left)
	}
	row := table(t, kubectl(t, "get", "scp", r.name, "-o", "wide"))
	for column, want := range map[string]string{
		"NAME": r.name, "CA": r.name, "SERVICES": "3", "ISSUED": "3", "FAILED": "0", "RESTART": "None", "READY": "True",
		"NEXT-RENEWAL": p.Status.NextRenewalTime.UTC().Format(time.RFC3339),
		"MESSAGE":      "all 3 Services are served; the first certificate ends " + deadline.Format(time.RFC3339),
	} {
		if row[column] != want {
			t.Errorf("kubectl prints %s as %q, want %q", column, row[column], want)
		}
	}
	r.service("wrong", withSecretName("No Name"))
	p = r.policyReports("InvalidSecretName", "wrong")
	if got, want := message(p, v1alpha1.ConditionAllServed), "False Failures: 3 of 4 Services are served; "+r.name+"/wrong: \"No Name\" is no name"; !strings.HasPrefix(got, want) {
		t.Errorf("AllServed is %q, want %q", got, want)
	}
	if got := kstatus(p); got != current || !meta.IsStatusConditionTrue(p.Status.Conditions, "Ready") {
		t.Errorf("a tenant's mistake makes the policy %s", got)
	}
	row = table(t, kubectl(t, "get", "scp", r.name))
	if row["SERVICES"] != "4" || row["ISSUED"] != "3" || row["FAILED"] != "1" || row["READY"] != "True" {
		t.Errorf("kubectl prints %v", row)
	}
}

// At most ten failures are listed, by namespace and name, and all of them are counted.
func TestPolicyFailuresAreBoundedAndSorted(t *testing.T) {
	t.Parallel()
	name := realmName(t)
	r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) {
		p.Spec.NamespaceSelector = metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpIn, Values: []string{name, "a-" + name}}}}
	})
	before := r
	before.name = "a-" + name
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: before.name}})
	r.service("sound", withSecretName("sound-tls"))
	var want []string
	for _, i := range []int{7, 3, 5, 1, 8, 2, 6, 4, 0} {
		r.service(fmt.Sprintf("web-%d", i), withSecretName("No Name"))
	}
	for _, i := range []int{2, 0, 1} {
		before.service(fmt.Sprintf("web-%d", i), withSecretName("No Name"))
	}
	for i := range 3 {
		want = append(want, fmt.Sprintf("%s/web-%d", before.name, i))
	}
	for i := range 7 {
		want = append(want, fmt.Sprintf("%s/web-%d", r.name, i))
	}
	r.report(func(p *v1alpha1.ServingCertPolicy) string {
		if counts := *p.Status.Services; counts.Matched != 13 || counts.Failed != 12 || counts.Issued != 1 {
			return "not all are counted"
		}
		var got []string
		for _, failure := range p.Status.Failures {
			got = append(got, failure.Namespace+"/"+failure.Service)
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			return fmt.Sprintf("the failures are %v, want %v", got, want)
		}
		return ""
	})
}

// A forged error annotation on a Service is not taken for its state: however long or odd, it does
// not affect the policy's status.
func TestPolicyStatusBesideForgedErrors(t *testing.T) {
	t.Parallel()
	r := newRealm(t, func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) { p.Spec.ServiceCAName = p.Name + "-later" })
	r.service("web", withSecretName("web-tls"))
	r.expectError("web", "ServiceCANotReady: ")
	for i, forged := range []string{": nothing", "", "no colon", strings.Repeat("Long: ", 40_000)} {
		name := fmt.Sprintf("forged-%d", i)
		annotations := withSecretName(name + "-tls")
		annotations[v1alpha1.AnnotationError] = forged
		r.service(name, annotations)
	}
	r.report(func(p *v1alpha1.ServingCertPolicy) string {
		if p.Status.Services.Matched != 5 {
			return "the status is behind"
		}
		return ""
	})
	r.policyReports("ServiceCANotReady", "forged-0", "forged-1", "forged-2", "forged-3", "web")
	ca := create(t, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: r.name + "-later"}})
	r.serves(5)
	for i := range 4 {
		r.expectError(fmt.Sprintf("forged-%d", i))
	}
	// While there is no CA, no error is reported on a Service that has a certificate, and a forged
	// annotation may stay.
	remove(t, ca)
	for i, forged := range []string{": nothing", "", strings.Repeat("Long: ", 40_000)} {
		service := reload(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: fmt.Sprintf("forged-%d", i)}})
		update(t, service, func(s *corev1.Service) { s.Annotations[v1alpha1.AnnotationError] = forged })
	}
	r.service("late", withSecretName("late-tls"))
	r.report(func(p *v1alpha1.ServingCertPolicy) string {
		if counts := *p.Status.Services; counts.Matched != 6 || counts.Issued != 5 || counts.Failed != 1 {
			return "the status is behind"
		}
		return ""
	})
	create(t, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: ca.Name}})
	r.serves(6)
}
