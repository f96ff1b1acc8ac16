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
type Windows []span

type span struct {
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
		windows = append(windows, span{schedule, zone, spec.Duration.Std()})
	}
	return windows, nil
}

// Open tells whether a window is open.
func (w Windows) Open(now time.Time) bool {
	for _, one := range w {
		if one.open(now) {
			return true
		}
	}
	return len(w) == 0
}

// Next is when the next window begins; zero when none ever does.
func (w Windows) Next(now time.Time) time.Time {
	var next time.Time
	for _, one := range w {
		if begin := one.after(now); !begin.IsZero() && (next.IsZero() || begin.Before(next)) {
			next = begin
		}
	}
	return next
}

// The longest gap is looked for among so many windows that begin, and no longer than that ahead: there may be one each minute.
const (
	mostBegins = 500
	farAhead   = 5 * 366 * 24 * time.Hour
)

// LongestGap returns how long no window is open at most, once the first has opened: zero where one always is, and math.MaxInt64 where none ever
// opens again.
func (w Windows) LongestGap(now time.Time) time.Duration {
	if len(w) == 0 {
		return 0
	}
	next, gap, closes := make([]time.Time, len(w)), time.Duration(0), time.Time{}
	for i, one := range w {
		next[i] = one.schedule.Next(wallClock(now.In(one.zone)))
	}
	for range mostBegins {
		first := w.first(next)
		if first < 0 {
			break
		}
		begins := w[first].instant(next[first])
		if !closes.IsZero() {
			gap = max(gap, begins.Sub(closes))
		}
		if closes = later(closes, begins.Add(w[first].duration)); begins.Sub(now) > farAhead {
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
	for i, one := range w {
		if !next[i].IsZero() && (first < 0 || one.instant(next[i]).Before(w[first].instant(next[first]))) {
			first = i
		}
	}
	return first
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// open tells whether the window began less than its duration ago.
func (s span) open(now time.Time) bool {
	begin := s.after(now.Add(-s.duration))
	return !begin.IsZero() && !begin.After(now)
}

// leap is more than any zone leaps when summer time begins or ends.
const leap = 3 * time.Hour

// after is the first begin of the window later than a time. The clock on the wall leaps: a window that would begin in an hour that is left
// out begins all the same, and one that would begin in an hour that comes twice, begins once.
func (s span) after(now time.Time) time.Time {
	var first time.Time
	for wall := s.schedule.Next(wallClock(now.In(s.zone)).Add(-leap)); !wall.IsZero(); wall = s.schedule.Next(wall) {
		begin := s.instant(wall)
		if begin.After(now) && (first.IsZero() || begin.Before(first)) {
			first = begin
		}
		// Around a leap, the begins may be out of order.
		if !first.IsZero() && wall.Sub(wallClock(first.In(s.zone))) > leap {
			break
		}
	}
	return first
}

// instant is when the clock on the wall shows this for the first time or, where it leaps over it, when it would have.
func (s span) instant(wall time.Time) time.Time {
	_, before := wall.Add(-24 * time.Hour).In(s.zone).Zone()
	_, after := wall.Add(24 * time.Hour).In(s.zone).Zone()
	first, second := wall.Add(-time.Duration(before)*time.Second), wall.Add(-time.Duration(after)*time.Second)
	if !wallClock(first.In(s.zone)).Equal(wall) && wallClock(second.In(s.zone)).Equal(wall) {
		return second
	}
	return first
}

// wallClock is what the clock on the wall shows, as if that were UTC.
func wallClock(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}
