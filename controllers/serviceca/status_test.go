package serviceca

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/injector"
)

// messageOf returns a condition as "status reason: message".
func messageOf(status v1alpha1.ServiceCAStatus, kind string) string {
	condition := meta.FindStatusCondition(status.Conditions, kind)
	if condition == nil {
		return "absent"
	}
	return fmt.Sprintf("%s %s: %s", condition.Status, condition.Reason, condition.Message)
}

func (s *history) status(evidence clusterEvidence) v1alpha1.ServiceCAStatus {
	return buildStatus(s.now, s.serviceCA, makePlan(s.observed, resolve(s.observed), evidence), evidence)
}

// TestTrustEstablished checks that trust is established when every target carries the bundle and
// every certificate chains to it.
func TestTrustEstablished(t *testing.T) {
	t.Parallel()
	s := newHistory(t)
	s.settle()
	s.rotation().Trigger = "now"
	s.pass()
	active, previous := s.serviceCA.Status.Active.SubjectKeyID, s.serviceCA.Status.Previous[0].SubjectKeyID
	targets := func(all, current, blocked int32, certificates map[string]int32) clusterEvidence {
		return clusterEvidence{targets: injector.Targets{All: all, Current: current, Blocked: blocked}, certificates: certificates}
	}
	for name, tc := range map[string]struct {
		evidence clusterEvidence
		want     string
	}{
		"nothing":  {clusterEvidence{}, "True TrustEstablished: all 0 targets"},
		"all":      {targets(3, 3, 0, map[string]int32{active: 5}), "True TrustEstablished: all 3 targets carry the bundle"},
		"previous": {targets(3, 3, 0, map[string]int32{active: 5, previous: 2}), "True TrustEstablished: "},
		"behind":   {targets(3, 1, 0, map[string]int32{active: 5}), "False TargetsBehind: 2 of 3 targets"},
		"stranger": {clusterEvidence{targets: injector.Targets{All: 3, Current: 3}, untrusted: 2}, "False CertificatesBehind: 2 certificates"},
		"blocked":  {targets(3, 2, 1, nil), "False TargetsBlocked: 1 of 3 targets"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status := s.status(tc.evidence)
			if got := messageOf(status, v1alpha1.ConditionTrustEstablished); !strings.HasPrefix(got, tc.want) {
				t.Errorf("TrustEstablished is %q, want %q", got, tc.want)
			}
			if got := messageOf(status, v1alpha1.ConditionReady); !strings.HasPrefix(got, "True Ready: signer@") {
				t.Errorf("Ready is %q", got)
			}
			if *status.Active.Certificates != tc.evidence.certificates[active] || *status.Previous[0].Certificates != tc.evidence.certificates[previous] {
				t.Errorf("the counts are %d and %d", *status.Active.Certificates, *status.Previous[0].Certificates)
			}
			if got := status.TrustBundle; got.Targets != tc.evidence.targets.All || got.CurrentTargets != tc.evidence.targets.Current || got.BlockedTargets != tc.evidence.targets.Blocked {
				t.Errorf("of %d targets %d are current and %d blocked, want %+v", got.Targets, got.CurrentTargets, got.BlockedTargets, tc.evidence.targets)
			}
		})
	}
}

// TestSourceSecretCAOfAYear checks that an imported CA with a lifetime shorter than rotateBefore is
// not ExpiringSoon before two thirds of its lifetime.
func TestSourceSecretCAOfAYear(t *testing.T) {
	t.Parallel()
	const year = 365 * day
	s := newHistory(t)
	s.rotation().RotateBefore = "9480h"
	s.brings(year)
	s.settle()
	start := s.now
	for age, want := range map[time.Duration]string{0: "False NotDue", year/3*2 - day: "False NotDue", year/3*2 + day: "True ThresholdPassed"} {
		s.now = start.Add(age)
		status := s.status(clusterEvidence{})
		if got := messageOf(status, v1alpha1.ConditionExpiringSoon); !strings.HasPrefix(got, want) {
			t.Errorf("at the age of %s ExpiringSoon is %q, want %q", age, got, want)
		}
		if due := status.NextRotationTime.Sub(start); due < year/3*2-day || due > year/3*2+day {
			t.Errorf("it is due after %s", due)
		}
	}
}

// TestStatusRemembers checks that the status keeps what it recorded about a CA while the CA has a
// problem: its roots could not be recovered otherwise.
func TestStatusRemembers(t *testing.T) {
	t.Parallel()
	s := newHistory(t)
	s.settle()
	before := s.serviceCA.Status
	delete(s.secret.Labels, v1alpha1.LabelServiceCA)
	s.serviceCA.Generation = 7
	s.now = s.now.Add(time.Hour)
	s.settle()
	after := s.serviceCA.Status
	if after.Active == nil || after.Active.Fingerprint != before.Active.Fingerprint || after.TrustBundle.Hash != before.TrustBundle.Hash {
		t.Errorf("the status is %+v", after)
	}
	if got := messageOf(after, v1alpha1.ConditionStalled); after.ObservedGeneration != 7 || !strings.HasPrefix(got, "True SigningKeyNotOurs: Secret default-signing-key") {
		t.Errorf("Stalled is %q, observed is %d", got, after.ObservedGeneration)
	}
	ready := meta.FindStatusCondition(after.Conditions, v1alpha1.ConditionReady)
	if ready.Status != metav1.ConditionFalse || !ready.LastTransitionTime.Time.Equal(s.now) {
		t.Errorf("Ready is %+v", ready)
	}
}

// TestStalledOrReconciling checks that a ServiceCA is Stalled when an administrator has to act and
// Reconciling when the problem may go away by itself, and never both.
func TestStalledOrReconciling(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		given                func(*history)
		stalled, reconciling string
	}{
		"sound":             {func(*history) {}, "absent", "absent"},
		"nothing brought":   {func(s *history) { s.brings(day); s.sourceSecret = nil }, "absent", "True SourceNotThere"},
		"the wrong brought": {func(s *history) { s.brings(day); s.sourceSecret.Data = nil }, "True SourceInvalid", "absent"},
		"clock set back":    {func(s *history) { s.settle(); s.now = s.now.Add(-day) }, "absent", "True NotYetValid"},
		"unreadable":        {func(s *history) { s.settle(); s.corrupt("tls.key", nil) }, "absent", "True SigningKeyLost"},
		"and paused":        {func(s *history) { s.settle(); s.corrupt("tls.key", nil); s.pause() }, "True RotationPaused", "absent"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newHistory(t)
			tc.given(s)
			status := s.status(clusterEvidence{})
			if got := messageOf(status, v1alpha1.ConditionStalled); !strings.HasPrefix(got, tc.stalled) {
				t.Errorf("Stalled is %q, want %q", got, tc.stalled)
			}
			if got := messageOf(status, v1alpha1.ConditionReconciling); !strings.HasPrefix(got, tc.reconciling) {
				t.Errorf("Reconciling is %q, want %q", got, tc.reconciling)
			}
		})
	}
}

// TestUntilNext checks that the operator reconciles again at the rotation threshold and at
// notBefore and notAfter of a certificate, and not without need.
func TestUntilNext(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		given func(*history)
		want  time.Duration
	}{
		"the threshold":                {func(*history) {}, 50 * day},
		"the end of the propagation":   {func(s *history) { s.now = s.now.Add(60 * day); s.settle() }, minimum + 2*time.Second},
		"the end, while paused":        {func(s *history) { s.now = s.now.Add(60 * day); s.pause() }, 40 * day},
		"the end of one before":        {func(s *history) { s.now = s.now.Add(98 * day); s.pass(); s.now = s.now.Add(day); s.settle() }, day - timeout},
		"the begin of what is brought": {func(s *history) { s.secret = nil; s.brings(day); s.now = s.now.Add(-time.Hour) }, 55 * time.Minute},
		"two thirds of what is brought": {func(s *history) { s.brings(day); s.pass(); s.now = s.now.Add(timeout); s.settle() },
			day - (day+5*time.Minute)/3 - 2*timeout},
		"the end of what is brought": {func(s *history) { s.brings(day); s.pass(); s.now = s.now.Add(20 * time.Hour); s.settle() }, 4*time.Hour - timeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newHistory(t)
			s.settle()
			tc.given(s)
			resolved := resolve(s.observed)
			got := untilNext(s.observed, makePlan(s.observed, resolved, currentEvidence(s.observed, resolved)))
			if got > tc.want || got < tc.want-2*time.Second {
				t.Errorf("it looks again after %s, want %s", got, tc.want)
			}
		})
	}
}
