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
	// turnEnd is how long a restart takes one of its policy's places at most, whatever progress it makes, and how long a rollout of the
	// owner's is waited for at most.
	turnEnd = 2 * time.Hour
	// skew is how far ahead the clock of the manager before may have been, and how long that manager may still write after this one began.
	skew = time.Minute
	// prompt is how soon after a restart its annotation is removed by a program: a person takes longer, and means it.
	prompt = time.Minute
	// mostUndone is how often a restart is undone before pods are evicted instead.
	mostUndone = 2
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

// turn is a restart of a workload that is under way.
type turn struct {
	since                         time.Time
	unavailable, retried, evicted bool
}

// parseTurn reads a mark; false for one that is no turn, or begins in the future.
func parseTurn(mark string, now time.Time) (turn, bool) {
	moment, more, _ := strings.Cut(mark, ".")
	since, err := time.Parse(markLayout, moment)
	has := func(suffix string) bool { return slices.Contains(strings.Split(more, "."), suffix[1:]) }
	return turn{since: since, unavailable: has(unavailable), retried: has(retried), evicted: has(evicting)},
		err == nil && !since.After(now.Add(skew))
}

// mark is what the label of the workload says.
func (t turn) mark() string {
	says := func(is bool, suffix string) string {
		if is {
			return suffix
		}
		return ""
	}
	return t.since.UTC().Format(markLayout) + says(t.unavailable, unavailable) + says(t.retried, retried) + says(t.evicted, evicting)
}

// ledger is what a manager knows of restarts. The label of a workload hands its turn over to the next manager. Whoever may edit a workload may
// write the label: so it is believed where it was there when this manager began, or where this manager tried to write it, and nowhere else.
type ledger map[types.UID]*entry

// entry is what is known of the restarts of one workload.
type entry struct {
	// turn that is under way; nil for none.
	turn *turn
	// attempt is a mark that was written, and of which it is not known whether the API server took it.
	attempt string
	// stamped is the last stamp that was written; zero when it was removed since, or pods are replaced by other means.
	stamped time.Time
	// undone is how often the stamp was removed; promptly: the last time, by a program.
	undone   int
	promptly bool
	// wrote is when the stamp was last written.
	wrote time.Time
	// rolls is since when it rolls for another reason while it holds something old.
	rolls time.Time
	// restarted is the last change that it was restarted for, and began is when.
	restarted, began time.Time
	refusal          refusal
	// tried is when its last write did not succeed; zero when it did.
	tried time.Time
}

// of is what is known of a workload, by what it bears. inherits: a mark on it was left by the manager before.
func (l ledger) of(now time.Time, w *workload, inherits bool) *entry {
	known := cmp.Or(l[w.GetUID()], &entry{})
	mark := w.GetLabels()[v1alpha1.LabelRestarting]
	if found, ok := parseTurn(mark, now); ok && (mark == known.attempt || (inherits && known.turn == nil)) {
		known.begin(found, found.since, found.since)
		if w.rollout.byHand {
			known.stamped = time.Time{}
		}
	}
	if !known.stamped.IsZero() && w.stamp().Before(known.stamped) {
		known.undone, known.stamped, known.promptly = known.undone+1, time.Time{}, now.Sub(known.wrote) <= prompt
	}
	return known
}

// begin notes a turn that has begun, or goes on by other means.
func (e *entry) begin(t turn, stamped, at time.Time) {
	e.turn, e.attempt, e.wrote = &t, "", at
	e.rolls, e.stamped = time.Time{}, stamped
	if t.evicted {
		e.stamped = time.Time{}
	}
}

// end notes that a turn is over. An owner that let a stamp be is not known as one that undoes them any longer.
func (e *entry) end() {
	if !e.stamped.IsZero() {
		e.undone = 0
	}
	e.turn, e.attempt = nil, ""
}
