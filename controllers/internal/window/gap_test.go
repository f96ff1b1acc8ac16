package window_test

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
)

// LongestGap returns the longest time between two windows.
func TestLongestGap(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	both := append(one("0 2 * * 6", "4h", "UTC"), one("0 2 * * 3", "1h", "UTC")...)
	for name, tc := range map[string]struct {
		specs []v1alpha1.RestartWindow
		want  time.Duration
	}{
		"none":                        {nil, 0},
		"daily":                       {one("0 2 * * *", "4h", "UTC"), 20 * time.Hour},
		"weekly":                      {one("0 2 * * 6", "4h", "UTC"), 7*day - 4*time.Hour},
		"monthly, the longest month":  {one("0 2 1 * *", "4h", "UTC"), 31*day - 4*time.Hour},
		"the 31st, March to May":      {one("0 2 31 * *", "4h", "UTC"), 61*day - 4*time.Hour},
		"two of them":                 {both, 4*day - 4*time.Hour},
		"one within the other":        {append(one("0 2 * * *", "1h", "UTC"), one("0 1 * * *", "6h", "UTC")...), 18 * time.Hour},
		"longer than its period":      {one("0 * * * *", "2h", "UTC"), 0},
		"each minute, at night":       {one("* 2 * * *", "1m", "UTC"), 23 * time.Hour},
		"each minute, once a month":   {one("* * 1 * *", "1m", "UTC"), 30 * day},
		"leap years":                  {one("0 0 29 2 *", "24h", "UTC"), 1460 * day},
		"never":                       {one("0 0 31 2 *", "1h", "UTC"), math.MaxInt64},
		"never, and weekly":           {append(one("0 0 31 2 *", "1h", "UTC"), one("0 2 * * 6", "4h", "UTC")...), 7*day - 4*time.Hour},
		"weekly, an hour comes twice": {one("0 4 * * 6", "4h", "Europe/Zurich"), 7*day - 3*time.Hour},
		"daily, an hour comes twice":  {one("0 4 * * *", "4h", "America/New_York"), 21 * time.Hour},
		"daily, half an hour does":    {one("0 4 * * *", "4h", "Australia/Lord_Howe"), 20*time.Hour + 30*time.Minute},
		"daily, none does":            {one("0 4 * * *", "4h", "Asia/Tokyo"), 20 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := parse(t, tc.specs).LongestGap(at(t, "2026-07-27T17:30:00Z")); got != tc.want {
				t.Errorf("no window is open for %s, want %s", got, tc.want)
			}
		})
	}
}

// The windows are never closed for longer than LongestGap.
func TestNoGapIsLonger(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		zone := rapid.SampledFrom([]string{"UTC", "Europe/Zurich", "America/New_York", "Pacific/Chatham"}).Draw(rt, "zone")
		schedule := rapid.SampledFrom([]string{"0 2 * * *", "30 2 * * 0", "15 1,13 * * *", "45 23 1 * *", "*/7 3 * * 1-5"}).Draw(rt, "schedule")
		from := time.Unix(rapid.Int64Range(1_700_000_000, 2_500_000_000).Draw(rt, "now"), 0)
		windows := parse(rt, one(schedule, "20m", zone))
		gap := windows.LongestGap(from)
		begins := windows.Next(from)
		for range rapid.IntRange(1, 60).Draw(rt, "windows") {
			closes, next := begins.Add(20*time.Minute), windows.Next(begins)
			if next.Sub(closes) > gap {
				rt.Fatalf("%s: closed from %s to %s, longer than %s", schedule, closes, next, gap)
			}
			begins = next
		}
	})
}

func BenchmarkLongestGap(b *testing.B) {
	for name, schedule := range map[string]string{"minutely": "* * * * *", "daily": "0 2 * * *", "weekly": "0 2 * * 6", "yearly": "0 2 1 1 *"} {
		windows := parse(b, one(schedule, "20s", "Europe/Zurich"))
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				windows.LongestGap(time.Unix(1_700_000_000, 0))
			}
		})
	}
}
