package pace

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

var away = apierrors.NewInternalError(errors.New(`failed calling webhook "w.example.org"`))

// An error about an object is reported once it has lasted, waited for within a bound, and forgotten when it is over.
func TestFailures(t *testing.T) {
	t.Parallel()
	var p Pace
	for _, step := range []struct {
		name              string
		after             time.Duration
		err               error
		reports, hopeless bool
	}{
		{"it fails", 0, away, false, false},
		{"it fails again", reportAfter - 1, away, false, false},
		{"it lasts", reportAfter, fmt.Errorf("write Secret web-tls: %w", away), true, false},
		{"the API server is away", time.Minute, errors.New("connection refused"), true, false},
		{"so is its load balancer's answer", time.Minute, apierrors.NewServiceUnavailable("no backend"), true, false},
		{"it lasts on", waitForFailing - 1, away, true, false},
		{"for too long", waitForFailing, away, true, true},
	} {
		at := now.Add(step.after)
		said := p.Failed(fought, at, step.err)
		if wants := step.reports && strings.Contains(step.err.Error(), "w.example.org"); (said != nil) != wants {
			t.Errorf("%s: to be reported is %v", step.name, said)
		}
		failing := p.Failing(fought, at)
		if (failing != nil) != step.reports || (failing != nil && !strings.Contains(failing.Message, `calling webhook "w.example.org"`)) {
			t.Errorf("%s: what fails is %v", step.name, failing)
		}
		if got := p.Hopeless(fought, at); got != step.hopeless {
			t.Errorf("%s: hopeless %t, want %t", step.name, got, step.hopeless)
		}
	}
	if p.Hopeless(peaceful, now) || p.Failing(peaceful, now) != nil || p.Recovered(peaceful) {
		t.Error("another object fails with it")
	}
	over := now.Add(time.Hour)
	if !p.Recovered(fought) || p.Failing(fought, over) != nil || p.Hopeless(fought, over) || p.Recovered(fought) {
		t.Error("it is not over")
	}
	if said := p.Failed(fought, over, away); said != nil {
		t.Errorf("it counts from before: %v", said)
	}
}

// What is put right by whoever sends the request, or concerns every object, is no failure of one.
func TestNoFailure(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"none": nil, "a conflict": apierrors.NewConflict(corev1.Resource("secrets"), "web-tls", nil), "no answer": errors.New("connection refused"),
		"refused": apierrors.NewForbidden(corev1.Resource("secrets"), "web-tls", nil),
	} {
		var p Pace
		for _, at := range []time.Time{now, now.Add(time.Hour)} {
			if p.Failed(fought, at, err) != nil || p.Failing(fought, at) != nil {
				t.Errorf("%s counts as a failure", name)
			}
		}
	}
}

// What fails because the operator lacks a right is waited for as long as it does.
func TestMissingRightIsWaitedFor(t *testing.T) {
	t.Parallel()
	var p Pace
	unpermitted := apierrors.NewForbidden(corev1.Resource("configmaps"), fought.Name, errors.New(`User "operator" cannot patch resource "configmaps"`))
	p.Failed(fought, now, unpermitted)
	later := now.Add(24 * time.Hour)
	if p.Failed(fought, later, unpermitted) == nil || p.Failing(fought, later) == nil || p.Hopeless(fought, later) {
		t.Error("it is not waited for, or not reported")
	}
}

// However many objects a webhook concerns, only some Events tell of it; of anything else, all do.
func TestFailureEventsAreBounded(t *testing.T) {
	t.Parallel()
	var p Pace
	allowed := 0
	for range 10 * failureEvents {
		if p.AllowsEvent(&issuance.Obstacle{Reason: issuance.ReasonRequestFailed}, now) {
			allowed++
		}
		if !p.AllowsEvent(&issuance.Obstacle{Reason: issuance.ReasonSecretRefused}, now) {
			t.Fatal("another Event is held back")
		}
	}
	if allowed != failureEvents || !p.AllowsEvent(&issuance.Obstacle{Reason: issuance.ReasonRequestFailed}, now.Add(time.Second)) {
		t.Errorf("%d Events came at once", allowed)
	}
}
