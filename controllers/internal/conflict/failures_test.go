package conflict

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/servingcert/operator/controllers/internal/issuance"
)

var unavailable = apierrors.NewInternalError(errors.New(`failed calling webhook "w.example.org"`))

// A failing request is reported once it has lasted, is waited for within a bound, and is forgotten
// when it succeeds.
func TestFailures(t *testing.T) {
	t.Parallel()
	var p Tracker
	for _, step := range []struct {
		name                  string
		after                 time.Duration
		err                   error
		reports, unresolvable bool
	}{
		{"it fails", 0, unavailable, false, false},
		{"it fails again", reportAfter - 1, unavailable, false, false},
		{"it lasts", reportAfter, fmt.Errorf("write Secret web-tls: %w", unavailable), true, false},
		{"the API server is away", time.Minute, errors.New("connection refused"), true, false},
		{"so is its load balancer's answer", time.Minute, apierrors.NewServiceUnavailable("no backend"), true, false},
		{"it lasts on", failureGracePeriod - 1, unavailable, true, false},
		{"for too long", failureGracePeriod, unavailable, true, true},
	} {
		at := now.Add(step.after)
		problem := p.RecordFailure(contestedWrites, at, step.err)
		if wants := step.reports && strings.Contains(step.err.Error(), "w.example.org"); (problem != nil) != wants {
			t.Errorf("%s: to be reported is %v", step.name, problem)
		}
		failing := p.Failure(contestedWrites, at)
		if (failing != nil) != step.reports || (failing != nil && !strings.Contains(failing.Message, `calling webhook "w.example.org"`)) {
			t.Errorf("%s: what fails is %v", step.name, failing)
		}
		if got := p.Unresolvable(contestedWrites, at); got != step.unresolvable {
			t.Errorf("%s: hopeless %t, want %t", step.name, got, step.unresolvable)
		}
	}
	if p.Unresolvable(uncontestedWrites, now) || p.Failure(uncontestedWrites, now) != nil || p.ClearFailure(uncontestedWrites) {
		t.Error("another object fails with it")
	}
	over := now.Add(time.Hour)
	if !p.ClearFailure(contestedWrites) || p.Failure(contestedWrites, over) != nil || p.Unresolvable(contestedWrites, over) || p.ClearFailure(contestedWrites) {
		t.Error("it is not over")
	}
	if problem := p.RecordFailure(contestedWrites, over, unavailable); problem != nil {
		t.Errorf("it counts from before: %v", problem)
	}
}

// Errors that are resolved by another request, or that concern every object, do not count as a
// failure of one object.
func TestNoFailure(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"none": nil, "a conflict": apierrors.NewConflict(corev1.Resource("secrets"), "web-tls", nil), "no answer": errors.New("connection refused"),
		"refused": apierrors.NewForbidden(corev1.Resource("secrets"), "web-tls", nil),
	} {
		var p Tracker
		for _, at := range []time.Time{now, now.Add(time.Hour)} {
			if p.RecordFailure(contestedWrites, at, err) != nil || p.Failure(contestedWrites, at) != nil {
				t.Errorf("%s counts as a failure", name)
			}
		}
	}
}

// Rotations wait for a failure that is caused by a missing permission of the operator for as long
// as it lasts.
func TestMissingRightIsWaitedFor(t *testing.T) {
	t.Parallel()
	var p Tracker
	unpermitted := apierrors.NewForbidden(corev1.Resource("configmaps"), contestedWrites.Name, errors.New(`User "operator" cannot patch resource "configmaps"`))
	p.RecordFailure(contestedWrites, now, unpermitted)
	later := now.Add(24 * time.Hour)
	if p.RecordFailure(contestedWrites, later, unpermitted) == nil || p.Failure(contestedWrites, later) == nil || p.Unresolvable(contestedWrites, later) {
		t.Error("it is not waited for, or not reported")
	}
}

// However many objects a webhook affects, the number of Events about failing requests is limited;
// other Events are not.
func TestFailureEventsAreBounded(t *testing.T) {
	t.Parallel()
	var p Tracker
	allowed := 0
	for range 10 * failureEventBurst {
		if p.AllowEvent(&issuance.Problem{Reason: issuance.ReasonRequestFailed}, now) {
			allowed++
		}
		if !p.AllowEvent(&issuance.Problem{Reason: issuance.ReasonSecretRefused}, now) {
			t.Fatal("another Event is held back")
		}
	}
	if allowed != failureEventBurst || !p.AllowEvent(&issuance.Problem{Reason: issuance.ReasonRequestFailed}, now.Add(time.Second)) {
		t.Errorf("%d Events came at once", allowed)
	}
}
