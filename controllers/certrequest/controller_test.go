package certrequest

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"
)

// A Service whose selector changes is reconciled, and one whose status changes is not.
func TestServiceChanged(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*corev1.Service)
		want   bool
	}{
		"nothing":  {func(*corev1.Service) {}, false},
		"status":   {func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = make([]corev1.LoadBalancerIngress, 1) }, false},
		"selector": {func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "web"} }, true},
		"labels":   {func(s *corev1.Service) { s.Labels = map[string]string{"app": "web"} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := &corev1.Service{Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "api"}}}
			after := before.DeepCopy()
			tc.change(after)
			if got := serviceChanged().Update(event.UpdateEvent{ObjectOld: before, ObjectNew: after}); got != tc.want {
				t.Errorf("it is looked at: %t, want %t", got, tc.want)
			}
		})
	}
}
