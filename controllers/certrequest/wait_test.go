package certrequest

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/servingcert"
)

// now is far in the future, so that a stray time.Now() fails the test.
var now = time.Date(2071, time.March, 14, 15, 9, 26, 0, time.UTC)

func caReadySince(since time.Time, status metav1.ConditionStatus, message string) client.Object {
	ca := &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "boot"}}
	if status != "" {
		ca.Status.Conditions = []metav1.Condition{{
			Type: v1alpha1.ConditionReady, Status: status, Message: message, LastTransitionTime: metav1.NewTime(since),
		}}
	}
	return ca
}

func policyOf(ca string, created time.Time, extra ...string) client.Object {
	policy := &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: "of-" + ca, CreationTimestamp: metav1.NewTime(created)}}
	policy.Spec.ServiceCAName, policy.Spec.Certificate.ExtraDNSNames = ca, extra
	return policy
}

// A request that was made two hours ago waits while its ServiceCA or policy is missing, and one
// minute longer. It fails at once only if no object that may still be created could change the
// answer.
func TestNotGranted(t *testing.T) {
	t.Parallel()
	long, just := now.Add(-3*time.Hour), now.Add(-50*time.Second)
	ready := func(since time.Time) client.Object { return caReadySince(since, metav1.ConditionTrue, "") }
	for name, tc := range map[string]struct {
		objects []client.Object
		names   string
		final   bool
		message string
	}{
		"no ServiceCA":                       {nil, "web.shop.svc", false, "there is no ServiceCA boot: create it"},
		"no ServiceCA, for a name of nobody": {nil, "example.org", false, "there is no ServiceCA boot"},
		"a ServiceCA that nobody looked at":  {[]client.Object{caReadySince(now, "", "")}, "web.shop.svc", false, "ServiceCA boot is not ready yet"},
		"a ServiceCA that is not ready": {[]client.Object{caReadySince(long, metav1.ConditionFalse, "no Secret"), policyOf("boot", long)}, "web.shop.svc", false,
			"ServiceCA boot is not ready: no Secret"},
		"no policy":                         {[]client.Object{ready(long)}, "web.shop.svc", false, "no ServingCertPolicy names ServiceCA boot"},
		"a policy of another ServiceCA":     {[]client.Object{ready(long), policyOf("other", just)}, "web.shop.svc", false, "no ServingCertPolicy names ServiceCA boot"},
		"a ServiceCA that has become ready": {[]client.Object{ready(just), policyOf("boot", long)}, "web.shop.svc", false, "web.shop.svc"},
		"a policy that has come":            {[]client.Object{ready(long), policyOf("boot", just)}, "web.shop.svc", false, "web.shop.svc"},
		"nothing new for long":              {[]client.Object{ready(long), policyOf("boot", long)}, "web.shop.svc", true, "web.shop.svc"},
		"a name that no Service has":        {[]client.Object{ready(just), policyOf("boot", just)}, "example.org", true, "example.org"},
		"a name that a pattern may give":    {[]client.Object{ready(just), policyOf("boot", just, "$(service).org")}, "example.org", false, "example.org"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			scheme := runtime.NewScheme()
			if err := v1alpha1.AddToScheme(scheme); err != nil {
				t.Fatal(err)
			}
			s := Signer{
				View:  servingcert.View{Reader: fake.NewClientBuilder().WithScheme(scheme).WithObjects(tc.objects...).Build()},
				Clock: clocktesting.NewFakePassiveClock(now),
			}
			_, problem := issuance.Offers{}.Grant([]string{tc.names}, nil)
			refusal, err := s.NotGranted(t.Context(), problem, "boot", now.Add(-2*time.Hour), "shop", []string{tc.names})
			if err != nil {
				t.Fatal(err)
			}
			if refusal.Final != tc.final || !strings.Contains(refusal.Message, tc.message) {
				t.Errorf("final %t with %q, want %t with %q", refusal.Final, refusal.Message, tc.final, tc.message)
			}
		})
	}
}

// A request waits no longer than its kind allows, and the message has the deadline.
func TestBoundedBy(t *testing.T) {
	t.Parallel()
	waits, fails := pendingRefusal(issuance.NewProblem("Why", "that is missing")), Reject(issuance.NewProblem("Why", "that is wrong"))
	for name, tc := range map[string]struct {
		refusal *Refusal
		since   time.Duration
		maxWait time.Duration
		final   bool
		message string
	}{
		"a moment":      {waits, time.Minute, time.Hour, false, "that is missing; the request waits for this until 2071-03-14T16:08:26Z"},
		"too long":      {waits, time.Hour, time.Hour, true, "that is missing; the request has waited for this until 2071-03-14T15:09:26Z"},
		"without bound": {waits, 1000 * time.Hour, 0, false, "that is missing"},
		"final":         {fails, time.Minute, time.Hour, true, "that is wrong"},
	} {
		got := tc.refusal.boundedBy(now, now.Add(-tc.since), tc.maxWait)
		if got.Final != tc.final || got.Message != tc.message {
			t.Errorf("%s: final %t with %q", name, got.Final, got.Message)
		}
	}
}
