package wallclock

import (
	"context"
	"testing"
	"time"

	"k8s.io/client-go/util/workqueue"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Every controller is triggered once for each jump of the wall clock in either direction, and for
// many small jumps that add up; it is never triggered by the normal passing of time.
func TestWatcher(t *testing.T) {
	t.Parallel()
	wall := clocktesting.NewFakePassiveClock(time.Date(2071, time.March, 14, 15, 9, 26, 0, time.UTC))
	running := time.Duration(0)
	start := wall.Now()
	w := &Watcher{skew: func() time.Duration { return wall.Now().Sub(start) - running }}
	checks := map[string]int{}
	for _, controller := range []string{"services", "cas"} {
		look := func(context.Context, workqueue.TypedRateLimitingInterface[reconcile.Request]) { checks[controller]++ }
		if err := w.Source(look).Start(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name       string
		wall, runs time.Duration
		want       int
	}{
		{"the clock goes", interval, interval, 0},
		{"a small correction", interval + tolerance/2, interval, 0},
		{"the clock goes for long", 10 * time.Hour, 10 * time.Hour, 0},
		{"a night's sleep", 8*time.Hour + interval, interval, 1},
		{"the clock goes on", interval, interval, 1},
		{"another small correction", interval + tolerance, interval, 1},
		{"which adds up", interval + time.Second, interval, 2},
		{"the clock is set back", interval - time.Hour, interval, 3},
		{"the clock goes after that", interval, interval, 3},
	} {
		wall.SetTime(wall.Now().Add(step.wall))
		running += step.runs
		w.check(t.Context())
		if checks["services"] != step.want || checks["cas"] != step.want {
			t.Errorf("%s: the controllers looked %v times again, want %d", step.name, checks, step.want)
		}
	}
}

// The real clocks do not drift apart. A wall clock that jumps is noticed even if its times have a
// monotonic reading.
func TestSkew(t *testing.T) {
	t.Parallel()
	wall := clocktesting.NewFakePassiveClock(time.Now())
	w := NewWatcher(wall)
	wall.SetTime(time.Now())
	if skew := w.skew(); skew.Abs() > tolerance {
		t.Errorf("the skew is %s, want next to none", skew)
	}
	wall.SetTime(time.Now().Add(time.Hour))
	if skew := w.skew() - time.Hour; skew.Abs() > tolerance {
		t.Errorf("the skew is %s from an hour", skew)
	}
}
