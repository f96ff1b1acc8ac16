package servingcert

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// A Service is requeued for times before the next resync; later times are left to the resync.
func TestRequeue(t *testing.T) {
	t.Parallel()
	for requeueAfter, want := range map[time.Duration]time.Duration{
		0: 0, time.Second: time.Second, ResyncPeriod: ResyncPeriod, ResyncPeriod + time.Hour: ResyncPeriod + time.Hour, 2 * ResyncPeriod: 0, 1440 * time.Hour: 0,
	} {
		if got := requeue(requeueAfter).RequeueAfter; got != want {
			t.Errorf("in %s: it is waited for %s, want %s", requeueAfter, got, want)
		}
	}
}

// Every Service is enqueued each ResyncPeriod, for as long as the controller runs.
func TestResyncPeriod(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &Reconciler{View: View{Reader: fake.NewClientBuilder().WithObjects(
			&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}},
		).Build()}}
		queue := priorityqueue.New[reconcile.Request]("test")
		defer queue.ShutDown()
		if err := r.resyncPeriodically(t.Context(), queue); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for round := 1; round <= 3; round++ {
			request, _ := queue.Get()
			if since := time.Since(start); request.Name != "web" || since < ResyncPeriod*time.Duration(round) || since > ResyncPeriod*time.Duration(round)+time.Minute {
				t.Errorf("in round %d %s is asked for after %s", round, request, since)
			}
			queue.Done(request)
		}
	})
}
