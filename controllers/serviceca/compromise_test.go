package serviceca

import (
	"testing"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
)

// TestCompromisedKeyCopiedAgain checks that the replacement of a compromised, imported CA is not
// taken for complete when the operator loses its copy of the key while it waits for another CA: the
// same CA is copied and signs, and the rotation still waits. The next CA then takes over in a
// rotation for a compromise.
func TestCompromisedKeyCopiedAgain(t *testing.T) {
	s := newFixture(t, "corp")
	s.sourceSecret = sourceSecret(t, nil, generateCA(t, "corp", nil))
	s.settle()
	s.later(time.Hour)
	s.serviceCA.Spec.Rotation.Trigger, s.serviceCA.Spec.Rotation.TriggerReason = "stolen", v1alpha1.TriggerCompromise
	s.takesPlace()
	s.secret = nil
	for range 4 {
		s.later(timeout)
		if plan := s.takesPlace(); plan.state.Trigger == "stolen" || plan.state.Compromise {
			t.Fatalf("in %s the compromise is taken for done", plan.state.Phase)
		}
	}
	s.sourceSecret = sourceSecret(t, nil, generateCA(t, "next corp", nil))
	plan := s.takesPlace()
	if plan.state.Reason != v1alpha1.RotationCompromise || !plan.state.Compromise || plan.state.Trigger != "stolen" {
		t.Errorf("the next CA takes over for the reason %s, compromise %t, trigger %q", plan.state.Reason, plan.state.Compromise, plan.state.Trigger)
	}
}

// TestCompromisedKeyRestored checks that a backup of a compromised key does not sign again while
// the next CA is prepared because of another compromise.
func TestCompromisedKeyRestored(t *testing.T) {
	s := newFixture(t, "")
	s.longestDuration = 10 * time.Hour
	stolen := s.settle()
	backup := s.secret.DeepCopy()
	s.later(time.Hour)
	s.serviceCA.Spec.Rotation.TriggerReason = v1alpha1.TriggerCompromise
	s.serviceCA.Spec.Rotation.Trigger = "stolen"
	for s.takesPlace().state.Phase != v1alpha1.PhaseReissuing {
		s.later(timeout / 2)
	}
	s.serviceCA.Spec.Rotation.Trigger = "again"
	s.takesPlace()
	s.secret = backup
	if plan := s.takesPlace(); plan.state.Active != nil && plan.state.Active.Root.Equal(stolen.Active.Root) {
		t.Errorf("the stolen CA signs again in %s", plan.state.Phase)
	}
}
