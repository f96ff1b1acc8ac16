package gather_test

import (
	"testing"
	"time"

	"github.com/servingcert/operator/controllers/internal/gather"
)

// Counting takes a twentieth of the time, however much there is to count; a little is told at once, and nobody waits for long.
func TestDelay(t *testing.T) {
	t.Parallel()
	var changes gather.Changes
	for _, tc := range []struct{ took, want time.Duration }{
		{0, time.Second}, {50 * time.Millisecond, time.Second}, {200 * time.Millisecond, 4 * time.Second}, {time.Minute, 5 * time.Second}, {0, time.Second},
	} {
		changes.Counted(tc.took)
		if got := changes.Delay(); got != tc.want {
			t.Errorf("after a count of %s changes gather for %s, want %s", tc.took, got, tc.want)
		}
	}
}
