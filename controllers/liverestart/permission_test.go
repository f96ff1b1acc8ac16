package liverestart_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
)

// Without the kustomize component nothing is restarted, and a policy that asks for restarts reports
// that. Once the component is installed, pending restarts are made without a restart of the
// operator. The other tests run after this one, because they need the component.
func TestPermission(t *testing.T) {
	r := newRealm(t, rolling(1))
	w := r.deployment("web", byVolume)
	r.run(w)
	before := r.pods("web")
	r.renew()
	eventually(t, func(ctx context.Context) error {
		if err := env.kube.Get(ctx, client.ObjectKeyFromObject(r.policy), r.policy); err != nil {
			return err
		}
		for _, condition := range r.policy.Status.Conditions {
			if condition.Type == v1alpha1.ConditionRestartHalted && condition.Status == metav1.ConditionTrue && condition.Reason == "NotPermitted" &&
				strings.Contains(condition.Message, "config/components/restarts") {
				return nil
			}
		}
		return fmt.Errorf("the policy does not say that it cannot be acted on: %+v", r.policy.Status.Conditions)
	})
	eventually(t, func(ctx context.Context) error {
		var events eventsv1.EventList
		if err := env.kube.List(ctx, &events); err != nil {
			return err
		}
		for _, event := range events.Items {
			if event.Regarding.Name == r.policy.Name && event.Reason == "NotPermitted" && event.Type == "Warning" {
				return nil
			}
		}
		return fmt.Errorf("no Event says that the policy cannot be acted on")
	})
	if err := testoperator.Allow(t.Context(), env.kube, operatorNamespace, "restarts"); err != nil {
		t.Fatal(err)
	}
	r.done()
	r.isRestarted(w, before, 1)
}
