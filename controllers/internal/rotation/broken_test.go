package rotation_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// broken returns a state in this phase, and its Secret with garbage in some keys.
func broken(t *testing.T, phase v1alpha1.CAPhase, keys ...string) (*fixture, *corev1.Secret) {
	t.Helper()
	s := newFixture(t, in(phase), func(s *fixture) {
		if s.State.Next != nil {
			s.State.Next.Source = "secret/corp"
		}
	})
	secret := write(t, s.State)
	for _, key := range keys {
		secret.Data[key] = []byte("garbage")
	}
	return s, secret
}

// TestReadLostKey checks that a key that cannot be read does not sign any more, that its root stays
// trusted for what it may have signed, and that the next CA takes over as planned. The same holds
// if neither tls.crt nor the record has a certificate for the key.
func TestReadLostKey(t *testing.T) {
	for _, key := range []string{corev1.TLSPrivateKeyKey, corev1.TLSCertKey} {
		for _, phase := range []v1alpha1.CAPhase{v1alpha1.PhasePublishing, v1alpha1.PhasePropagating} {
			t.Run(key+" in "+string(phase), func(t *testing.T) {
				s, secret := broken(t, phase, key)
				if key == corev1.TLSCertKey {
					forgetCertificate(t, secret)
				}
				got, err := rotation.Read(now, secret)
				if err == nil || !strings.Contains(err.Error(), key) || got == nil {
					t.Fatalf("Read = %v, %v; want a state, and what is wrong with %s", got, err, key)
				}
				if got.Active != nil || got.Phase != phase || got.Next.Name() != s.State.Next.Name() || got.Next.Source != "secret/corp" {
					t.Errorf("in %s, active %v, next %s from %s", got.Phase, got.Active, got.Next.Name(), got.Next.Source)
				}
				lost := s.State.Active.Root
				if len(got.Previous) != 1 || !got.Previous[0].Root.Equal(lost) || !got.Previous[0].SignedUntil.Equal(lost.NotAfter) {
					t.Errorf("the CAs before are %v, want the lost one until its end", viewOf(got).Previous)
				}
				if diff := cmp.Diff(s.State.Bundle().Encode(), got.Bundle().Encode()); diff != "" {
					t.Error("clients trust something else")
				}
				roundTrips(t, got)
			})
		}
	}
}

// forgetCertificate removes the certificate from the record.
func forgetCertificate(t *testing.T, secret *corev1.Secret) {
	t.Helper()
	var record map[string]any
	if err := json.Unmarshal(secret.Data[rotation.RecordKey], &record); err != nil {
		t.Fatal(err)
	}
	delete(record, "certificate")
	encoded, err := json.Marshal(record)
	secret.Data[rotation.RecordKey] = must(t, encoded, err)
}

// TestReadBrokenCertificate checks that, if tls.crt is unusable and tls.key belongs to the
// certificate in the record, the CA continues to sign with that certificate.
func TestReadBrokenCertificate(t *testing.T) {
	for _, phase := range []v1alpha1.CAPhase{v1alpha1.PhaseStable, v1alpha1.PhasePublishing, v1alpha1.PhasePropagating, v1alpha1.PhaseRetiring} {
		t.Run(string(phase), func(t *testing.T) {
			s, secret := broken(t, phase, corev1.TLSCertKey)
			got, err := rotation.Read(now, secret)
			if err == nil || !strings.Contains(err.Error(), "tls.crt") || got == nil {
				t.Fatalf("Read = %v, %v; want a state, and what is wrong with tls.crt", got, err)
			}
			same(t, viewOf(s.State), viewOf(got))
			if diff := cmp.Diff(write(t, s.State), write(t, got)); diff != "" {
				t.Errorf("written again (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReadBrokenNext checks that, without the next CA, the active one continues, and that what is
// left of the next CA stays trusted.
func TestReadBrokenNext(t *testing.T) {
	for _, key := range []string{rotation.NextPrivateKeyKey, rotation.NextCertKey} {
		t.Run(key, func(t *testing.T) {
			s, secret := broken(t, v1alpha1.PhasePropagating, key)
			got := read(t, secret)
			if got.Phase != v1alpha1.PhaseReissuing || got.Next != nil || got.Active.Name() != s.State.Active.Name() {
				t.Errorf("in %s, %v signs, next %v", got.Phase, got.Active, got.Next)
			}
			if diff := cmp.Diff(s.State.Bundle().Encode(), got.Bundle().Encode()); diff != "" {
				t.Error("clients trust something else")
			}
			roundTrips(t, got)
		})
	}
}

// TestReadNothing checks that there is no state without a usable key, and that the error says why.
func TestReadNothing(t *testing.T) {
	tlsKey, nextKey := corev1.TLSPrivateKeyKey, rotation.NextPrivateKeyKey
	for _, tc := range []struct {
		name  string
		phase v1alpha1.CAPhase
		keys  []string
	}{
		{"the only key", v1alpha1.PhaseStable, []string{tlsKey}},
		{"the only key, while another retires", v1alpha1.PhaseRetiring, []string{tlsKey}},
		{"both keys", v1alpha1.PhasePropagating, []string{tlsKey, nextKey}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, secret := broken(t, tc.phase, tc.keys...)
			if got, err := rotation.Read(now, secret); got != nil || err == nil || !strings.Contains(err.Error(), "tls.key") {
				t.Errorf("Read = %v, %v; want no state, and what is wrong with tls.key", got, err)
			}
		})
	}
	if got, err := rotation.Read(now, &corev1.Secret{}); got != nil || err == nil {
		t.Errorf("Read of an empty Secret = %v, %v", got, err)
	}
}

// TestReadWithoutRoot checks that an intermediate without a known root is refused: no client could
// trust it.
func TestReadWithoutRoot(t *testing.T) {
	root, key := certify(t, "root", nil, nil)
	secret := write(t, &rotation.State{Phase: v1alpha1.PhaseStable, Active: below(t, root, key, "corp")})
	delete(secret.Data, rotation.BundleKey)
	if got, err := rotation.Read(now, secret); got != nil || err == nil || !strings.Contains(err.Error(), "does not lead to a root") {
		t.Errorf("Read = %v, %v; want that it does not lead to a root", got, err)
	}
}

// TestWriteKeeps checks that Write keeps data that it does not know, and destroys those of our keys
// that are not in the state.
func TestWriteKeeps(t *testing.T) {
	s := newFixture(t, trigger("now", routine), func(s *fixture) { s.Spec.Propagation.Minimum = "0s" })
	next := generate(t, "next", now, lifetime)
	s.move(rotation.Begin, next)
	s.move(rotation.Propagate, nil)
	s.Now = s.State.Since
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "default-signing-key", Annotations: map[string]string{"note": "x"}},
		Data:       map[string][]byte{"keystore.jks": []byte("x")},
	}
	for range 2 {
		if err := s.State.Write(secret); err != nil {
			t.Fatal(err)
		}
		if got := secret.Data["keystore.jks"]; !bytes.Equal(got, []byte("x")) || secret.Annotations["note"] != "x" || secret.Name != "default-signing-key" {
			t.Errorf("what others have put there is gone: %q, %v", got, secret.ObjectMeta)
		}
		if got := secret.Annotations[v1alpha1.AnnotationSource]; got != rotation.SelfSigned {
			t.Errorf("the source is %q", got)
		}
		if s.State.Next != nil {
			s.move(rotation.Switch, nil)
		}
	}
	if len(secret.Data[rotation.CrossSignedKey]) == 0 {
		t.Error("there is no bridge")
	}
	s.State.Active.Authority = s.State.Active.WithCrossSigned(nil)
	if err := s.State.Write(secret); err != nil {
		t.Fatal(err)
	}
	var left []string
	for key := range secret.Data {
		left = append(left, key)
	}
	slices.Sort(left)
	want := []string{"ca-bundle.crt", "keystore.jks", "rotation.json", "tls.crt", "tls.key"}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("the keys (-want +got):\n%s", diff)
	}
}
