package debounce

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

type fixture struct {
	*Debouncer
	clock *clocktesting.FakeClock
	queue queue
}

func newFixture(t *testing.T) fixture {
	t.Helper()
	// The time is far in the future, so that a stray time.Now() makes a test fail.
	clock := clocktesting.NewFakeClock(time.Date(2071, time.March, 14, 15, 9, 26, 0, time.UTC))
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	t.Cleanup(queue.ShutDown)
	return fixture{&Debouncer{clock: clock}, clock, queue}
}

// change sends an update event of an object with this name, whose request has the same name.
func (f fixture) change(name string) {
	made := f.Handler(func(object client.Object) (reconcile.Request, bool) {
		return reconcile.Request{NamespacedName: client.ObjectKeyFromObject(object)}, object.GetName() != "nothing"
	})
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	made.Update(context.Background(), event.UpdateEvent{ObjectOld: object, ObjectNew: object}, f.queue)
}

// requests returns how many requests were made since the last call.
func (f fixture) requests() int {
	made := f.queue.Len()
	for range made {
		request, _ := f.queue.Get()
		f.queue.Done(request)
	}
	return made
}

// A request is made once no further event has arrived for quietPeriod, and only once.
func TestQuietPeriod(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.change("one")
	s.clock.Step(quietPeriod - 1)
	if made := s.requests(); made != 0 {
		t.Errorf("%d requests before it is calm", made)
	}
	s.change("one")
	s.change("other")
	s.change("nothing")
	s.clock.Step(quietPeriod - 1)
	if made := s.requests(); made != 0 {
		t.Errorf("%d requests although another change has followed", made)
	}
	s.clock.Step(1)
	if made := s.requests(); made != 2 {
		t.Errorf("%d requests when it is calm, want one of each", made)
	}
	s.clock.Step(time.Hour)
	if made := s.requests(); made != 0 {
		t.Errorf("%d requests for nothing", made)
	}
}

// While events do not stop, requests are still made: more often the faster counting is, and at
// least every ten seconds.
func TestMaxDelay(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		took []time.Duration
		want int
	}{
		{"at the start", nil, 6},
		{"in no time", []time.Duration{0}, 60},
		{"soon", []time.Duration{10 * time.Millisecond}, 60},
		{"later", []time.Duration{50 * time.Millisecond}, 12},
		{"late", []time.Duration{time.Minute}, 6},
		{"the last counts", []time.Duration{time.Minute, 0}, 60},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t)
			for _, took := range tc.took {
				s.RecordDuration(took)
			}
			made := 0
			for range 600 {
				s.change("one")
				s.clock.Step(100 * time.Millisecond)
				made += s.requests()
			}
			if off := made - tc.want; off < -tc.want/6 || off > 0 {
				t.Errorf("%d requests in a minute, want %d", made, tc.want)
			}
		})
	}
}
