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

// looked is a count that finds one Service whose certificate stays.
type looked struct {
	now    time.Time
	policy *v1alpha1.ServingCertPolicy
	ca     *keyring.CA
	plan   issuance.Plan
	secret *corev1.Secret
}

// What was found out is found out again while nothing of it has changed, and only then.
func TestMemory(t *testing.T) {
	t.Parallel()
	renewAt, notAfter := now.Add(time.Hour), now.Add(2*time.Hour)
	for name, tc := range map[string]struct {
		first, then func(*looked)
		want        bool
	}{
		"nothing has changed":            {want: true},
		"a moment before it is renewed":  {then: func(l *looked) { l.now = renewAt.Add(-1) }, want: true},
		"it is to be renewed":            {then: func(l *looked) { l.now = renewAt }},
		"it ends, and is not renewed":    {first: func(l *looked) { l.plan.RenewAt = time.Time{} }, then: func(l *looked) { l.now = notAfter }},
		"it is not renewed":              {first: func(l *looked) { l.plan.RenewAt = time.Time{} }, then: func(l *looked) { l.now = notAfter.Add(-1) }, want: true},
		"the clock went back":            {then: func(l *looked) { l.now = now.Add(-1) }},
		"the clock of a process":         {first: func(l *looked) { l.now = time.Now() }, then: func(l *looked) { l.now = now }, want: true},
		"the Service was written":        {then: func(l *looked) { l.plan.Want.Service.ResourceVersion = "2" }},
		"the Service is another":         {then: func(l *looked) { l.plan.Want.Service.UID = "other" }},
		"the Secret was written":         {then: func(l *looked) { l.secret.ResourceVersion = "2" }},
		"the Secret is gone":             {then: func(l *looked) { l.secret = nil }},
		"the policy asks for other":      {then: func(l *looked) { l.policy.Generation++ }},
		"the policy is another":          {then: func(l *looked) { l.policy.UID = "other" }},
		"the CA is another":              {then: func(l *looked) { l.ca = &keyring.CA{} }},
		"there was something to be done": {first: func(l *looked) { l.plan.Action = issuance.Issue }},
		"something stood in the way":     {first: func(l *looked) { l.plan.Obstacle = obstacle() }},
		"there was no Secret":            {first: func(l *looked) { l.secret = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			web := service("shop", "web", "")
			web.UID, web.ResourceVersion = "web", "1"
			l := looked{now, newPolicy(), &keyring.CA{}, issuance.Plan{
				Want: issuance.Want{Target: issuance.Target{Service: web, SecretName: "web-tls"}}, Action: issuance.Keep, NotAfter: notAfter, RenewAt: renewAt,
			}, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{ResourceVersion: "1"}}}
			if tc.first != nil {
				tc.first(&l)
			}
			before, planned := newMemory(l.now, l.policy, l.ca, 1), l.plan
			before.note(l.plan, l.secret)
			if tc.then != nil {
				tc.then(&l)
			}
			name, sameService := before.secretOf(web)
			got, sameSecret := before.recall(l.now, web, l.secret)
			known := sameService && sameSecret && newMemory(l.now, l.policy, l.ca, 1).holds(before)
			if known != tc.want {
				t.Errorf("known: %t, want %t", known, tc.want)
			}
			if before.asOf != before.asOf.Round(0) {
				t.Error("a clock on the wall that goes back is not noticed")
			}
			if known && (name != "web-tls" || got.Want.Service != web || got.Want.SecretName != name || got.Action != issuance.Keep || got.NotAfter != planned.NotAfter || got.RenewAt != planned.RenewAt) {
				t.Errorf("what is known is %v, want %v", got, planned)
			}
		})
	}
}
