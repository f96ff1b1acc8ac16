// Package conflict detects other writers that keep undoing the operator's writes to an object and
// backs off. It also tracks objects whose requests keep failing, so that rotations do not wait for
// objects that cannot be updated. All of it is kept in memory only; after a restart, conflicts and
// failures are detected again.
package conflict

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"

	"github.com/servingcert/operator/controllers/internal/apply"
)

const (
	// burst is how often the same content may be written to one object in close succession, for
	// example because of its annotations, another data key, or a manual change.
	burst = 5
	// backoff is how long the operator leaves an object alone after a burst, while another writer
	// keeps undoing its writes.
	backoff = 30 * time.Second
	// resolvedAfter is how long after the last write a conflict is resolved: the write after a
	// pause was not undone.
	resolvedAfter = 2 * backoff
)

// Tracker tracks writes and failures for the objects of one kind. The zero value is ready to use.
type Tracker struct {
	mu     sync.Mutex
	writes map[types.NamespacedName]writeHistory
	// lastSweep is when expired histories were last removed.
	lastSweep time.Time
	// unreportable holds the objects whose owner keeps the operator from writing the report of a
	// problem.
	unreportable map[types.NamespacedName]bool
	// failures holds the objects whose requests fail, and events limits the Events about them.
	failures map[types.NamespacedName]failure
	events   *rate.Limiter
}

// writeHistory counts the writes to one object, each within backoff of the one before.
type writeHistory struct {
	count     int
	lastWrite time.Time
	// contents holds the different contents that were written.
	contents []string
	// contested is true if a burst of writes was undone or met with conflicts, and reported is true
	// once that was reported to users.
	contested, reported bool
	// otherWriter describes the other writer for the report.
	otherWriter string
}

// retention returns how long a history is kept after the last write. A contested one is kept
// longer, so that a reconciliation after resolvedAfter still observes that the conflict is
// resolved.
func (h writeHistory) retention() time.Duration {
	if h.contested {
		return 2 * resolvedAfter
	}
	return backoff
}

// RecordWrite counts a write that succeeded, or that failed with err because of a conflict or
// because the API server rejected it. Other API server errors are not counted. The count starts
// again with each new content, because a CA that rotates causes those.
func (t *Tracker) RecordWrite(key types.NamespacedName, content string, now time.Time, err error) {
	if err != nil && !apply.IsRejected(err) && !apply.IsConflict(err) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep(now)
	s := t.writes[key]
	switch since := now.Sub(s.lastWrite); {
	case s.contested && since < resolvedAfter && since >= backoff:
		s.count, s.contents = 0, nil
	case since >= backoff:
		s = writeHistory{}
	}
	if !slices.Contains(s.contents, content) {
		s.count, s.contents = 0, append(s.contents, content)
	}
	s.count++
	s.lastWrite = now
	s.contested = s.contested || (s.count >= burst && !apply.IsRejected(err))
	t.writes[key] = s
}

// sweep removes expired histories, at most once per backoff, because ten thousand objects may be
// written in a few seconds.
func (t *Tracker) sweep(now time.Time) {
	if t.writes != nil && (len(t.writes) == 0 || now.Sub(t.lastSweep) < backoff) {
		return
	}
	before := t.writes
	t.writes, t.lastSweep = map[types.NamespacedName]writeHistory{}, now
	for key, s := range before {
		if now.Sub(s.lastWrite) < s.retention() {
			t.writes[key] = s
		}
	}
}

// RetryAfter returns how long to leave an object alone; 0 if it may be written now.
func (t *Tracker) RetryAfter(key types.NamespacedName, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.retryAfter(key, now)
}

func (t *Tracker) retryAfter(key types.NamespacedName, now time.Time) time.Duration {
	t.sweep(now)
	s := t.writes[key]
	if s.count < burst {
		return 0
	}
	return max(0, backoff-now.Sub(s.lastWrite))
}

// ContestedFor returns for how long an object still counts as contested unless it is written again;
// 0 if it is not contested.
func (t *Tracker) ContestedFor(key types.NamespacedName, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.contestedFor(key, now)
}

func (t *Tracker) contestedFor(key types.NamespacedName, now time.Time) time.Duration {
	s := t.writes[key]
	if !s.contested {
		return 0
	}
	return max(0, resolvedAfter-now.Sub(s.lastWrite))
}

// SetOtherWriter records, for the report, which writer undid the last write of an object. It must
// be called with what was read before the object is written again. An empty otherWriter is ignored.
func (t *Tracker) SetOtherWriter(key types.NamespacedName, otherWriter string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok := t.writes[key]; ok && otherWriter != "" {
		s.otherWriter = otherWriter
		t.writes[key] = s
	}
}

// NextWriteEndsBurst reports whether the next write of an object is the last of a burst.
func (t *Tracker) NextWriteEndsBurst(key types.NamespacedName) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.writes[key].count == burst-1
}

// ReportOtherWriter returns a description of the writer that keeps overwriting an object. report is
// true on the first call for each conflict, when an Event has to be recorded.
func (t *Tracker) ReportOtherWriter(key types.NamespacedName) (otherWriter string, report bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.writes[key]
	report = s.contested && !s.reported
	if report {
		s.reported = true
		t.writes[key] = s
	}
	return cmp.Or(s.otherWriter, "a client or an admission webhook"), report
}

// Resolved reports whether a conflict over an object is resolved, and forgets it, so that this is
// reported only once.
func (t *Tracker) Resolved(key types.NamespacedName, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	resolved := t.writes[key].contested && t.contestedFor(key, now) == 0
	if resolved {
		delete(t.writes, key)
	}
	return resolved
}

// Forget removes the history of an object that is no longer written.
func (t *Tracker) Forget(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.writes, key)
}

// SetReportable records whether problems of an object can be written on the object.
func (t *Tracker) SetReportable(key types.NamespacedName, reportable bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case reportable:
		delete(t.unreportable, key)
	case t.unreportable == nil:
		t.unreportable = map[types.NamespacedName]bool{key: true}
	default:
		t.unreportable[key] = true
	}
}

// Unresolvable reports whether rotations must not wait for an object: it is contested, problems
// cannot be reported on it, or its requests have failed for longer than failureGracePeriod.
func (t *Tracker) Unresolvable(key types.NamespacedName, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unreportable[key] || t.retryAfter(key, now) > 0 || t.contestedFor(key, now) > 0 || t.failedTooLong(key, now)
}
