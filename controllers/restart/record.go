package restart

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/servingcert/operator/api/v1alpha1"
)

const (
	// maxRestartDuration is how long a restart counts against maxConcurrent of its policy at most,
	// whatever progress it makes, and how long the operator waits at most for a rollout that the
	// owner of the workload started.
	maxRestartDuration = 2 * time.Hour
	// skew is how far ahead the clock of the previous manager may have been, and how long that
	// manager may still write after this one started.
	skew = time.Minute
	// promptUndo is the time after a restart within which the removal of its annotation counts as
	// that of a program. A person takes longer, and means it.
	promptUndo = time.Minute
	// maxUndone is how often a restart is undone before the operator evicts the pods instead.
	maxUndone = 2
)

// markLayout is the layout of a time that is valid in a label value.
const markLayout = "20060102T150405Z"

// The suffixes that may follow the time in a mark.
const (
	// unavailable: the workload was not available before its restart. It does not count against
	// maxConcurrent and holds up no other.
	unavailable = ".unavailable"
	// retried: its previous restart failed, and the others wait for it. It does not count against
	// maxConcurrent either.
	retried = ".retried"
	// evicting: its pods are evicted, because its owner undoes restarts, or because its controller
	// replaces no pod while so many are unavailable.
	evicting = ".evicting"
)

// ongoingRestart is a restart of a workload that is under way.
type ongoingRestart struct {
	since                         time.Time
	unavailable, retried, evicted bool
}

// parseMark parses a mark; false if it is malformed or lies in the future.
func parseMark(mark string, now time.Time) (ongoingRestart, bool) {
	timestamp, suffixes, _ := strings.Cut(mark, ".")
	since, err := time.Parse(markLayout, timestamp)
	has := func(suffix string) bool { return slices.Contains(strings.Split(suffixes, "."), suffix[1:]) }
	return ongoingRestart{since: since, unavailable: has(unavailable), retried: has(retried), evicted: has(evicting)},
		err == nil && !since.After(now.Add(skew))
}

// mark returns the value for the label of the workload.
func (r ongoingRestart) mark() string {
	suffixIf := func(ok bool, suffix string) string {
		if ok {
			return suffix
		}
		return ""
	}
	return r.since.UTC().Format(markLayout) + suffixIf(r.unavailable, unavailable) + suffixIf(r.retried, retried) + suffixIf(r.evicted, evicting)
}

// restartRecords is what a manager knows of restarts, by the UID of the workload. The label of a
// workload hands its restart over to the next manager. Every client that may edit a workload may
// also write that label: the operator therefore trusts it only if it was there when this manager
// started, or if this manager tried to write it.
type restartRecords map[types.UID]*restartRecord

// restartRecord is what is known of the restarts of one workload.
type restartRecord struct {
	// ongoing is the restart that is under way; nil for none.
	ongoing *ongoingRestart
	// pendingMark is a mark that was sent and of which it is not known whether the API server
	// accepted it.
	pendingMark string
	// lastStamp is the last stamp that was written; zero if it was removed since, or if the pods
	// are evicted instead.
	lastStamp time.Time
	// undone is how often the stamp was removed; undonePromptly is whether a program did so the
	// last time.
	undone         int
	undonePromptly bool
	// stampedAt is when the stamp was last written.
	stampedAt time.Time
	// rollingSince is since when the workload has been rolling out for another reason while its
	// pods are outdated.
	rollingSince time.Time
	// restartedFor is the time of the latest change for which the workload was restarted, and
	// restartedAt is when it was.
	restartedFor, restartedAt time.Time
	// restartedFilled: it was restarted for an object that got its bundle for the first time, or anew.
	restartedFilled bool
	refusal         refusal
	// lastFailedWrite is when its last write failed; zero if the last write succeeded.
	lastFailedWrite time.Time
}

// get returns the record of a workload, updated from its label and its stamp. inherits is whether a
// mark on it may be one of the previous manager.
func (r restartRecords) get(now time.Time, w *workload, inherits bool) *restartRecord {
	record := cmp.Or(r[w.GetUID()], &restartRecord{})
	mark := w.GetLabels()[v1alpha1.LabelRestarting]
	if parsed, ok := parseMark(mark, now); ok && (mark == record.pendingMark || (inherits && record.ongoing == nil)) {
		record.begin(parsed, parsed.since, parsed.since)
		if w.rollout.manualUpdate {
			record.lastStamp = time.Time{}
		}
	}
	if !record.lastStamp.IsZero() && w.stamp().Before(record.lastStamp) {
		record.undone, record.lastStamp, record.undonePromptly = record.undone+1, time.Time{}, now.Sub(record.stampedAt) <= promptUndo
	}
	return record
}

// begin records a restart that has begun, or that continues by evictions.
func (r *restartRecord) begin(t ongoingRestart, stamped, at time.Time) {
	r.ongoing, r.pendingMark, r.stampedAt = &t, "", at
	r.rollingSince, r.lastStamp = time.Time{}, stamped
	if t.evicted {
		r.lastStamp = time.Time{}
	}
}

// end records that a restart is over. An owner that has left the stamp in place no longer counts as
// one that undoes restarts.
func (r *restartRecord) end() {
	if !r.lastStamp.IsZero() {
		r.undone = 0
	}
	r.ongoing, r.pendingMark = nil, ""
}
