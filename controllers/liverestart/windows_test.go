package liverestart_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// isLate waits until the condition RestartTooLate of the policy has the reason, and a message that
// begins with message.
func (r *realm) isLate(reason, message string) {
	r.Helper()
	eventually(r.T, func(ctx context.Context) error {
		if err := env.kube.Get(ctx, client.ObjectKeyFromObject(r.policy), r.policy); err != nil {
			return err
		}
		said := meta.FindStatusCondition(r.policy.Status.Conditions, v1alpha1.ConditionRestartTooLate)
		if said == nil || said.Reason != reason || !strings.HasPrefix(said.Message, message) {
			return fmt.Errorf("the policy says %+v, want %s: %s", said, reason, message)
		}
		return nil
	})
}

// A server that holds a certificate which expires before the next window is restarted outside the
// windows. If the policy forbids that, it reports what expires and when. Windows that are too rare
// are reported before anything expires.
func TestOutsideWindows(t *testing.T) {
	t.Parallel()
	opens := time.Now().UTC().Add(12 * time.Hour).Truncate(time.Minute)
	closed := func(outside v1alpha1.RestartOutsideWindows) v1alpha1.Restart {
		restart := rolling(1)
		restart.OutsideWindows = outside
		restart.Windows = []v1alpha1.RestartWindow{{Schedule: fmt.Sprintf("%d %d * * *", opens.Minute(), opens.Hour()), Duration: "1h"}}
		return restart
	}
	exempt, strict := newRealm(t, closed(v1alpha1.RestartOutsideWhenExpiring), "exempt"), newRealm(t, closed(v1alpha1.RestartOutsideNever), "strict")
	restarted, waiting := exempt.deployment("web", bySubPath), strict.deployment("web", bySubPath)
	for _, r := range []*realm{exempt, strict} {
		r.isLate("InTime", "")
		edit(t, r.policy, func(p *v1alpha1.ServingCertPolicy) { p.Spec.Certificate.Duration = "3h" })
		r.renew()
	}
	exempt.isLate("RestartsOutsideWindows", "spec.restart.windows are closed for up to 23h, and a certificate ends 1h after its renewal is due")
	strict.isLate("WindowsTooRare", "spec.restart.windows are closed for up to 23h, and a certificate ends 1h after its renewal is due")
	exempt.run(restarted)
	strict.run(waiting)
	before := exempt.pods("web")
	for _, r := range []*realm{exempt, strict} {
		r.renew()
	}
	exempt.done()
	exempt.isRestarted(restarted, before, 1)
	var secret corev1.Secret
	if err := env.kube.Get(t.Context(), client.ObjectKey{Namespace: strict.name, Name: secretName}, &secret); err != nil {
		t.Fatal(err)
	}
	strict.isLate("ExpiresBeforeWindow", fmt.Sprintf("the next window opens %s, after the certificate that Deployment %s/web holds ends (",
		opens.Format(time.RFC3339), strict.name))
	message := meta.FindStatusCondition(strict.policy.Status.Conditions, v1alpha1.ConditionRestartTooLate).Message
	if !slices.ContainsFunc(issuance.ReplacedIn(&secret), func(one issuance.Replaced) bool {
		return strings.Contains(message, " ends ("+one.NotAfter.Format(time.RFC3339)+"): ")
	}) {
		t.Errorf("it says %q, and the Secret had %v", message, issuance.ReplacedIn(&secret))
	}
	if strict.rollouts(waiting) != 0 {
		t.Error("it was restarted outside the windows")
	}
}
