package servingcert

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/servingcert/operator/controllers/internal/issuance"
)

// Who has no certificate, or one that is about to end, comes before those whose certificate would do for a while.
func TestLine(t *testing.T) {
	t.Parallel()
	l, queue := &Line{open: make(chan struct{})}, priorityqueue.New[reconcile.Request]("line")
	t.Cleanup(queue.ShutDown)
	if err := l.start(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	there := issuance.Plan{NotAfter: time.Unix(1<<40, 0)}
	renewal := there
	renewal.Renewal = true
	for _, asked := range []struct {
		name string
		plan issuance.Plan
	}{{"reissued", there}, {"reissued, too", there}, {"new", issuance.Plan{}}, {"renewed", renewal}} {
		if err := l.add(t.Context(), types.NamespacedName{Name: asked.name}, asked.plan); err != nil {
			t.Fatal(err)
		}
	}
	var order []string
	for range 4 {
		request, _ := queue.Get()
		order = append(order, request.Name)
	}
	if want := []string{"new", "renewed", "reissued", "reissued, too"}; !slices.Equal(order, want) {
		t.Errorf("the order is %q, want %q", order, want)
	}
}

// Before the line is open who comes waits for that, but not for ever; and without priorities it does not open.
func TestLineNotOpen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &Line{open: make(chan struct{})}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		plain := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
		defer plain.ShutDown()
		if l.start(ctx, plain) == nil {
			t.Error("it opened")
		}
		if err := l.add(ctx, types.NamespacedName{Name: "web"}, issuance.Plan{}); err == nil || ctx.Err() == nil {
			t.Errorf("it came in: %v", err)
		}
	})
}
