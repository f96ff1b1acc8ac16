// Package conditions builds the conditions of a status by the rules of kstatus.
package conditions

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/controllers/internal/text"
)

// Builder collects the conditions of one status. A condition that is not set is absent, as
// Reconciling and Stalled should be when they are not true.
type Builder struct {
	previous   []metav1.Condition
	generation int64
	now        metav1.Time
	built      []metav1.Condition
}

// New returns a Builder. It keeps the lastTransitionTime of a condition in previous while the
// status of the condition does not change.
func New(previous []metav1.Condition, generation int64, now time.Time) *Builder {
	return &Builder{previous: previous, generation: generation, now: metav1.NewTime(now)}
}

// maxMessage limits a message, in bytes, so that the API server accepts the status whatever the
// message quotes.
const maxMessage = 2048

// Set sets a condition, and replaces an earlier one of the same type. It escapes and truncates the
// message.
func (b *Builder) Set(kind string, status bool, reason, message string) {
	condition := metav1.Condition{
		Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: text.Printable(message, maxMessage),
		ObservedGeneration: b.generation, LastTransitionTime: b.now,
	}
	if status {
		condition.Status = metav1.ConditionTrue
	}
	if before := meta.FindStatusCondition(b.previous, kind); before != nil && before.Status == condition.Status {
		condition.LastTransitionTime = before.LastTransitionTime
	}
	b.built = slices.DeleteFunc(b.built, func(c metav1.Condition) bool { return c.Type == kind })
	b.built = append(b.built, condition)
}

// List returns the conditions in the order in which they were last set.
func (b *Builder) List() []metav1.Condition { return b.built }
