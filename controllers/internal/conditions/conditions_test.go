package conditions_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/controllers/internal/conditions"
)

var (
	before = time.Date(2071, time.March, 14, 15, 9, 26, 0, time.UTC)
	now    = before.Add(time.Hour)
)

// TestBuilder checks that a condition that is not set is absent, that one that is set twice is
// there once, and that lastTransitionTime changes only with the status of the condition.
func TestBuilder(t *testing.T) {
	t.Parallel()
	previous := []metav1.Condition{
		{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Old", LastTransitionTime: metav1.NewTime(before)},
		{Type: "Rotating", Status: metav1.ConditionTrue, Reason: "Old", LastTransitionTime: metav1.NewTime(before)},
		{Type: "Stalled", Status: metav1.ConditionTrue, Reason: "Old", LastTransitionTime: metav1.NewTime(before)},
	}
	built := conditions.New(previous, 7, now)
	built.Set("Ready", false, "First", "first")
	built.Set("Rotating", false, "New", "changed")
	built.Set("Ready", true, "New", "the same")
	built.Set("Fresh", true, "New", "was not there")
	want := []metav1.Condition{
		{Type: "Rotating", Status: metav1.ConditionFalse, Reason: "New", Message: "changed", ObservedGeneration: 7, LastTransitionTime: metav1.NewTime(now)},
		{Type: "Ready", Status: metav1.ConditionTrue, Reason: "New", Message: "the same", ObservedGeneration: 7, LastTransitionTime: metav1.NewTime(before)},
		{Type: "Fresh", Status: metav1.ConditionTrue, Reason: "New", Message: "was not there", ObservedGeneration: 7, LastTransitionTime: metav1.NewTime(now)},
	}
	if diff := cmp.Diff(want, built.List()); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
}

// TestMessageIsBounded checks that the API server accepts any message: at most 32768 characters, in
// valid UTF-8.
func TestMessageIsBounded(t *testing.T) {
	t.Parallel()
	for name, quoted := range map[string]string{
		"short":                       "all is well",
		"long":                        strings.Repeat("x", 40_000),
		"long, of several bytes each": "y" + strings.Repeat("é", 40_000),
		"of four bytes each":          strings.Repeat("🔑", 40_000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			built := conditions.New(nil, 1, now)
			built.Set("Ready", false, "Refused", quoted)
			message := built.List()[0].Message
			switch {
			case len(quoted) < 100 && message != quoted:
				t.Errorf("the message is %q, want %q", message, quoted)
			case len(quoted) > 100 && (len(message) > 4096 || !strings.HasSuffix(message, " …")):
				t.Errorf("the message has %d bytes, and ends by %q", len(message), message[len(message)-8:])
			case !utf8.ValidString(message):
				t.Error("the message is not valid UTF-8")
			case !strings.HasPrefix(quoted, strings.TrimSuffix(message, " …")):
				t.Error("the message is not what was to be said")
			}
		})
	}
}
