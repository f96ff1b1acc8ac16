package serviceca

import (
	"testing"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
)

// TestStolenKeyCopiedAgain checks that a compromise of a CA that was brought is not taken for done when the copy of its key is lost while
// it waits for another CA: the same CA is copied and signs, and the compromise goes on waiting. The next CA then takes over in a
// rotation for a compromise.
func TestStolenKeyCopiedAgain(t *testing.T) {
	s := newScene(t, "corp")
	s.brought = brought(t, nil, mint(t, "corp", nil))
	s.sound()
	s.later(time.Hour)
	s.serviceCA.Spec.Rotation.Trigger, s.serviceCA.Spec.Rotation.TriggerReason = "stolen", v1alpha1.TriggerCompromise
	s.takesPlace()
	s.secret = nil
	for range 4 {
		s.later(patience)
		if decided := s.takesPlace(); decided.state.Trigger == "stolen" || decided.state.Compromise {
			t.Fatalf("in %s the compromise is taken for done", decided.state.Phase)
		}
	}
	s.brought = brought(t, nil, mint(t, "next corp", nil))
	decided := s.takesPlace()
	if decided.state.Reason != v1alpha1.RotationCompromise || !decided.state.Compromise || decided.state.Trigger != "stolen" {
		t.Errorf("the next CA takes over for the reason %s, compromise %t, trigger %q", decided.state.Reason, decided.state.Compromise, decided.state.Trigger)
	}
}

// TestStolenKeyRestored checks that a backup of a stolen key does not sign again while a further compromise prepares the next CA.
func TestStolenKeyRestored(t *testing.T) {
	s := newScene(t, "")
	s.longest = 10 * time.Hour
	stolen := s.sound()
	backup := s.secret.DeepCopy()
	s.later(time.Hour)
	s.serviceCA.Spec.Rotation.TriggerReason = v1alpha1.TriggerCompromise
	s.serviceCA.Spec.Rotation.Trigger = "stolen"
	for s.takesPlace().state.Phase != v1alpha1.PhaseReissuing {
		s.later(patience / 2)
	}
	s.serviceCA.Spec.Rotation.Trigger = "again"
	s.takesPlace()
	s.secret = backup
	if decided := s.takesPlace(); decided.state.Active != nil && decided.state.Active.Root.Equal(stolen.Active.Root) {
		t.Errorf("the stolen CA signs again in %s", decided.state.Phase)
	}
}
