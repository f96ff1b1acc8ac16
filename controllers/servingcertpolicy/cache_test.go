package servingcertpolicy

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
)

// count holds the inputs of a count with one Service whose certificate needs no change.
type count struct {
	now    time.Time
	policy *v1alpha1.ServingCertPolicy
	ca     *keyring.CA
	plan   issuance.Plan
	secret *corev1.Secret
}

// A cached plan is used while nothing that it depends on has changed, and not after that.
func TestPlanCache(t *testing.T) {
	t.Parallel()
	renewAt, notAfter := now.Add(time.Hour), now.Add(2*time.Hour)
	for name, tc := range map[string]struct {
		first, then func(*count)
		want        bool
	}{
		"nothing has changed":            {want: true},
		"a moment before it is renewed":  {then: func(l *count) { l.now = renewAt.Add(-1) }, want: true},
		"it is to be renewed":            {then: func(l *count) { l.now = renewAt }},
		"it ends, and is not renewed":    {first: func(l *count) { l.plan.RenewAt = time.Time{} }, then: func(l *count) { l.now = notAfter }},
		"it is not renewed":              {first: func(l *count) { l.plan.RenewAt = time.Time{} }, then: func(l *count) { l.now = notAfter.Add(-1) }, want: true},
		"the clock went back":            {then: func(l *count) { l.now = now.Add(-1) }},
		"the clock of a process":         {first: func(l *count) { l.now = time.Now() }, then: func(l *count) { l.now = now }, want: true},
		"the Service was written":        {then: func(l *count) { l.plan.Desired.Service.ResourceVersion = "2" }},
		"the Service is another":         {then: func(l *count) { l.plan.Desired.Service.UID = "other" }},
		"the Secret was written":         {then: func(l *count) { l.secret.ResourceVersion = "2" }},
		"the Secret is gone":             {then: func(l *count) { l.secret = nil }},
		"the policy asks for other":      {then: func(l *count) { l.policy.Generation++ }},
		"the policy is another":          {then: func(l *count) { l.policy.UID = "other" }},
		"the CA is another":              {then: func(l *count) { l.ca = &keyring.CA{} }},
		"there was something to be done": {first: func(l *count) { l.plan.Action = issuance.Issue }},
		"something stood in the way":     {first: func(l *count) { l.plan.Problem = newProblem() }},
		"there was no Secret":            {first: func(l *count) { l.secret = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			web := service("shop", "web", "")
			web.UID, web.ResourceVersion = "web", "1"
			l := count{now, newPolicy(), &keyring.CA{}, issuance.Plan{
				Desired: issuance.Desired{SecretRef: issuance.SecretRef{Service: web, SecretName: "web-tls"}}, Action: issuance.Keep, NotAfter: notAfter, RenewAt: renewAt,
			}, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "1"}}}
			if tc.first != nil {
				tc.first(&l)
			}
			previous, planned := newPlanCache(l.now, l.policy, l.ca, 1), l.plan
			previous.store(l.plan, l.secret)
			if tc.then != nil {
				tc.then(&l)
			}
			name, sameService := previous.secretOf(web)
			got, sameSecret := previous.lookUp(l.now, web, l.secret)
			ok := sameService && sameSecret && newPlanCache(l.now, l.policy, l.ca, 1).isValidAfter(previous)
			if ok != tc.want {
				t.Errorf("known: %t, want %t", ok, tc.want)
			}
			if previous.countedAt != previous.countedAt.Round(0) {
				t.Error("a clock on the wall that goes back is not noticed")
			}
			if ok && (name != "web-tls" || got.Desired.Service != web || got.Desired.SecretName != name || got.Action != issuance.Keep || got.NotAfter != planned.NotAfter || got.RenewAt != planned.RenewAt) {
				t.Errorf("what is known is %v, want %v", got, planned)
			}
		})
	}
}
