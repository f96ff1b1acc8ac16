package restart

import (
	"strings"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
)

// unavailable ends the mark of a workload that was not available before its restart.
const unavailable = ".unavailable"

// markLayout is a time as a label may hold it.
const markLayout = "20060102T150405Z"

// item is a workload that reads something of ours, and how it stands.
type item struct {
	*workload
	// changes are those of what it reads, as far as its policy restarts for them.
	changes []change
	// unknown are the changes that some of its pods do not know of.
	unknown []change
	// progress is when one of its pods was last made, or became ready.
	progress time.Time
	// refusal is what the API server answered to its last restart; empty when it took it.
	refusal string
	// abandoned: no policy restarts it any more.
	abandoned bool
}

// state is how a workload stands with its restart.
type state string

const (
	// current: no pod holds anything old.
	current state = "Current"
	// pending: it waits for its turn.
	pending state = "Pending"
	// rolling for a reason of its owner's: when it has, its pods are new.
	rolling state = "Rolling"
	// held: only its owner can go on with it.
	held state = "Held"
	// optedOut by its annotation.
	optedOut state = "OptedOut"
	// restarting is under way.
	restarting state = "Restarting"
	// completed: the mark of its restart can go.
	completed state = "Completed"
	// failed: its rollout makes no progress.
	failed state = "Failed"
)

// marked tells since when it is restarted by us, and whether it was available before; false when it is not.
func (i *item) marked() (since time.Time, available, marked bool) {
	mark, marked := i.GetLabels()[v1alpha1.LabelRestarting]
	moment, wasUnavailable := strings.CutSuffix(mark, unavailable)
	since, _ = time.Parse(markLayout, moment)
	return since, !wasUnavailable, marked
}

// state tells how the workload stands, and why it is held.
func (i *item) state(now time.Time) (state, string) {
	if since, _, marked := i.marked(); marked {
		return i.restart(now, since)
	}
	switch {
	case len(i.unknown) == 0:
		return current, ""
	case i.optsOut():
		return optedOut, "its annotation " + v1alpha1.AnnotationRestart + " forbids it"
	case i.rollout.missed:
		return held, "its last rollout missed its progress deadline"
	case i.rollout.paused:
		return held, "it is paused"
	case i.rollout.updating:
		return held, "an update of its own waits for somebody to delete its pods"
	case i.rollout.rolling:
		return rolling, ""
	case i.refusal != "":
		return held, i.refusal
	}
	return pending, ""
}

func (i *item) optsOut() bool { return i.GetAnnotations()[v1alpha1.AnnotationRestart] == "false" }

// restart tells how a restart of ours goes.
func (i *item) restart(now, since time.Time) (state, string) {
	replaced := !i.rollout.byHand || len(i.unknown) == 0 || i.abandoned
	switch progress := later(since, i.progress); {
	case i.rollout.available && replaced:
		return completed, ""
	case i.rollout.paused:
		return held, "it is paused in the middle of its restart"
	case i.rollout.missed:
		return failed, "it missed its progress deadline"
	case now.Sub(progress) > i.patience && i.refusal != "":
		return failed, i.refusal
	case now.Sub(progress) > i.patience:
		return failed, "no pod became ready for " + i.patience.String()
	}
	return restarting, ""
}

// byEviction tells whether pods are left to be evicted.
func (i *item) byEviction() bool { return i.rollout.byHand && len(i.unknown) > 0 && !i.abandoned }

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
