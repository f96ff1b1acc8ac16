package retry_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/servingcert/operator/controllers/internal/retry"
)

func in(namespace, name string) ctrl.Request {
	return ctrl.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}}
}

// Once requests hang for the objects of a namespace, that namespace gets half of the workers and
// other namespaces get the rest. Five minutes after the last request that hung, it gets all of them
// again.
func TestSlowNamespaceGetsHalfOfTheWorkers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const workers = 8
		var hanging atomic.Int32
		duration := 30 * time.Second
		r := retry.LimitSlowNamespaces(workers, reconcile.Func(func(_ context.Context, request ctrl.Request) (ctrl.Result, error) {
			if request.Namespace == "slow" {
				hanging.Add(1)
				time.Sleep(duration)
				hanging.Add(-1)
			}
			return ctrl.Result{RequeueAfter: time.Hour}, nil
		}))
		// begin reconciles as many objects at once as there are workers, and returns how many of
		// them hang.
		begin := func() int {
			for i := range workers {
				go func() { _, _ = r.Reconcile(t.Context(), in("slow", fmt.Sprint(i))) }()
				synctest.Wait()
			}
			return int(hanging.Load())
		}
		if got := begin(); got != workers {
			t.Errorf("at first %d of %d hang", got, workers)
		}
		time.Sleep(duration + time.Second)
		if got := begin(); got != workers/2 {
			t.Errorf("then %d of %d hang, want half", got, workers)
		}
		held, err := r.Reconcile(t.Context(), in("slow", "another"))
		if err != nil || held.RequeueAfter == 0 || held.RequeueAfter > time.Minute || held.Priority == nil || *held.Priority >= 0 {
			t.Errorf("one more is looked at again by %+v (%v)", held, err)
		}
		if done, err := r.Reconcile(t.Context(), in("other", "web")); err != nil || done.RequeueAfter != time.Hour {
			t.Errorf("one of another namespace is answered by %+v (%v)", done, err)
		}
		time.Sleep(duration + 5*time.Minute)
		duration = time.Second
		if got := begin(); got != workers {
			t.Errorf("after five minutes %d of %d are looked at", got, workers)
		}
		time.Sleep(time.Hour)
		if got := begin(); got != workers {
			t.Errorf("what takes a second is slow, too: %d of %d are looked at", got, workers)
		}
		time.Sleep(time.Hour)
	})
}
