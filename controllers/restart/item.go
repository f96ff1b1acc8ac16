package restart

import (
	"cmp"
	"fmt"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
)

// item is a workload that reads something of ours, and how it stands.
type item struct {
	*workload
	// entry is what is known of its restarts.
	*entry
	// changes are those of what it reads, as far as its policy restarts for them.
	changes []change
	// unknown are the changes that some of its pods do not know of.
	unknown []change
	// expires is when the first of what its pods hold does; zero where that is not known. expiring is the change that they do not know of.
	expires  time.Time
	expiring *change
	// progress is when one of its pods was last made, or became ready.
	progress time.Time
	// away are its pods on nodes that do not answer.
	away []string
	// unreadyOld reports whether a pod that is not ready holds something old.
	unreadyOld bool
	// refusal is why it is not written now; empty when it may be.
	refusal string
	// retries is when the clock alone may change something: a refusal is over, or a kubelet has to have answered.
	retries time.Time
	// served is when a workload of its namespace last had a turn.
	served time.Time
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
	// held: it cannot be restarted now.
	held state = "Held"
	// optedOut by its annotation.
	optedOut state = "OptedOut"
	// restarting is under way.
	restarting state = "Restarting"
	// overdue: its restart is under way, and its turn is over.
	overdue state = "Overdue"
	// completed: the mark of its restart can go.
	completed state = "Completed"
	// failed: its rollout makes no progress.
	failed state = "Failed"
)

// state returns how the workload stands, and why.
func (i *item) state(now time.Time) (state, string) {
	if i.turn != nil {
		return i.restart(now)
	}
	switch rolls := i.rollout.rolling && !i.rollout.missed && now.Before(i.rollsUntil()); {
	case len(i.unknown) == 0:
		return current, ""
	case i.optsOut():
		return optedOut, "its annotation " + v1alpha1.AnnotationRestart + " forbids it"
	case i.rollout.paused:
		return held, "it is paused"
	case i.rollout.updating:
		return held, "an update of its own waits for somebody to delete its pods"
	case i.refusal != "":
		return held, i.refusal
	case rolls:
		return rolling, ""
	case i.rollout.missed:
		return pending, "its own rollout missed its progress deadline, so it comes last"
	case !i.rollout.available:
		return pending, "it is not available, so it comes last"
	}
	return pending, ""
}

func (i *item) optsOut() bool { return i.GetAnnotations()[v1alpha1.AnnotationRestart] == "false" }

// rollsUntil is until when a rollout of the owner's is waited for: as long as it makes progress, and not for ever.
func (i *item) rollsUntil() time.Time {
	patient, end := later(i.rolls, i.progress).Add(i.patience), i.rolls.Add(turnEnd)
	if end.Before(patient) {
		return end
	}
	return patient
}

// changesAt are the times at which the clock alone changes how it stands.
func (i *item) changesAt(s state) []time.Time {
	at := []time.Time{i.retries}
	if s == rolling {
		at = append(at, i.rollsUntil())
	}
	if s == restarting || s == overdue {
		at = append(at, later(i.turn.since, i.progress).Add(i.patience), i.turn.since.Add(turnEnd))
	}
	return at
}

// restart returns how a restart of ours goes, and why.
func (i *item) restart(now time.Time) (state, string) {
	if done, why := i.done(now); done {
		return completed, why
	}
	switch stands := i.stands(now); {
	case i.rollout.paused:
		return held, "it is paused in the middle of its restart"
	case !stands && i.late(now):
		return overdue, i.also(cmp.Or(i.refusal, fmt.Sprintf("it still rolls after %s, and the others go on", turnEnd)))
	case !stands:
		return restarting, i.also(cmp.Or(i.refusal, i.how()))
	case i.refusal != "":
		return failed, i.also(i.refusal)
	case i.rollout.missed:
		return failed, i.also("it missed its progress deadline")
	}
	return failed, i.also("no pod became ready for " + i.patience.String())
}

// how says how it is restarted, where that is not as usual.
func (i *item) how() string {
	switch {
	case i.blocked():
		return "its controller waits for pods that are not ready, so those that hold something old are evicted"
	case i.rollout.staged:
		return "its pods are evicted, for those below the partition of its update strategy are never updated"
	case i.rollout.byHand:
		return "its pods are evicted, for its update strategy is OnDelete"
	case !i.turn.evicted:
		return ""
	case i.rollout.outOfNodes:
		return "its pods are evicted, for its controller replaces none while so many are unavailable"
	}
	return "its owner removed the annotation of its restart, so its pods are evicted"
}

// done reports whether its turn is over.
func (i *item) done(now time.Time) (done bool, why string) {
	renewed := len(i.unknown) == 0
	switch {
	case !i.rollout.available:
		return renewed && i.turn.unavailable && (i.stands(now) || i.late(now)), "it is as unavailable as before, and no pod holds anything old"
	case renewed, i.abandoned:
		return true, ""
	case i.undoneNow():
		return !i.promptly, "its owner undid the restart"
	}
	// What its rollout has brought, came after the turn began. Of pods that are left out, that is not known.
	return !i.byHand() && len(i.away) == 0, ""
}

// goesOn reports whether nothing is to be learned from its pods: its controller says how its restart goes.
func (i *item) goesOn(now time.Time) bool {
	return i.kind == kindDeployment && i.turn != nil && !i.byHand() && !i.undoneNow() && !i.stands(now) && !i.late(now)
}

// polled reports whether its pods are looked at again and again: its kind need not show in its status how its restart goes.
func (i *item) polled() bool { return i.readOnly && i.turn != nil }

// also adds to a sentence which pods are left out.
func (i *item) also(why string) string {
	if len(i.away) == 0 {
		return why
	}
	left := "left out, for their nodes do not answer: " + named(i.away)
	if why == "" {
		return left
	}
	return why + "; " + left
}

// stands reports whether its restart makes no progress any more.
func (i *item) stands(now time.Time) bool {
	return i.rollout.missed || now.Sub(later(i.turn.since, i.progress)) > i.patience
}

// lame reports whether it was not available before its restart.
func (i *item) lame() bool { return i.turn != nil && i.turn.unavailable }

// late reports whether its turn is over, whatever progress it makes.
func (i *item) late(now time.Time) bool { return now.After(i.turn.since.Add(turnEnd)) }

// undoneNow reports whether the stamp of its restart was removed.
func (i *item) undoneNow() bool { return !i.byHand() && i.stamp().Before(i.turn.since) }

// restamps reports whether its restart begins once more, or by evictions, in the same turn: a program has undone it.
func (i *item) restamps() bool {
	return i.undoneNow() && i.promptly && len(i.unknown) > 0 && !i.abandoned && i.refusal == ""
}

// byHand reports whether its pods are replaced one by one.
func (i *item) byHand() bool { return i.rollout.byHand || (i.turn != nil && i.turn.evicted) }

// byEviction reports whether pods are left to be evicted.
func (i *item) byEviction() bool {
	return (i.byHand() || i.blocked()) && len(i.unknown) > 0 && !i.abandoned
}

// blocked reports whether the controller of a StatefulSet, which has our stamp, waits for a pod that holds something old and is not
// ready. If an expired certificate is the reason, it waits for ever.
func (i *item) blocked() bool {
	return i.turn != nil && i.unreadyOld && i.orderedRevision() != "" && !i.byHand() && !i.undoneNow()
}

// isOver reports whether a restart that failed, or goes on and on, gets no other turn now: nothing newer has changed.
func (i *item) isOver() bool {
	return i.byHand() || i.abandoned || i.refusal != "" || !last(i.unknown).After(later(later(i.turn.since, i.stamp()), i.restarted))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
