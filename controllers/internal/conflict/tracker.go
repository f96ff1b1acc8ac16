// Package conflict keeps us from fighting over an object, and from waiting for one that nobody can help. It is forgotten with the process, and
// nothing is lost by that but patience.
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
	// burst is how often one object may closely be given what it was given before: the annotation, another key, a hand.
	burst = 5
	// backoff is how long somebody who keeps undoing our writes is left alone after a burst.
	backoff = 30 * time.Second
	// resolvedAfter is after how long without another write a fight is over: the one after a pause was not undone.
	resolvedAfter = 2 * backoff
)

// Tracker is that of the objects of one kind. The zero value is ready to use.
type Tracker struct {
	mu     sync.Mutex
	writes map[types.NamespacedName]writeHistory
	// lastSweep is when what was long past was last forgotten.
	lastSweep time.Time
	// unreportable are the objects that would not be told what stands in the way.
	unreportable map[types.NamespacedName]bool
	// failures are the objects about which requests fail, and events bounds what is recorded of them.
	failures map[types.NamespacedName]failure
	events   *rate.Limiter
}

// writeHistory is a number of writes, each within calm of the one before.
type writeHistory struct {
	count     int
	lastWrite time.Time
	// contents is what was written.
	contents []string
	// contested reports whether a burst of writes was undone or overtaken, and reported whether people were told.
	contested, reported bool
	// otherWriter is who did it, for a person.
	otherWriter string
}

// retention is for how long a series is remembered: of a fight until somebody has looked after it was over.
func (h writeHistory) retention() time.Duration {
	if h.contested {
		return 2 * resolvedAfter
	}
	return backoff
}

// RecordWrite counts a write that was made, or that the object or its owner kept us from, as err says; a fault of the API server is nobody's fight. It
// counts from the beginning where what is given is new: that is the doing of a CA.
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

// sweep forgets what is long past, now and then: ten thousand objects may be written in a few seconds.
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

// RetryAfter is how long to leave an object alone.
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

// ContestedFor returns for how long an object yet counts as one that somebody keeps overwriting, unless it is written again; 0 when nobody does.
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

// SetOtherWriter notes who has undone the last write of an object, for a person: as it was read before it is written again.
func (t *Tracker) SetOtherWriter(key types.NamespacedName, otherWriter string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok := t.writes[key]; ok && otherWriter != "" {
		s.otherWriter = otherWriter
		t.writes[key] = s
	}
}

// NextWriteEndsBurst reports whether one more write of an object ends a burst.
func (t *Tracker) NextWriteEndsBurst(key types.NamespacedName) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.writes[key].count == burst-1
}

// ReportOtherWriter names for a person who keeps overwriting an object, and reports whether people have to be told so, which is once.
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

// Resolved reports once that a fight over an object is over.
func (t *Tracker) Resolved(key types.NamespacedName, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	resolved := t.writes[key].contested && t.contestedFor(key, now) == 0
	if resolved {
		delete(t.writes, key)
	}
	return resolved
}

// Forget ends what there was over an object: nothing is written into it any more.
func (t *Tracker) Forget(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.writes, key)
}

// SetReportable notes whether an object could be told what stands in its way.
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

// Unresolvable reports whether nobody should wait for an object: it is fought over, would not be told why it is not served, or has failed for too long.
func (t *Tracker) Unresolvable(key types.NamespacedName, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unreportable[key] || t.retryAfter(key, now) > 0 || t.contestedFor(key, now) > 0 || t.failedTooLong(key, now)
}
