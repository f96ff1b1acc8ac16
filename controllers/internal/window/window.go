// Package window tells when a maintenance window is open.
package window

import (
	"fmt"
	"math"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Windows are the spans of time within which something may begin; none: at any time.
type Windows []window

type window struct {
	schedule cron.Schedule
	zone     *time.Location
	duration time.Duration
}

// Parse reads the windows of a policy. The error names the field, and says what to do.
func Parse(specs []v1alpha1.RestartWindow) (Windows, error) {
	var windows Windows
	for i, spec := range specs {
		field := fmt.Sprintf("spec.restart.windows[%d]", i)
		zone, err := time.LoadLocation(spec.TimeZone)
		if err != nil {
			return nil, fmt.Errorf("%s.timeZone: %w: give a name of the IANA database, such as UTC or Europe/Zurich", field, err)
		}
		// A schedule of five fields; descriptors, seconds and zones in it are refused.
		parser := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)
		// The schedule is read on the clock on the wall, which UTC stands for.
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

// Next is when the next window begins; zero when none ever does.
func (w Windows) Next(now time.Time) time.Time {
	var next time.Time
	for _, w := range w {
		if start := w.nextStart(now); !start.IsZero() && (next.IsZero() || start.Before(next)) {
			next = start
		}
	}
	return next
}

// The longest gap is looked for among so many windows that begin, and no longer than that ahead: there may be one each minute.
const (
	maxStarts     = 500
	searchHorizon = 5 * 366 * 24 * time.Hour
)

// LongestGap returns how long no window is open at most, once the first has opened: zero where one always is, and math.MaxInt64 where none ever
// opens again.
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

// first returns which window begins first at one of these times on its wall clock; -1 where none does.
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

// maxDSTShift is more than any zone leaps when summer time begins or ends.
const maxDSTShift = 3 * time.Hour

// nextStart is the first begin of the window later than a time. The clock on the wall leaps: a window that would begin in an hour that is left
// out begins all the same, and one that would begin in an hour that comes twice, begins once.
func (w window) nextStart(now time.Time) time.Time {
	var earliest time.Time
	for wall := w.schedule.Next(wallClock(now.In(w.zone)).Add(-maxDSTShift)); !wall.IsZero(); wall = w.schedule.Next(wall) {
		start := w.instant(wall)
		if start.After(now) && (earliest.IsZero() || start.Before(earliest)) {
			earliest = start
		}
		// Around a leap, the begins may be out of order.
		if !earliest.IsZero() && wall.Sub(wallClock(earliest.In(w.zone))) > maxDSTShift {
			break
		}
	}
	return earliest
}

// instant is when the clock on the wall shows this for the first time or, where it leaps over it, when it would have.
func (w window) instant(wall time.Time) time.Time {
	_, before := wall.Add(-24 * time.Hour).In(w.zone).Zone()
	_, after := wall.Add(24 * time.Hour).In(w.zone).Zone()
	earliest, second := wall.Add(-time.Duration(before)*time.Second), wall.Add(-time.Duration(after)*time.Second)
	if !wallClock(earliest.In(w.zone)).Equal(wall) && wallClock(second.In(w.zone)).Equal(wall) {
		return second
	}
	return earliest
}

// wallClock is what the clock on the wall shows, as if that were UTC.
func wallClock(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}
