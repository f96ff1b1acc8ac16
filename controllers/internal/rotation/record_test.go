package rotation_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// view is the content of a state in a comparable form.
type view struct {
	rotation.State
	Active, Next *signerView
	Previous     []predecessorView
}

type signerView struct{ Saved, Root, Source string }

type predecessorView struct {
	Root, KeyID string
	SignedUntil time.Time
	Compromised bool
}

func viewOf(s *rotation.State) view {
	view := view{State: *s, Active: viewOfSigner(s.Active), Next: viewOfSigner(s.Next)}
	view.State.Active, view.State.Next, view.State.Previous = nil, nil, nil
	for _, p := range s.Previous {
		view.Previous = append(view.Previous, predecessorView{pki.Fingerprint(p.Root), p.KeyID, p.SignedUntil, p.Compromised})
	}
	return view
}

func viewOfSigner(s *rotation.Signer) *signerView {
	if s == nil {
		return nil
	}
	saved := map[string][]byte{}
	s.Save(saved, "crt", "key", "bridge")
	all := slices.Concat(saved["crt"], saved["key"], []byte("bridge"), saved["bridge"])
	return &signerView{string(all), pki.Fingerprint(s.Root), s.Source}
}

func same(t rapid.TB, want, got view) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func write(t rapid.TB, s *rotation.State) *corev1.Secret {
	t.Helper()
	secret := &corev1.Secret{}
	if err := s.Write(secret); err != nil {
		t.Fatal(err)
	}
	return secret
}

func read(t rapid.TB, secret *corev1.Secret) *rotation.State {
	t.Helper()
	state, err := rotation.Read(now, secret)
	return must(t, state, err)
}

// roundTrips fails the test unless a state is read as it was written, and is then written as
// before.
func roundTrips(t rapid.TB, s *rotation.State) {
	t.Helper()
	secret := write(t, s)
	found := read(t, secret)
	same(t, viewOf(s), viewOf(found))
	if diff := cmp.Diff(secret, write(t, found)); diff != "" {
		t.Errorf("written again (-want +got):\n%s", diff)
	}
}

// TestRoundTrip checks every form that the Secret has during a rotation.
func TestRoundTrip(t *testing.T) {
	root, key := certify(t, "root", nil, nil)
	for name, given := range map[string][]func(*fixture){
		"a CA alone":           nil,
		"published":            given(in(v1alpha1.PhasePublishing)),
		"propagating":          given(in(v1alpha1.PhasePropagating), follows(day)),
		"the key is lost":      given(in(v1alpha1.PhasePropagating), keyLost, follows(day)),
		"the only CA to come":  given(in(v1alpha1.PhasePublishing), keyLost),
		"reissuing":            given(in(v1alpha1.PhaseReissuing), func(s *fixture) { s.State.ReissueSpread = 90 * time.Minute }),
		"compromised":          given(in(v1alpha1.PhaseRetiring), compromised, olderToo(day)),
		"from a backup":        given(restored),
		"an intermediate":      given(func(s *fixture) { s.State.Active = below(t, root, key, "corp") }),
		"an intermediate next": given(in(v1alpha1.PhasePublishing), func(s *fixture) { s.State.Next = below(t, root, key, "corp") }),
		"it has ended":         given(func(s *fixture) { s.State.Active = generate(s, "ended", now.Add(-3*day), day) }),
	} {
		t.Run(name, func(t *testing.T) { roundTrips(t, newFixture(t, given...).State) })
	}
}

// TestRoundTripCrossSigned checks the same with cross-signed chains, at each step of two rotations.
func TestRoundTripCrossSigned(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.Spec.Propagation.Minimum = "0s" })
	for _, value := range []string{"1", "2"} {
		s.Spec.Trigger = value
		for _, move := range []rotation.Move{rotation.Begin, rotation.Propagate, rotation.Switch} {
			s.Now = second.Add(s.Now.Sub(second).Truncate(time.Second) + time.Minute)
			s.move(move, generate(t, "next", s.Now, lifetime))
			roundTrips(t, s.State)
		}
	}
	if len(s.State.Active.CrossSigned()) != 2 {
		t.Errorf("a bridge of %d, want 2", len(s.State.Active.CrossSigned()))
	}
}

// TestRoundTripOfAny checks that nothing of an arbitrary state is lost.
func TestRoundTripOfAny(t *testing.T) {
	var signers []*rotation.Signer
	for i := range 8 {
		signers = append(signers, generate(t, "signer", now.Add(-time.Duration(i)*day), lifetime))
	}
	phases := []v1alpha1.CAPhase{
		v1alpha1.PhaseStable, v1alpha1.PhasePublishing, v1alpha1.PhasePropagating, v1alpha1.PhaseReissuing, v1alpha1.PhaseRetiring,
	}
	rapid.Check(t, func(t *rapid.T) {
		moment := rapid.Custom(func(t *rapid.T) time.Time {
			return second.Add(time.Duration(rapid.IntRange(-1e9, 1e9).Draw(t, "seconds")) * time.Second)
		})
		span := rapid.Map(rapid.Int64Range(0, int64(lifetime)), func(d int64) time.Duration { return time.Duration(d) })
		pool := rapid.Permutation(signers).Draw(t, "signers")
		s := &rotation.State{
			Phase: rapid.SampledFrom(phases).Draw(t, "phase"), Since: moment.Draw(t, "since"), StartedAt: moment.Draw(t, "startedAt"),
			Reason: v1alpha1.RotationReason(rapid.String().Draw(t, "reason")), Trigger: rapid.String().Draw(t, "trigger"),
			Compromise: rapid.Bool().Draw(t, "compromise"), Restored: rapid.Bool().Draw(t, "restored"),
			LongestDuration: span.Draw(t, "longest"), ReissueSpread: span.Draw(t, "reissueOver"),
		}
		if s.IsPreparing() {
			s.Next = pool[0]
		}
		if s.Next == nil || rapid.Bool().Draw(t, "signs") {
			s.Active = pool[1]
		}
		for _, former := range pool[2:rapid.IntRange(2, len(pool)).Draw(t, "predecessors")] {
			s.AddPredecessors(rotation.Predecessor{
				Root: former.Root, KeyID: pki.KeyID(former.Root.SubjectKeyId),
				SignedUntil: moment.Draw(t, "signedUntil"), Compromised: rapid.Bool().Draw(t, "compromised"),
			})
		}
		roundTrips(t, s)
	})
}

// TestReadUnrecorded checks that Read assumes the worst for a Secret of another tool or version,
// and for one that was edited: that certificates of the CA live as long as they possibly can.
func TestReadUnrecorded(t *testing.T) {
	for _, kept := range []string{
		"", "garbage", "null", "[]", `{"phase":`, `{"phase":7}`, `{"phase":"Propagating","lastTransitionTime":7}`, `{"phase":"Dancing"}`,
		`{"phase":"Reissuing","lastTransitionTime":"2071-03-14T15:09:26Z","longestDuration":"7 bananas","previous":[]}`,
	} {
		t.Run(kept, func(t *testing.T) {
			s := newFixture(t, follows(day))
			active, before := s.State.Active, s.State.Previous[0].Root
			secret := write(t, s.State)
			secret.Data[rotation.RecordKey] = []byte(kept)
			got := read(t, secret)
			want := &rotation.State{
				Phase: v1alpha1.PhaseStable, LongestDuration: active.NotAfter().Sub(active.Certificate().NotBefore), Active: active,
				Previous: []rotation.Predecessor{{Root: before, KeyID: pki.KeyID(before.SubjectKeyId), SignedUntil: before.NotAfter}},
			}
			same(t, viewOf(want), viewOf(got))
			roundTrips(t, got)
		})
	}
	t.Run("nothing but the pair", func(t *testing.T) {
		s := newFixture(t)
		secret := write(t, s.State)
		maps.DeleteFunc(secret.Data, func(key string, _ []byte) bool { return !strings.HasPrefix(key, "tls.") })
		got := read(t, secret)
		if got.Phase != v1alpha1.PhaseStable || got.Active.Name() != s.State.Active.Name() || len(got.Previous) != 0 {
			t.Errorf("in %s, %s signs after %d CAs", got.Phase, got.Active.Name(), len(got.Previous))
		}
	})
}
