package keyring_test

import (
	"testing"
	"time"

	"k8s.io/utils/ptr"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/keyring"
)

// have is the CA that the keyring hands out.
func (s scene) have() *keyring.CA {
	s.Helper()
	ca, err := s.keys.Get(s.Context(), s.serviceCA)
	if err != nil {
		s.Fatal(err)
	}
	return ca
}

// While neither the status nor the Secret has changed the CA is the same, and whoever remembers something of it may go on.
func TestSameCA(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(scene)
		same   bool
	}{
		"nothing":    {func(scene) {}, true},
		"the Secret": {func(s scene) { s.secret.ResourceVersion = "2" }, false},
		"the status": {func(s scene) { s.serviceCA.Status.Active.LongestDurationSeconds = ptr.To[int64](7) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			before := s.have()
			s.clock.SetTime(s.clock.Now().Add(time.Hour))
			tc.change(s)
			if same := s.have() == before; same != tc.same {
				t.Errorf("it is the same: %t, want %t", same, tc.same)
			}
			s.hasRead(2)
		})
	}
}

// What was held while the CA was paused is spread from the end of the pause on, however long that takes, and whatever changes meanwhile.
func TestReissueAfterAPause(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.serviceCA.Spec.Rotation.Mode = v1alpha1.RotationPaused
	if begun := s.have().Reissue.Started; !begun.Equal(now) {
		t.Errorf("it began %s, want %s", begun, now)
	}
	s.serviceCA.Spec.Rotation.Mode = v1alpha1.RotationAutomatic
	resumed := now.Add(time.Hour)
	s.clock.SetTime(resumed)
	for i, change := range []func(){
		func() {},
		func() { s.secret.ResourceVersion = "2" },
		func() { s.serviceCA.Status.Active.LongestDurationSeconds = ptr.To[int64](7) },
	} {
		change()
		if begun := s.have().Reissue.Started; !begun.Equal(resumed) {
			t.Errorf("%d: it began %s, want %s", i, begun, resumed)
		}
		s.clock.SetTime(s.clock.Now().Add(2 * time.Minute))
	}
	s.serviceCA.UID = "uid-of-the-next"
	if begun := s.have().Reissue.Started; !begun.Equal(now) {
		t.Errorf("that of another CA began %s, want %s", begun, now)
	}
}
