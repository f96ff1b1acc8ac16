package serviceca

import (
	"testing"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// changedAt returns when the bundle last changed such that processes have to read it again,
// according to the status; zero for never.
func (f *fixture) changedAt() time.Time {
	f.Helper()
	return changedAt(f.serviceCA)
}

// TestProcessesHaveToRead checks that processes have to read the bundle again when a root that will
// sign was added, for any reason.
func TestProcessesHaveToRead(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		source string
		given  func(*fixture)
		want   bool
	}{
		"the first CA":                 {"", func(*fixture) {}, false},
		"a rotation":                   {"", func(s *fixture) { s.serviceCA.Spec.Rotation.Trigger = "now" }, true},
		"a lost key":                   {"", func(s *fixture) { s.secret = nil }, true},
		"key and bundle lost":          {"", func(s *fixture) { s.secret, s.published = nil, nil }, true},
		"a lost key without a status":  {"", func(s *fixture) { s.secret, s.serviceCA.Status = nil, v1alpha1.ServiceCAStatus{} }, true},
		"a lost bundle":                {"", func(s *fixture) { s.published = nil }, false},
		"a status lost":                {"", func(s *fixture) { s.serviceCA.Status = v1alpha1.ServiceCAStatus{} }, false},
		"the copy of a brought CA":     {"corp", func(s *fixture) { s.secret = nil }, false},
		"another CA brought":           {"corp", func(s *fixture) { s.sourceSecret = sourceSecret(s.T, nil, generateCA(s.T, "another", nil)) }, true},
		"all lost, and nobody is told": {"", func(s *fixture) { s.secret, s.published, s.serviceCA.Status = nil, nil, v1alpha1.ServiceCAStatus{} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t, tc.source)
			s.sourceSecret = sourceSecret(t, nil, generateCA(t, "corp", nil))
			s.settle()
			s.later(time.Hour)
			tc.given(s)
			start := s.now.Truncate(time.Second)
			s.rotated()
			if got := s.changedAt(); !tc.want && !got.IsZero() || tc.want && (got.Before(start) || got.After(s.now)) {
				t.Errorf("processes have to read what changed at %s; the change began %s", got, start)
			}
		})
	}
}

// TestChangeIsRemembered checks that the time of the last such change survives the restore of an
// earlier backup, and a lost key.
func TestChangeIsRemembered(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	s.settle()
	backup := s.secret
	s.serviceCA.Spec.Rotation.Trigger = "now"
	s.later(time.Hour)
	s.rotated()
	changed := s.changedAt()
	for name, secret := range map[string]func(){"a backup": func() { s.secret = backup }, "a lost key": func() { s.secret = nil }} {
		secret()
		if got := resolve(s.observed).state.TrustChangedAt; changed.IsZero() || !got.Equal(changed) {
			t.Errorf("%s: it was %s, and is now said to have been %s", name, changed, got)
		}
	}
}

// TestRecheckAfterAChange checks that the operator checks again a change that targets do not carry
// yet, even without a rotation: no event announces a problem of a target.
func TestRecheckAfterAChange(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		state    rotation.State
		evidence rotation.Evidence
		want     time.Duration
	}{
		"nothing is under way":              {rotation.State{Phase: v1alpha1.PhaseStable}, rotation.Evidence{OutOfDate: 1}, 0},
		"a change is":                       {rotation.State{Phase: v1alpha1.PhaseStable, TrustChanging: true}, rotation.Evidence{OutOfDate: 1}, retryEvidence},
		"a rotation is":                     {rotation.State{Phase: v1alpha1.PhaseReissuing}, rotation.Evidence{Outstanding: 1}, retryEvidence},
		"clients are restarted":             {rotation.State{Phase: v1alpha1.PhasePropagating}, rotation.Evidence{Restarts: rotation.Restarts{Clients: 1}}, retryEvidence},
		"nobody has looked at the clients":  {rotation.State{Phase: v1alpha1.PhasePropagating}, rotation.Evidence{Restarts: rotation.Restarts{Unknown: true}}, retryEvidence},
		"restarts that no rotation is for":  {rotation.State{Phase: v1alpha1.PhaseStable}, rotation.Evidence{Restarts: rotation.Restarts{Servers: 1}}, 0},
		"a rotation that only waits for it": {rotation.State{Phase: v1alpha1.PhaseRetiring}, rotation.Evidence{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan := changePlan{state: &tc.state}
			plan.scheduleRecheck(clusterEvidence{Evidence: tc.evidence})
			if plan.retry != tc.want {
				t.Errorf("it looks again after %s, want %s", plan.retry, tc.want)
			}
		})
	}
}
