package restart

import (
	"cmp"
	"fmt"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
)

// workloadState is a workload that reads something of ours, and how it stands.
type workloadState struct {
	*workload
	// entry is what is known of its restarts.
	*restartRecord
	// changes are those of what it reads, as far as its policy restarts for them.
	changes []change
	// pendingChanges are the changes that some of its pods do not know of.
	pendingChanges []change
	// expires is when the first of what its pods hold does; zero where that is not known. expiring is the change that they do not know of.
	expires  time.Time
	expiring *change
	// progress is when one of its pods was last made, or became ready.
	progress time.Time
	// unreachable are its pods on nodes that do not answer.
	unreachable []string
	// unreadyOutdated reports whether a pod that is not ready holds something old.
	unreadyOutdated bool
	// refusal is why it is not written now; empty when it may be.
	refusal string
	// recheckAt is when the clock alone may change something: a refusal is over, or a kubelet has to have answered.
	recheckAt time.Time
	// lastTurn is when a workload of its namespace last had a turn.
	lastTurn time.Time
	// unmanaged: no policy restarts it any more.
	unmanaged bool
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
	// blocked: it cannot be restarted now.
	blocked state = "Held"
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
func (i *workloadState) state(now time.Time) (state, string) {
	if i.ongoing != nil {
		return i.restartState(now)
	}
	switch waitsForRollout := i.rollout.rolling && !i.rollout.deadlineExceeded && now.Before(i.rolloutDeadline()); {
	case len(i.pendingChanges) == 0:
		return current, ""
	case i.optsOut():
		return optedOut, "its annotation " + v1alpha1.AnnotationRestart + " forbids it"
	case i.rollout.paused:
		return blocked, "it is paused"
	case i.rollout.updating:
		return blocked, "an update of its own waits for somebody to delete its pods"
	case i.refusal != "":
		return blocked, i.refusal
	case waitsForRollout:
		return rolling, ""
	case i.rollout.deadlineExceeded:
		return pending, "its own rollout missed its progress deadline, so it comes last"
	case !i.rollout.available:
		return pending, "it is not available, so it comes last"
	}
	return pending, ""
}

func (i *workloadState) optsOut() bool {
	return i.GetAnnotations()[v1alpha1.AnnotationRestart] == "false"
}

// rolloutDeadline is until when a rollout of the owner's is waited for: as long as it makes progress, and not for ever.
func (i *workloadState) rolloutDeadline() time.Time {
	deadline, limit := latest(i.rollingSince, i.progress).Add(i.progressTimeout), i.rollingSince.Add(maxRestartDuration)
	if limit.Before(deadline) {
		return limit
	}
	return deadline
}

// transitionTimes are the times at which the clock alone changes how it stands.
func (i *workloadState) transitionTimes(s state) []time.Time {
	at := []time.Time{i.recheckAt}
	if s == rolling {
		at = append(at, i.rolloutDeadline())
	}
	if s == restarting || s == overdue {
		at = append(at, latest(i.ongoing.since, i.progress).Add(i.progressTimeout), i.ongoing.since.Add(maxRestartDuration))
	}
	return at
}

// restartState returns how a restart of ours goes, and why.
func (i *workloadState) restartState(now time.Time) (state, string) {
	if done, reason := i.isDone(now); done {
		return completed, reason
	}
	switch stalled := i.isStalled(now); {
	case i.rollout.paused:
		return blocked, "it is paused in the middle of its restart"
	case !stalled && i.exceededLimit(now):
		return overdue, i.withUnreachable(cmp.Or(i.refusal, fmt.Sprintf("it still rolls after %s, and the others go on", maxRestartDuration)))
	case !stalled:
		return restarting, i.withUnreachable(cmp.Or(i.refusal, i.evictionReason()))
	case i.refusal != "":
		return failed, i.withUnreachable(i.refusal)
	case i.rollout.deadlineExceeded:
		return failed, i.withUnreachable("it missed its progress deadline")
	}
	return failed, i.withUnreachable("no pod became ready for " + i.progressTimeout.String())
}

// evictionReason says how it is restarted, where that is not as usual.
func (i *workloadState) evictionReason() string {
	switch {
	case i.blocked():
		return "its controller waits for pods that are not ready, so those that hold something old are evicted"
	case i.rollout.staged:
		return "its pods are evicted, for those below the partition of its update strategy are never updated"
	case i.rollout.manualUpdate:
		return "its pods are evicted, for its update strategy is OnDelete"
	case !i.ongoing.evicted:
		return ""
	case i.rollout.unavailableBudgetUsed:
		return "its pods are evicted, for its controller replaces none while so many are unavailable"
	}
	return "its owner removed the annotation of its restart, so its pods are evicted"
}

// isDone reports whether its turn is over.
func (i *workloadState) isDone(now time.Time) (done bool, reason string) {
	current := len(i.pendingChanges) == 0
	switch {
	case !i.rollout.available:
		return current && i.ongoing.unavailable && (i.isStalled(now) || i.exceededLimit(now)), "it is as unavailable as before, and no pod holds anything old"
	case current, i.unmanaged:
		return true, ""
	case i.isUndone():
		return !i.undonePromptly, "its owner undid the restart"
	}
	// What its rollout has brought, came after the turn began. Of pods that are left out, that is not known.
	return !i.updatesManually() && len(i.unreachable) == 0, ""
}

// isRollingOut reports whether nothing is to be learned from its pods: its controller says how its restart goes.
func (i *workloadState) isRollingOut(now time.Time) bool {
	return i.kind == kindDeployment && i.ongoing != nil && !i.updatesManually() && !i.isUndone() && !i.isStalled(now) && !i.exceededLimit(now)
}

// polled reports whether its pods are looked at again and again: its kind need not show in its status how its restart goes.
func (i *workloadState) polled() bool { return i.readOnly && i.ongoing != nil }

// withUnreachable adds to a sentence which pods are left out.
func (i *workloadState) withUnreachable(reason string) string {
	if len(i.unreachable) == 0 {
		return reason
	}
	unreachable := "left out, for their nodes do not answer: " + joinNames(i.unreachable)
	if reason == "" {
		return unreachable
	}
	return reason + "; " + unreachable
}

// isStalled reports whether its restart makes no progress any more.
func (i *workloadState) isStalled(now time.Time) bool {
	return i.rollout.deadlineExceeded || now.Sub(latest(i.ongoing.since, i.progress)) > i.progressTimeout
}

// wasUnavailable reports whether it was not available before its restart.
func (i *workloadState) wasUnavailable() bool { return i.ongoing != nil && i.ongoing.unavailable }

// exceededLimit reports whether its turn is over, whatever progress it makes.
func (i *workloadState) exceededLimit(now time.Time) bool {
	return now.After(i.ongoing.since.Add(maxRestartDuration))
}

// isUndone reports whether the stamp of its restart was removed.
func (i *workloadState) isUndone() bool {
	return !i.updatesManually() && i.stamp().Before(i.ongoing.since)
}

// mustRestamp reports whether its restart begins once more, or by evictions, in the same turn: a program has undone it.
func (i *workloadState) mustRestamp() bool {
	return i.isUndone() && i.undonePromptly && len(i.pendingChanges) > 0 && !i.unmanaged && i.refusal == ""
}

// updatesManually reports whether its pods are replaced one by one.
func (i *workloadState) updatesManually() bool {
	return i.rollout.manualUpdate || (i.ongoing != nil && i.ongoing.evicted)
}

// needsEviction reports whether pods are left to be evicted.
func (i *workloadState) needsEviction() bool {
	return (i.updatesManually() || i.blocked()) && len(i.pendingChanges) > 0 && !i.unmanaged
}

// blocked reports whether the controller of a StatefulSet, which has our stamp, waits for a pod that holds something old and is not
// ready. If an expired certificate is the reason, it waits for ever.
func (i *workloadState) blocked() bool {
	return i.ongoing != nil && i.unreadyOutdated && i.orderedRevision() != "" && !i.updatesManually() && !i.isUndone()
}

// isExhausted reports whether a restart that failed, or goes on and on, gets no other turn now: nothing newer has changed.
func (i *workloadState) isExhausted() bool {
	return i.updatesManually() || i.unmanaged || i.refusal != "" || !latestChange(i.pendingChanges).After(latest(latest(i.ongoing.since, i.stamp()), i.restartedFor))
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
