package rotation_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// privateKey returns the key of a CA in PEM, as it is saved.
func privateKey(signer *rotation.Signer) []byte {
	saved := map[string][]byte{}
	signer.Save(saved, "crt", "key", "bridge")
	return saved["key"]
}

// keysWith returns the keys of a Secret whose values contain a private key, in PEM or DER.
func keysWith(t *testing.T, secret *corev1.Secret, key []byte) []string {
	t.Helper()
	block, _ := pem.Decode(key)
	if block == nil {
		t.Fatal("no private key in PEM")
	}
	// The end of a PKCS #8 key may be the public key, which certificates contain too. Only the
	// middle is secret.
	line := bytes.Split(key, []byte("\n"))[1]
	var names []string
	for name, value := range secret.Data {
		if bytes.Contains(value, line) || bytes.Contains(value, block.Bytes) {
			names = append(names, name)
		}
	}
	return slices.Sorted(slices.Values(names))
}

// TestSwitchDestroysKey checks that the write that lets the next CA sign leaves nothing of its
// predecessor's key.
func TestSwitchDestroysKey(t *testing.T) {
	s := newFixture(t, in(v1alpha1.PhasePropagating), at(minimum))
	oldKey, newKey := privateKey(s.State.Active), privateKey(s.State.Next)
	secret := &corev1.Secret{}
	for _, tc := range []struct {
		name     string
		old, new []string
		move     func()
	}{
		{"before", []string{"tls.key"}, []string{"next.key"}, func() {}},
		{"after", nil, []string{"tls.key"}, func() { s.move(rotation.Switch, nil) }},
	} {
		tc.move()
		if err := s.State.Write(secret); err != nil {
			t.Fatal(err)
		}
		if got := keysWith(t, secret, oldKey); !slices.Equal(got, tc.old) {
			t.Errorf("%s: the old key is in %v, want %v", tc.name, got, tc.old)
		}
		if got := keysWith(t, secret, newKey); !slices.Equal(got, tc.new) {
			t.Errorf("%s: the new key is in %v, want %v", tc.name, got, tc.new)
		}
	}
}

// TestRotation goes through a whole rotation, also with clocks that stop or go back: each phase
// begins later than the one before, and only the first move changes the bundle.
func TestRotation(t *testing.T) {
	for _, tc := range []struct {
		name string
		step time.Duration
	}{
		{"a clock that goes on", time.Hour}, {"one that stands still", 0}, {"one that goes back", -time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newFixture(t, trigger("now", routine), func(s *fixture) { s.Spec.Propagation.Minimum = "0s" })
			s.State.Since = second
			old, next, bundle := s.State.Active, generate(t, "next", now, lifetime), []byte(nil)
			for _, turn := range []struct {
				move  rotation.Move
				phase v1alpha1.CAPhase
			}{
				{rotation.Begin, v1alpha1.PhasePublishing}, {rotation.Propagate, v1alpha1.PhasePropagating},
				{rotation.Switch, v1alpha1.PhaseReissuing}, {rotation.Retire, v1alpha1.PhaseRetiring}, {rotation.Complete, v1alpha1.PhaseStable},
			} {
				before := s.State.Since
				if s.Now = s.Now.Add(tc.step); turn.move == rotation.Switch && s.Now.Before(before) {
					s.Now = before
				} else if turn.move == rotation.Complete {
					s.State.Previous[0].SignedUntil = s.Now
				}
				s.move(turn.move, next)
				if s.State.Phase != turn.phase || !s.State.Since.After(before) || s.State.Since.Nanosecond() != 0 {
					t.Errorf("%s: in %s since %s, want %s after %s", turn.move, s.State.Phase, s.State.Since, turn.phase, before)
				}
				if bundle == nil {
					bundle = s.State.Bundle().Encode()
				}
				if !bytes.Equal(bundle, s.State.Bundle().Encode()) {
					t.Errorf("%s changes the bundle", turn.move)
				}
			}
			if want := (pki.Bundle{next.Root, old.Root}); !slices.EqualFunc(s.State.Bundle(), want, (*x509.Certificate).Equal) {
				t.Error("the bundle is not the new root and the old one")
			}
			if s.State.Active.Name() != next.Name() || s.State.Next != nil || s.State.ReissueSpread != time.Hour {
				t.Errorf("active %s, next %v, reissued over %s", s.State.Active.Name(), s.State.Next, s.State.ReissueSpread)
			}
		})
	}
}

// TestMoveChangesNothing checks that Move does not modify its input: if the write fails, the old
// state still holds.
func TestMoveChangesNothing(t *testing.T) {
	for _, tc := range []struct {
		move  rotation.Move
		given []func(*fixture)
	}{
		{rotation.NoMove, given(in(v1alpha1.PhasePropagating))},
		{rotation.Begin, given(in(v1alpha1.PhaseRetiring), trigger("now", compromise))},
		{rotation.Propagate, given(in(v1alpha1.PhasePublishing))},
		{rotation.Switch, given(in(v1alpha1.PhasePropagating), follows(day), func(s *fixture) { s.State.Compromise = true }, at(minimum))},
		{rotation.Retire, given(in(v1alpha1.PhaseReissuing))},
		{rotation.Complete, given(in(v1alpha1.PhaseRetiring), at(60*day))},
		{rotation.DropRoots, given(in(v1alpha1.PhaseRetiring), at(60*day), untilUnused)},
	} {
		t.Run("move "+string(tc.move), func(t *testing.T) {
			s := newFixture(t, tc.given...)
			before, given := viewOf(s.State), s.State
			s.move(tc.move, generate(t, "another", now, lifetime))
			same(t, before, viewOf(given))
			if tc.move == rotation.NoMove {
				same(t, before, viewOf(s.State))
			} else if s.State == given {
				t.Error("it is the same state")
			}
		})
	}
}

// TestSignedUntil checks that everything the old key signed until the switch, and for SigningSlack
// longer, has expired at SignedUntil.
func TestSignedUntil(t *testing.T) {
	for _, tc := range []struct {
		name    string
		longest time.Duration
		ends    time.Duration
		want    time.Duration
	}{
		{"the longest certificate", longestDuration, lifetime, longestDuration + rotation.SigningSlack},
		{"nothing was signed", 0, lifetime, rotation.SigningSlack},
		{"the CA ends just after it", longestDuration, longestDuration + rotation.SigningSlack + time.Second, longestDuration + rotation.SigningSlack},
		{"the CA ends just before it", longestDuration, longestDuration + rotation.SigningSlack - time.Second, longestDuration + rotation.SigningSlack - time.Second},
		{"the CA ends soon", longestDuration, time.Hour, time.Hour},
		{"the CA has ended", longestDuration, -time.Hour, -time.Hour},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newFixture(t, in(v1alpha1.PhasePropagating), func(s *fixture) {
				s.State.LongestDuration = tc.longest
				s.State.Active = generate(s, "active", second.Add(tc.ends-lifetime), lifetime)
				s.Now = second
				s.State.Since = second.Add(-minimum)
			})
			signer := s.State.Active
			s.move(rotation.Switch, nil)
			if len(s.State.Previous) != 1 {
				t.Fatalf("%d CAs before, want one", len(s.State.Previous))
			}
			got, want := s.State.Previous[0], second.Add(tc.want)
			if !got.SignedUntil.Equal(want) || got.SignedUntil.After(signer.NotAfter()) {
				t.Errorf("signed until %s, want %s; the CA ends %s", got.SignedUntil, want, signer.NotAfter())
			}
			if !got.Root.Equal(signer.Root) || got.KeyID != pki.KeyID(signer.Certificate().SubjectKeyId) || got.Compromised {
				t.Errorf("the CA before is %s, key %s, compromised %v", pki.NameOf(got.Root), got.KeyID, got.Compromised)
			}
		})
	}
}
