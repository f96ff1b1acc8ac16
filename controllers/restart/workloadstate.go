package restart

import (
	"cmp"
	"fmt"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
)

// workloadState is a workload that reads a certificate or a bundle of the operator, with its
// current state.
type workloadState struct {
	*workload
	// restartRecord is what is known of its restarts.
	*restartRecord
	// changes are the changes of the objects that it reads and for which its policy restarts it.
	changes []change
	// pendingChanges are the changes that some of its pods do not know of.
	pendingChanges []change
	// expires is when the first object that its pods hold expires; zero if that is not known.
	// expiring is the change that replaced this object.
	expires  time.Time
	expiring *change
	// progress is when one of its pods was last created or became ready.
	progress time.Time
	// unreachable are its pods on nodes that do not respond.
	unreachable []string
	// unreadyOutdated: a pod that is not ready holds an outdated object.
	unreadyOutdated bool
	// refusal is why it is not written now; empty if it may be.
	refusal string
	// recheckAt is when the clock alone may change something: a refusal is over, or a kubelet must
	// have acted.
	recheckAt time.Time
	// lastTurn is when a workload of its namespace was last restarted.
	lastTurn time.Time
	// unmanaged: no policy restarts it any more.
	unmanaged bool
}

// state is the state of a workload with regard to its restart.
type state string

const (
	// current: no pod is outdated.
	current state = "Current"
	// pending: it waits for its turn.
	pending state = "Pending"
	// rolling: it is rolling out for a reason of its owner; after that its pods are up to date.
	rolling state = "Rolling"
	// blocked: it cannot be restarted now.
	blocked state = "Held"
	// optedOut: its annotation forbids restarts.
	optedOut state = "OptedOut"
	// restarting: its restart is under way.
	restarting state = "Restarting"
	// overdue: its restart is under way, and others no longer wait for it.
	overdue state = "Overdue"
	// completed: its mark can be removed.
	completed state = "Completed"
	// failed: its rollout makes no progress.
	failed state = "Failed"
)

// state returns the state of the workload, and the reason.
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

// rolloutDeadline returns until when the operator waits for a rollout that the owner started: as
// long as it makes progress, but at most maxRestartDuration.
func (i *workloadState) rolloutDeadline() time.Time {
	deadline, limit := latest(i.rollingSince, i.progress).Add(i.progressTimeout), i.rollingSince.Add(maxRestartDuration)
	if limit.Before(deadline) {
		return limit
	}
	return deadline
}

// transitionTimes returns the times at which the clock alone may change the state.
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

// restartState returns the state of a restart that is under way, and the reason.
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

// evictionReason returns why the pods are evicted; empty if they are not.
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

// isDone reports whether the restart is over, and why if it is over without success.
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
	// The pods that the rollout brought started after the restart began. Of unreachable pods, this
	// is not known.
	return !i.updatesManually() && len(i.unreachable) == 0, ""
}

// isRollingOut reports whether its pods need not be listed, because its controller reports the
// progress of the restart.
func (i *workloadState) isRollingOut(now time.Time) bool {
	return i.kind == kindDeployment && i.ongoing != nil && !i.updatesManually() && !i.isUndone() && !i.isStalled(now) && !i.exceededLimit(now)
}

// polled reports whether its pods are listed repeatedly: the status of its kind may not show the
// progress of a restart.
func (i *workloadState) polled() bool { return i.readOnly && i.ongoing != nil }

// withUnreachable appends the unreachable pods to a reason.
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

// isStalled reports whether its restart has stopped making progress.
func (i *workloadState) isStalled(now time.Time) bool {
	return i.rollout.deadlineExceeded || now.Sub(latest(i.ongoing.since, i.progress)) > i.progressTimeout
}

// wasUnavailable reports whether it was not available before its restart.
func (i *workloadState) wasUnavailable() bool { return i.ongoing != nil && i.ongoing.unavailable }

// exceededLimit reports whether its restart has taken longer than maxRestartDuration, whatever
// progress it makes.
func (i *workloadState) exceededLimit(now time.Time) bool {
	return now.After(i.ongoing.since.Add(maxRestartDuration))
}

// isUndone reports whether the stamp of its restart was removed.
func (i *workloadState) isUndone() bool {
	return !i.updatesManually() && i.stamp().Before(i.ongoing.since)
}

// mustRestamp reports whether its restart is repeated, with a new stamp or by evictions, because a
// program has undone it. This is still the same turn.
func (i *workloadState) mustRestamp() bool {
	return i.isUndone() && i.undonePromptly && len(i.pendingChanges) > 0 && !i.unmanaged && i.refusal == ""
}

// updatesManually reports whether its pods are replaced only by evicting them one by one.
func (i *workloadState) updatesManually() bool {
	return i.rollout.manualUpdate || (i.ongoing != nil && i.ongoing.evicted)
}

// needsEviction reports whether some of its pods still have to be evicted.
func (i *workloadState) needsEviction() bool {
	return (i.updatesManually() || i.blocked()) && len(i.pendingChanges) > 0 && !i.unmanaged
}

// blocked reports whether the controller of a StatefulSet, which already has our stamp, waits for a
// pod that is outdated and not ready. If an expired certificate is the reason, it waits forever.
func (i *workloadState) blocked() bool {
	return i.ongoing != nil && i.unreadyOutdated && i.orderedRevision() != "" && !i.updatesManually() && !i.isUndone()
}

// isExhausted reports whether a restart that failed or is overdue is not repeated now, because
// nothing has changed since.
func (i *workloadState) isExhausted() bool {
	return i.updatesManually() || i.unmanaged || i.refusal != "" || !latestChange(i.pendingChanges).After(latest(latest(i.ongoing.since, i.stamp()), i.restartedFor))
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
