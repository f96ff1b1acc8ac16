package serviceca

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// TestRestoredBackupKeepsEveryRoot checks that a backup of the signing key from before the CA that
// signed last signs again, keeps every root in the bundle, and is replaced by a new CA.
func TestRestoredBackupKeepsEveryRoot(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	first := s.settle()
	backup := s.secret
	s.secret = nil
	s.later(24 * time.Hour)
	second := s.rotated()
	s.secret = backup
	s.later(time.Hour)
	restored := s.takesPlace().state
	if restored.Active.Fingerprint() != first.Active.Fingerprint() {
		t.Errorf("%s signs, want the CA of the backup", restored.Active.Name())
	}
	if !restored.Bundle().Contains(pki.KeyID(second.Active.Certificate().SubjectKeyId)) || restored.Next == nil {
		t.Errorf("of 2 roots and the next %d are trusted", len(restored.Bundle()))
	}
	third := s.rotated()
	if fingerprint := third.Active.Fingerprint(); fingerprint == first.Active.Fingerprint() || fingerprint == second.Active.Fingerprint() {
		t.Errorf("%s signs, want a new CA", third.Active.Name())
	}
	if len(third.Bundle()) != 3 {
		t.Errorf("of 3 roots %d are trusted", len(third.Bundle()))
	}
}

// TestRestoredFromTheMiddleOfARotation checks a backup from the middle of a rotation, in which the
// next CA has not signed: the certificates that this CA has issued since stay trusted.
func TestRestoredFromTheMiddleOfARotation(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	s.settle()
	s.serviceCA.Spec.Rotation.Trigger = "now"
	s.later(time.Hour)
	s.settle()
	backup := s.secret
	s.later(timeout)
	second := s.settle()
	s.later(24 * time.Hour)
	s.secret = backup
	if restored := s.takesPlace().state; !restored.Bundle().Contains(pki.KeyID(second.Active.Certificate().SubjectKeyId)) {
		t.Errorf("%s is not trusted any more", second.Active.Name())
	}
}

// TestRestoredBeforeItsSuccessorSigns checks that a lost key that is restored from a backup signs
// again at once when no other CA has taken over yet.
func TestRestoredBeforeItsSuccessorSigns(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	first := s.settle()
	backup := s.secret
	s.secret = nil
	s.later(24 * time.Hour)
	if waiting := s.settle(); waiting.Active != nil || s.serviceCA.Status.Active != nil {
		t.Error("somebody signs whose root is not known yet")
	}
	s.secret = backup
	restored := s.takesPlace().state
	if restored.Active.Fingerprint() != first.Active.Fingerprint() || len(restored.Bundle()) != 1 {
		t.Errorf("%s signs, %d roots are trusted", restored.Active.Name(), len(restored.Bundle()))
	}
}

// TestRestoredAfterACompromise checks that a key that was replaced because of a compromise never
// signs again after a restore.
func TestRestoredAfterACompromise(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	first := s.settle()
	backup := s.secret
	s.serviceCA.Spec.Rotation.Trigger, s.serviceCA.Spec.Rotation.TriggerReason = "stolen", v1alpha1.TriggerCompromise
	s.later(time.Hour)
	s.rotated()
	s.secret = backup
	s.later(time.Minute)
	for range 3 {
		if restored := s.takesPlace().state; restored.Active != nil && restored.Active.Fingerprint() == first.Active.Fingerprint() {
			t.Fatal("the stolen key signs")
		}
	}
}

// TestPutInByHand checks that a CA that an administrator puts into the signing-key Secret does not
// sign before its root is published, and removes no trust.
func TestPutInByHand(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	first := s.settle()
	other := sourceSecret(t, nil, generateCA(t, "by hand", nil))
	s.secret = s.secret.DeepCopy()
	for _, key := range []string{"tls.crt", "tls.key"} {
		s.secret.Data[key] = other.Data[key]
	}
	s.secret.Data[rotation.BundleKey] = other.Data["tls.crt"]
	s.later(time.Hour)
	if state := s.takesPlace().state; state.Active != nil || !state.Bundle().Contains(pki.KeyID(first.Active.Certificate().SubjectKeyId)) {
		t.Errorf("%+v signs, %d roots are trusted", state.Active, len(state.Bundle()))
	}
}

// TestForgedRootIsNotRecovered checks that a root that another client added to the published bundle
// is not recovered as one of this ServiceCA, regardless of its key identifier.
func TestForgedRootIsNotRecovered(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	ours := s.settle().Active.Certificate()
	forged := generateCA(t, ours.Subject.CommonName, nil, func(c *x509.Certificate) { c.SubjectKeyId = ours.SubjectKeyId })
	s.published = append(s.published, pemOf(forged)...)
	s.secret = nil
	made := s.settle()
	for _, root := range made.Bundle() {
		if root.Equal(forged.Certificate) {
			t.Error("a forged root is trusted")
		}
	}
	if !made.Bundle().Contains(pki.KeyID(ours.SubjectKeyId)) || len(made.Bundle()) != 2 {
		t.Errorf("%d roots are trusted, want the new one and the lost one", len(made.Bundle()))
	}
}

// TestRestoredBackupForgetsNoLifetime checks that the operator remembers that certificates with a
// longer duration were issued, after the policies ask for shorter ones and an earlier backup is
// restored.
func TestRestoredBackupForgetsNoLifetime(t *testing.T) {
	t.Parallel()
	const short, long = 90 * 24 * time.Hour, 365 * 24 * time.Hour
	s := newFixture(t, "")
	s.longestDuration = short
	s.settle()
	backup := s.secret
	s.longestDuration = long
	s.settle()
	s.longestDuration, s.secret = short, backup
	if restored := s.settle(); restored.LongestDuration != long {
		t.Errorf("certificates of %s are said to be the longest", restored.LongestDuration)
	}
}

// TestOldBackupWithoutAStatus checks that the published bundle is kept for a ServiceCA that was
// created again and so has no status, with a backup that may be from before the last rotation.
func TestOldBackupWithoutAStatus(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	s.settle()
	backup := s.secret
	s.serviceCA.Spec.Rotation.Trigger = "now"
	s.later(time.Hour)
	second := s.rotated()
	s.secret, s.serviceCA.Status = backup, v1alpha1.ServiceCAStatus{}
	if restored := s.takesPlace().state; !restored.Bundle().Contains(pki.KeyID(second.Active.Certificate().SubjectKeyId)) {
		t.Error("the CA that signed last is not trusted any more")
	}
}

// TestKeyIsInNoAnnotation checks that the first write removes kubectl's last-applied annotation
// from a restored Secret, because it contains the key.
func TestKeyIsInNoAnnotation(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	s.settle()
	s.secret.Annotations["kubectl.kubernetes.io/last-applied-configuration"] = string(s.secret.Data["tls.key"])
	s.settle()
	for name, value := range s.secret.Annotations {
		if strings.Contains(value, "PRIVATE KEY") {
			t.Errorf("annotation %s holds the key", name)
		}
	}
}
