package servingcertpolicy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/retry"
	"github.com/servingcert/operator/controllers/restart"
)

// A status that cannot be written is recorded as an Event once that has lasted, and a rejected one
// at once. Each is retried at its own times, after the statuses of all other policies. Nothing is
// kept for a deleted policy.
func TestStatusThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	s, r := newFakeCache(t)
	resource := v1alpha1.SchemeGroupVersion.WithResource("servingcertpolicies").GroupResource()
	away := apierrors.NewInternalError(errors.New(`failed calling webhook "w.example.org"`))
	denied := apierrors.NewNotFound(resource, "admission webhook \"w.example.org\" denied the request: no")
	var fault error
	var written []string
	r.Client = fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		SubResourceApply: func(
			_ context.Context, _ client.Client, _ string, configuration runtime.ApplyConfiguration, _ ...client.SubResourceApplyOption,
		) error {
			encoded, err := json.Marshal(configuration)
			if err != nil {
				return err
			}
			name := "other"
			if strings.Contains(string(encoded), `"default"`) {
				name = "default"
			}
			if written = append(written, name); name == "default" {
				return fault
			}
			return nil
		},
	}).Build()
	recorder := events.NewFakeRecorder(8)
	r.Recorder = recorder
	r.Restarts = func(*v1alpha1.ServingCertPolicy) (restart.Report, bool) { return restart.Report{}, false }
	other := s.policy.DeepCopy()
	other.Name, other.UID = "other", types.UID("uid-of-other")
	for _, step := range []struct {
		after   time.Duration
		fault   error
		writes  string
		next    time.Duration
		message string
	}{
		{0, away, "default other", time.Second, ""},
		{time.Second / 2, away, "other", time.Second, ""},
		{time.Second, away, "other default", 3 * time.Second, ""},
		{3 * time.Second, away, "other default", 7 * time.Second, ""},
		{7 * time.Second, away, "other default", 15 * time.Second, `RequestFailed Internal error occurred: failed calling webhook`},
		{time.Hour, away, "other default", time.Hour + 16*time.Second, ""},
		{2 * time.Hour, away, "other default", 2*time.Hour + 32*time.Second, ""},
		{3 * time.Hour, away, "other default", 3*time.Hour + retry.MaxDelay, ""},
		{4 * time.Hour, away, "other default", 4*time.Hour + retry.MaxDelay, ""},
		{5 * time.Hour, nil, "other default", 0, ""},
		{6 * time.Hour, denied, "default other", 6*time.Hour + time.Second, "RequestRefused "},
	} {
		s.clock.SetTime(now.Add(step.after))
		fault, written = step.fault, nil
		policies := []v1alpha1.ServingCertPolicy{*s.policy, *other}
		_, err := r.reportAll(t.Context(), s.clock.Now(), policies, map[string]*tally{"default": {}, "other": {}})
		tried := slices.Contains(written, "default")
		if (err != nil) != (tried && step.fault != nil) {
			t.Errorf("after %s: it returns %v", step.after, err)
		}
		if got := strings.Join(written, " "); got != step.writes {
			t.Errorf("after %s: written are %q, want %q", step.after, got, step.writes)
		}
		if next := r.statusFailures.nextRetry(s.policy); (step.next != 0 && !next.Equal(now.Add(step.next))) || next.IsZero() != (step.next == 0) {
			t.Errorf("after %s: it is tried again %s, want after %s", step.after, next, step.next)
		}
		previous := ""
		select {
		case previous = <-recorder.Events:
		default:
		}
		if (previous == "") != (step.message == "") || !strings.Contains(previous, step.message) {
			t.Errorf("after %s: the Event is %q, want %q", step.after, previous, step.message)
		}
	}
	r.statusFailures.keepOnly([]v1alpha1.ServingCertPolicy{*other})
	if len(r.statusFailures.retries) != 0 {
		t.Errorf("remembered are %s", fmt.Sprint(r.statusFailures.retries))
	}
}
