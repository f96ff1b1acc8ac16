// Package conditions builds the conditions of a status by kstatus's rules.
package conditions

import (
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/controllers/internal/text"
)

// Builder gathers the conditions of one status. A condition that is not set is absent, as Reconciling and Stalled should be
// when they do not hold.
type Builder struct {
	previous   []metav1.Condition
	generation int64
	now        metav1.Time
	built      []metav1.Condition
}

// New builds upon the conditions of the previous status, whose transition times last while a status does not change.
func New(previous []metav1.Condition, generation int64, now time.Time) *Builder {
	return &Builder{previous: previous, generation: generation, now: metav1.NewTime(now)}
}

// maxMessage bounds a message in bytes: a status must be writable whatever it quotes.
const maxMessage = 2048

// Set sets a condition.
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

// List is every condition that was set.
func (b *Builder) List() []metav1.Condition { return b.built }
