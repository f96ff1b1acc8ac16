// Package window determines when a maintenance window is open.
package window

import (
	"fmt"
	"math"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Windows are the spans of time within which something may begin; none stands for any time.
type Windows []window

type window struct {
	schedule cron.Schedule
	zone     *time.Location
	duration time.Duration
}

// Parse parses the windows of a policy. The error names the field and the remedy.
func Parse(specs []v1alpha1.RestartWindow) (Windows, error) {
	var windows Windows
	for i, spec := range specs {
		field := fmt.Sprintf("spec.restart.windows[%d]", i)
		zone, err := time.LoadLocation(spec.TimeZone)
		if err != nil {
			return nil, fmt.Errorf("%s.timeZone: %w: give a name of the IANA database, such as UTC or Europe/Zurich", field, err)
		}
		// Only schedules of five fields are valid: no descriptors, seconds or time zones.
		parser := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)
		// The schedule is evaluated on the wall clock of the zone, represented as a time in UTC.
		schedule, err := parser.Parse("CRON_TZ=UTC " + spec.Schedule)
		if err != nil {
			return nil, fmt.Errorf("%s.schedule: %w: give five fields, such as 0 2 * * 6 for Saturdays at 2:00", field, err)
		}
		windows = append(windows, window{schedule, zone, spec.Duration.Std()})
	}
	return windows, nil
}

// Open reports whether a window is open.
func (w Windows) Open(now time.Time) bool {
	for _, w := range w {
		if w.isOpen(now) {
			return true
		}
	}
	return len(w) == 0
}

// Next returns when the next window begins; zero if none ever does.
func (w Windows) Next(now time.Time) time.Time {
	var next time.Time
	for _, w := range w {
		if start := w.nextStart(now); !start.IsZero() && (next.IsZero() || start.Before(next)) {
			next = start
		}
	}
	return next
}

// LongestGap considers at most maxStarts windows, and none that begins later than searchHorizon:
// there may be a window each minute. More begin in a day than there are minutes in it: a schedule such
// as "* * 1 * *" has its gap after 1440.
const (
	maxStarts     = 2000
	searchHorizon = 5 * 366 * 24 * time.Hour
)

// LongestGap returns for how long no window is open at most, once the first has opened: zero if one
// is always open, and math.MaxInt64 if none ever opens again.
func (w Windows) LongestGap(now time.Time) time.Duration {
	if len(w) == 0 {
		return 0
	}
	next, gap, closes := make([]time.Time, len(w)), time.Duration(0), time.Time{}
	for i, w := range w {
		next[i] = w.schedule.Next(wallClock(now.In(w.zone)))
	}
	for range maxStarts {
		first := w.first(next)
		if first < 0 {
			break
		}
		begins := w[first].instant(next[first])
		if !closes.IsZero() {
			gap = max(gap, begins.Sub(closes))
		}
		if closes = latest(closes, begins.Add(w[first].duration)); begins.Sub(now) > searchHorizon {
			return gap
		}
		next[first] = w[first].schedule.Next(next[first])
	}
	if w.first(next) < 0 {
		return math.MaxInt64
	}
	return gap
}

// first returns the index of the window that begins first; -1 if none does. next holds the next
// begin of each window on its wall clock.
func (w Windows) first(next []time.Time) int {
	first := -1
	for i, candidate := range w {
		if !next[i].IsZero() && (first < 0 || candidate.instant(next[i]).Before(w[first].instant(next[first]))) {
			first = i
		}
	}
	return first
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// isOpen reports whether the window began less than its duration ago.
func (w window) isOpen(now time.Time) bool {
	start := w.nextStart(now.Add(-w.duration))
	return !start.IsZero() && !start.After(now)
}

// maxDSTShift is more than the shift of any time zone at the begin or end of daylight saving time.
const maxDSTShift = 3 * time.Hour

// nextStart returns the first begin of the window after now; zero if there is none. When the wall
// clock shifts, a window that would begin in the skipped hour begins all the same, and one that
// would begin in the repeated hour begins once.
func (w window) nextStart(now time.Time) time.Time {
	var earliest time.Time
	for wall := w.schedule.Next(wallClock(now.In(w.zone)).Add(-maxDSTShift)); !wall.IsZero(); wall = w.schedule.Next(wall) {
		start := w.instant(wall)
		if start.After(now) && (earliest.IsZero() || start.Before(earliest)) {
			earliest = start
		}
		// Around a shift, the begins may be out of order.
		if !earliest.IsZero() && wall.Sub(wallClock(earliest.In(w.zone))) > maxDSTShift {
			break
		}
	}
	return earliest
}

// instant returns when the wall clock of the zone shows wall for the first time or, if it skips
// that time, when it would have shown it.
func (w window) instant(wall time.Time) time.Time {
	_, before := wall.Add(-24 * time.Hour).In(w.zone).Zone()
	_, after := wall.Add(24 * time.Hour).In(w.zone).Zone()
	earliest, second := wall.Add(-time.Duration(before)*time.Second), wall.Add(-time.Duration(after)*time.Second)
	if !wallClock(earliest.In(w.zone)).Equal(wall) && wallClock(second.In(w.zone)).Equal(wall) {
		return second
	}
	return earliest
}

// wallClock returns what the wall clock shows at t, as a time in UTC.
func wallClock(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}
