package servingcert

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"
)

// What comes before the next resync is waited for; what comes after it is left to that, which passes.
func TestNear(t *testing.T) {
	t.Parallel()
	for again, want := range map[time.Duration]time.Duration{
		0: 0, time.Second: time.Second, Resync: Resync, Resync * 11 / 10: Resync * 11 / 10, 2 * Resync: 0, 1440 * time.Hour: 0,
	} {
		if got := near(again); got != want {
			t.Errorf("in %s: it is waited for %s, want %s", again, got, want)
		}
	}
	service := func(version, status string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", ResourceVersion: version}, Status: corev1.ServiceStatus{
			LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{Hostname: status}}},
		}}
	}
	if !resynced().Update(event.UpdateEvent{ObjectOld: service("1", ""), ObjectNew: service("1", "")}) {
		t.Error("a resync does not pass")
	}
	if resynced().Update(event.UpdateEvent{ObjectOld: service("1", ""), ObjectNew: service("2", "changed")}) {
		t.Error("a change that decides nothing passes")
	}
}
