package conflict_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/servingcert/operator/controllers/internal/conflict"
)

// A rejected write is reported at once, and a failing request once that has lasted; an Event is
// recorded once for each until it is over.
func TestReports(t *testing.T) {
	t.Parallel()
	away := func(port int) error {
		return apierrors.NewInternalError(fmt.Errorf("failed calling webhook: from port %d", port))
	}
	denied := apierrors.NewConflict(corev1.Resource("secrets"), "web", errors.New("admission webhook denied the request"))
	changed := apierrors.NewConflict(corev1.Resource("secrets"), "web", errors.New("it has changed"))
	var reports conflict.Reports
	key, start := types.NamespacedName{Name: "web"}, time.Date(2071, time.March, 14, 15, 9, 26, 0, time.UTC)
	for _, step := range []struct {
		after  time.Duration
		err    error
		want   string
		record bool
	}{
		{0, away(1), "", false},
		{4 * time.Second, away(2), "", false},
		{5 * time.Second, away(3), "RequestFailed: Internal error occurred: failed calling webhook: from port 3", true},
		{time.Minute, away(4), "RequestFailed: ", false},
		{time.Minute, denied, "WriteRefused: ", true},
		{time.Minute, denied, "WriteRefused: ", false},
		{2 * time.Minute, nil, "", false},
		{2 * time.Minute, denied, "WriteRefused: ", true},
		{2 * time.Minute, away(5), "", false},
		{3 * time.Minute, changed, "", false},
		{3 * time.Minute, errors.New("no route to host"), "", false},
	} {
		if step.err == nil {
			reports.ClearFailure(key)
			continue
		}
		failure, record := reports.RecordFailure(key, start.Add(step.after), "WriteRefused", step.err)
		got := ""
		if failure != nil {
			got = failure.String()
		}
		if (got == "") != (step.want == "") || !strings.HasPrefix(got, step.want) || record != step.record {
			t.Errorf("after %s, %v: it is %q, recorded %t, want %q, %t", step.after, step.err, got, record, step.want, step.record)
		}
	}
}
