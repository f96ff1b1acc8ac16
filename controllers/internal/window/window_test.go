package window_test

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/window"
)

func one(schedule, duration, zone string) []v1alpha1.RestartWindow {
	return []v1alpha1.RestartWindow{{Schedule: schedule, Duration: v1alpha1.Duration(duration), TimeZone: zone}}
}

func parse(t interface {
	Helper()
	Fatal(...any)
}, specs []v1alpha1.RestartWindow,
) window.Windows {
	t.Helper()
	windows, err := window.Parse(specs)
	if err != nil {
		t.Fatal(err)
	}
	return windows
}

func at(t *testing.T, moment string) time.Time {
	t.Helper()
	parsed, err := time.Parse(time.RFC3339, moment)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// A window is open from its begin for its whole duration; Next returns when a window opens next.
func TestWindow(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		specs []v1alpha1.RestartWindow
		now   string
		open  bool
		next  string
	}{
		"before":                  {one("0 2 * * 6", "4h", "UTC"), "2026-11-28T01:59:59Z", false, "2026-11-28T02:00:00Z"},
		"at the begin":            {one("0 2 * * 6", "4h", "UTC"), "2026-11-28T02:00:00Z", true, "2026-12-05T02:00:00Z"},
		"shortly before its end":  {one("0 2 * * 6", "4h", "UTC"), "2026-11-28T05:59:59Z", true, "2026-12-05T02:00:00Z"},
		"at the end":              {one("0 2 * * 6", "4h", "UTC"), "2026-11-28T06:00:00Z", false, "2026-12-05T02:00:00Z"},
		"over midnight":           {one("0 23 * * *", "2h", "UTC"), "2026-11-28T00:30:00Z", true, "2026-11-28T23:00:00Z"},
		"longer than its period":  {one("0 * * * *", "2h", "UTC"), "2026-11-28T00:30:00Z", true, "2026-11-28T01:00:00Z"},
		"another zone":            {one("0 2 * * *", "1h", "Asia/Tokyo"), "2026-11-27T17:30:00Z", true, "2026-11-28T17:00:00Z"},
		"never":                   {one("0 0 31 2 *", "1h", "UTC"), "2026-11-27T17:30:00Z", false, ""},
		"none at all":             {nil, "2026-11-27T17:30:00Z", true, ""},
		"the sooner of two":       {append(one("0 9 * * *", "1h", "UTC"), one("0 7 * * *", "1h", "UTC")...), "2026-11-27T06:00:00Z", false, "2026-11-27T07:00:00Z"},
		"either of two":           {append(one("0 9 * * *", "1h", "UTC"), one("0 7 * * *", "1h", "UTC")...), "2026-11-27T09:30:00Z", true, "2026-11-28T07:00:00Z"},
		"years long, each minute": {one("* * * * *", "99999h", "UTC"), "2026-11-27T09:30:30Z", true, "2026-11-27T09:31:00Z"},
		// On the last Sunday of March, the clock shifts from 2:00 to 3:00: a window at 2:30 opens
		// all the same, within the hour.
		"left out hour, before": {one("30 2 * * 0", "1h", "Europe/Zurich"), "2026-03-29T00:29:59Z", false, "2026-03-29T01:30:00Z"},
		"left out hour, within": {one("30 2 * * 0", "1h", "Europe/Zurich"), "2026-03-29T01:45:00Z", true, "2026-04-05T00:30:00Z"},
		"left out in New York":  {one("30 2 * * *", "1h", "America/New_York"), "2026-03-08T07:45:00Z", true, "2026-03-09T06:30:00Z"},
		// On the last Sunday of October, 2:30 occurs twice: the window opens once.
		"repeated hour, the first time":  {one("30 2 * * 0", "30m", "Europe/Zurich"), "2026-10-25T00:45:00Z", true, "2026-11-01T01:30:00Z"},
		"repeated hour, the second time": {one("30 2 * * 0", "30m", "Europe/Zurich"), "2026-10-25T01:45:00Z", false, "2026-11-01T01:30:00Z"},
		// The duration is in real time, whatever the clock shows.
		"four hours, with one twice": {one("0 0 25 10 *", "4h", "Europe/Zurich"), "2026-10-25T01:59:00Z", true, "2027-10-24T22:00:00Z"},
		"half an hour's leap":        {one("15 2 * * *", "1h", "Australia/Lord_Howe"), "2026-10-03T15:50:00Z", true, "2026-10-04T15:15:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			windows, now := parse(t, tc.specs), at(t, tc.now)
			if got := windows.Open(now); got != tc.open {
				t.Errorf("open: %t, want %t", got, tc.open)
			}
			next := ""
			if got := windows.Next(now); !got.IsZero() {
				next = got.UTC().Format(time.RFC3339)
			}
			if next != tc.next {
				t.Errorf("it opens next at %q, want %q", next, tc.next)
			}
		})
	}
}

func TestParseNamesTheField(t *testing.T) {
	t.Parallel()
	for want, specs := range map[string][]v1alpha1.RestartWindow{
		"spec.restart.windows[0].timeZone: unknown time zone Europe/Atlantis": one("0 2 * * *", "1h", "Europe/Atlantis"),
		"spec.restart.windows[0].schedule: ":                                  one("0 25 * * *", "1h", "UTC"),
		"spec.restart.windows[1].schedule: ":                                  append(one("0 2 * * *", "1h", "UTC"), one("* * * * 8", "1h", "UTC")...),
	} {
		if _, err := window.Parse(specs); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("the error is %v, want %s", err, want)
		}
	}
	for _, schedule := range []string{"@daily", "0 0 2 * * *", "TZ=UTC 0 2 * * *", "CRON_TZ=UTC 0 2 * * *", ""} {
		if _, err := window.Parse(one(schedule, "1h", "UTC")); err == nil {
			t.Errorf("%q is taken for a schedule", schedule)
		}
	}
}

// At the time that Next returns a window is open, and before that none opens.
func TestNextIsOpen(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		zone := rapid.SampledFrom([]string{"UTC", "Europe/Zurich", "America/New_York", "Australia/Lord_Howe", "Pacific/Chatham"}).Draw(rt, "zone")
		schedule := rapid.SampledFrom([]string{"0 2 * * *", "30 2 * * 0", "15 1,13 * * *", "45 23 1 * *", "0 0 29 2 *", "*/7 3 * * 1-5"}).Draw(rt, "schedule")
		now := time.Unix(rapid.Int64Range(1_700_000_000, 2_500_000_000).Draw(rt, "now"), 0)
		windows := parse(rt, one(schedule, "20m", zone))
		next := windows.Next(now)
		if !next.After(now) || !windows.Open(next) || !windows.Open(next.Add(20*time.Minute-1)) {
			rt.Fatalf("%s: at %s it says that it opens at %s, where it is open: %t", schedule, now.UTC(), next.UTC(), windows.Open(next))
		}
		for at := now; at.Before(next) && at.Before(now.Add(2*time.Hour)); at = at.Add(time.Minute) {
			if windows.Open(at) && !windows.Open(now) && at.Sub(now) >= 20*time.Minute {
				rt.Fatalf("it opened at %s, before the %s that it said", at.UTC(), next.UTC())
			}
		}
	})
}
