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
	// maxRestartDuration is how long a restart takes one of its policy's places at most, whatever progress it makes, and how long a rollout of the
	// owner's is waited for at most.
	maxRestartDuration = 2 * time.Hour
	// skew is how far ahead the clock of the manager before may have been, and how long that manager may still write after this one began.
	skew = time.Minute
	// promptUndo is how soon after a restart its annotation is removed by a program: a person takes longer, and means it.
	promptUndo = time.Minute
	// maxUndone is how often a restart is undone before pods are evicted instead.
	maxUndone = 2
)

// markLayout is a time as a label may hold it.
const markLayout = "20060102T150405Z"

// What may follow the time in a mark.
const (
	// unavailable: the workload was not available before its restart. It takes no place, and holds up nobody.
	unavailable = ".unavailable"
	// retried: its restart had failed before, and the others wait for it. It takes no place either.
	retried = ".retried"
	// evicting: its pods are evicted, for its owner undoes restarts.
	evicting = ".evicting"
)

// ongoingRestart is a restart of a workload that is under way.
type ongoingRestart struct {
	since                         time.Time
	unavailable, retried, evicted bool
}

// parseMark reads a mark; false for one that is no turn, or begins in the future.
func parseMark(mark string, now time.Time) (ongoingRestart, bool) {
	timestamp, suffixes, _ := strings.Cut(mark, ".")
	since, err := time.Parse(markLayout, timestamp)
	has := func(suffix string) bool { return slices.Contains(strings.Split(suffixes, "."), suffix[1:]) }
	return ongoingRestart{since: since, unavailable: has(unavailable), retried: has(retried), evicted: has(evicting)},
		err == nil && !since.After(now.Add(skew))
}

// mark is what the label of the workload says.
func (r ongoingRestart) mark() string {
	suffixIf := func(ok bool, suffix string) string {
		if ok {
			return suffix
		}
		return ""
	}
	return r.since.UTC().Format(markLayout) + suffixIf(r.unavailable, unavailable) + suffixIf(r.retried, retried) + suffixIf(r.evicted, evicting)
}

// restartRecords is what a manager knows of restarts. The label of a workload hands its turn over to the next manager. Whoever may edit a workload may
// write the label: so it is believed where it was there when this manager began, or where this manager tried to write it, and nowhere else.
type restartRecords map[types.UID]*restartRecord

// restartRecord is what is known of the restarts of one workload.
type restartRecord struct {
	// ongoing that is under way; nil for none.
	ongoing *ongoingRestart
	// pendingMark is a mark that was written, and of which it is not known whether the API server took it.
	pendingMark string
	// lastStamp is the last stamp that was written; zero when it was removed since, or pods are replaced by other means.
	lastStamp time.Time
	// undone is how often the stamp was removed; promptly: the last time, by a program.
	undone         int
	undonePromptly bool
	// stampedAt is when the stamp was last written.
	stampedAt time.Time
	// rollingSince is since when it rolls for another reason while it holds something old.
	rollingSince time.Time
	// restartedFor is the last change that it was restarted for, and began is when.
	restartedFor, restartedAt time.Time
	refusal                   refusal
	// lastFailedWrite is when its last write did not succeed; zero when it did.
	lastFailedWrite time.Time
}

// get is what is known of a workload, by what it bears. inherits: a mark on it was left by the manager before.
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

// begin notes a turn that has begun, or goes on by other means.
func (r *restartRecord) begin(t ongoingRestart, stamped, at time.Time) {
	r.ongoing, r.pendingMark, r.stampedAt = &t, "", at
	r.rollingSince, r.lastStamp = time.Time{}, stamped
	if t.evicted {
		r.lastStamp = time.Time{}
	}
}

// end notes that a turn is over. An owner that let a stamp be is not known as one that undoes them any longer.
func (r *restartRecord) end() {
	if !r.lastStamp.IsZero() {
		r.undone = 0
	}
	r.ongoing, r.pendingMark = nil, ""
}
