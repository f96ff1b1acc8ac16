package keyring_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unsafe"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// now is in the far future, so that a stray time.Now() makes a test fail.
var now = time.Date(2071, time.March, 14, 15, 9, 26, 535897932, time.UTC)

// fakeReader is the API server as a keyring reads it, with one Secret, or an error instead, and one
// ServiceCA.
type fakeReader struct {
	client.Reader
	secret    *corev1.Secret
	err       error
	serviceCA *v1alpha1.ServiceCA
	reads     int
}

func (f *fakeReader) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	switch into := into.(type) {
	case *corev1.Secret:
		f.reads++
		if f.err == nil && (f.secret == nil || key.Namespace != "system" || key.Name != f.secret.Name) {
			return apierrors.NewNotFound(corev1.Resource("secrets"), key.Name)
		}
		if f.err == nil {
			f.secret.DeepCopyInto(into)
		}
		return f.err
	case *v1alpha1.ServiceCA:
		if f.serviceCA == nil {
			return apierrors.NewNotFound(schema.GroupResource{Resource: "servicecas"}, key.Name)
		}
		f.serviceCA.DeepCopyInto(into)
		return nil
	}
	return fmt.Errorf("nobody should read a %T", into)
}

// fixture is a keyring over a fakeReader, with a clock that the test sets.
type fixture struct {
	*testing.T
	*fakeReader
	keys  *keyring.Keyring
	clock *clocktesting.FakePassiveClock
}

// newFixture returns a fixture with a ServiceCA that is ready and the Secret with its key.
func newFixture(t *testing.T) fixture {
	t.Helper()
	s := fixture{T: t, fakeReader: &fakeReader{}, clock: clocktesting.NewFakePassiveClock(now)}
	s.keys = keyring.New(s.fakeReader, "system", s.clock)
	s.secret, s.serviceCA = newCA(t)
	return s
}

// newCA returns a signing-key Secret, and a ServiceCA whose status names its key.
func newCA(t *testing.T) (*corev1.Secret, *v1alpha1.ServiceCA) {
	t.Helper()
	pair, err := pki.GenerateRoot(now, pki.RootSpec{CommonName: "signer", Duration: time.Hour, Key: pki.KeySpecOf(v1alpha1.PrivateKey{})})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.LoadAuthority(pair)
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "system", Name: "default-signing-key"}, Data: map[string][]byte{
		corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.PrivateKey, rotation.BundleKey: pair.Certificate,
	}}
	ca := &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default", UID: "uid-of-default"}}
	ca.Status.Active = &v1alpha1.CAGeneration{Subject: "signer", Fingerprint: authority.Fingerprint()}
	ca.Status.TrustBundle = &v1alpha1.TrustBundleStatus{Hash: pki.Hash(pair.Certificate)}
	return secret, ca
}

// expectKey fails unless the keyring returns the CA of the fixture's Secret.
func (f fixture) expectKey() {
	f.Helper()
	ca, err := f.keys.Get(f.Context(), f.serviceCA)
	if err != nil {
		f.Fatal(err)
	}
	if got := ca.Authority.Fingerprint(); got != f.serviceCA.Status.Active.Fingerprint || !bytes.Equal(ca.Bundle, f.secret.Data[rotation.BundleKey]) {
		f.Errorf("the keyring hands out the CA %s", got)
	}
}

// expectError fails unless the keyring returns ErrNotReady with a message that contains says.
func (f fixture) expectError(says string) {
	f.Helper()
	ca, err := f.keys.Get(f.Context(), f.serviceCA)
	if ca != nil || !errors.Is(err, keyring.ErrNotReady) || !strings.Contains(err.Error(), says) {
		f.Errorf("the keyring says %v, want it not ready, with %q", err, says)
	}
}

func (f fixture) expectReads(times int) {
	f.Helper()
	if f.reads != times {
		f.Errorf("the key was read %d times, want %d", f.reads, times)
	}
}

// TestKeyIsCached checks that a key is read once within a minute, however many callers need it, and
// earlier only if the ServiceCA has changed or Forget was called.
func TestKeyIsCached(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	for range 3 {
		s.expectKey()
		s.clock.SetTime(s.clock.Now().Add(19 * time.Second))
	}
	s.expectReads(1)
	s.keys.Forget("another")
	s.expectKey()
	s.expectReads(1)
	s.keys.Forget("default")
	s.expectKey()
	s.expectReads(2)
	s.secret, s.serviceCA = newCA(t)
	s.expectKey()
	s.expectReads(3)
	// A ServiceCA that was deleted and created again has the same name and key, and another UID.
	s.serviceCA.UID = "uid-of-the-next"
	s.expectKey()
	s.expectReads(4)
}

// hangingReader is the API server while it does not answer reads of one Secret.
type hangingReader struct {
	client.Reader
	hangs string
	began chan struct{}
}

func (h hangingReader) Get(ctx context.Context, key client.ObjectKey, into client.Object, options ...client.GetOption) error {
	if key.Name == h.hangs {
		close(h.began)
		<-ctx.Done()
		return ctx.Err()
	}
	return h.Reader.Get(ctx, key, into, options...)
}

// TestSlowReadDelaysNoOtherServiceCA checks that Get returns the CA of one ServiceCA while the
// signing key of another is being read.
func TestSlowReadDelaysNoOtherServiceCA(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	other := s.serviceCA.DeepCopy()
	other.Name = "other"
	began := make(chan struct{})
	s.keys = keyring.New(hangingReader{Reader: s.fakeReader, hangs: "other-signing-key", began: began}, "system", s.clock)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := s.keys.Get(ctx, other)
		ended <- err
	}()
	<-began
	s.expectKey()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the read that hangs returns %v", err)
	}
}

// TestKeyIsReadAgainAfterPause checks that an operator process that was suspended, and whose caches
// are out of date, does not sign with a key that was replaced in the meantime.
func TestKeyIsReadAgainAfterPause(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.expectKey()
	s.secret, _ = newCA(t)
	if _, err := s.keys.Get(t.Context(), s.serviceCA); err != nil {
		t.Errorf("a key that was looked at a moment ago is looked at again: %v", err)
	}
	s.clock.SetTime(s.clock.Now().Add(time.Hour))
	s.expectError("its signing key is changing")
}

// TestBundleWithoutASigner checks that the keyring returns the bundle, and no signer, if the status
// names no key.
func TestBundleWithoutASigner(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*v1alpha1.ServiceCA){
		"no key yet":     func(ca *v1alpha1.ServiceCA) { ca.Status.Active = nil },
		"no fingerprint": func(ca *v1alpha1.ServiceCA) { ca.Status.Active.Fingerprint = "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t)
			change(s.serviceCA)
			ca, err := s.keys.Get(t.Context(), s.serviceCA)
			if err != nil {
				t.Fatal(err)
			}
			if ca.Authority != nil || ca.Certificate != nil || !bytes.Equal(ca.Bundle, s.secret.Data[rotation.BundleKey]) {
				t.Errorf("%+v", ca)
			}
		})
	}
}

// TestOnlyTheNamedKeySigns checks that the keyring returns only the key that the status names.
// While the Secret has another, the key is changing, and the keyring returns none.
func TestOnlyTheNamedKeySigns(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change  func(s *fixture)
		message string
	}{
		"no bundle yet": {func(s *fixture) { s.serviceCA.Status.TrustBundle = nil }, "it has no bundle yet"},
		"another key":   {func(s *fixture) { s.secret, _ = newCA(s.T) }, "its signing key is changing"},
		"another key below this bundle": {func(s *fixture) {
			other, _ := newCA(s.T)
			other.Data[rotation.BundleKey] = s.secret.Data[rotation.BundleKey]
			s.secret = other
		}, "its signing key is changing"},
		"another bundle":    {func(s *fixture) { s.serviceCA.Status.TrustBundle.Hash = pki.Hash(nil) }, "its signing key is changing"},
		"no bundle":         {func(s *fixture) { delete(s.secret.Data, rotation.BundleKey) }, "its signing key is changing"},
		"no Secret":         {func(s *fixture) { s.secret = nil }, "not found"},
		"another name":      {func(s *fixture) { s.serviceCA.Spec.SigningKey.SecretName = "other" }, "not found"},
		"the wrong key":     {func(s *fixture) { other, _ := newCA(s.T); s.secret.Data["tls.key"] = other.Data["tls.key"] }, "tls.key is not the private key"},
		"an unreadable key": {func(s *fixture) { s.secret.Data["tls.key"] = []byte("what?") }, "tls.key holds no readable private key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t)
			tc.change(&s)
			s.expectError(tc.message)
		})
	}
}

// TestFailuresAreCached checks that an unusable key is not read again for every Service that needs
// it, that it is read again after failureTTL, and that a new status is used at once.
func TestFailuresAreCached(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	sound, broken := s.secret, s.secret.DeepCopy()
	broken.Data["tls.key"] = []byte("what?")
	s.secret = broken
	for range 100 {
		s.expectError("tls.key holds no readable private key")
	}
	s.expectReads(1)
	s.secret = sound
	s.expectError("tls.key holds no readable private key")
	s.clock.SetTime(now.Add(time.Minute))
	s.expectKey()
	s.expectReads(2)

	s = newFixture(t)
	s.secret = nil
	s.expectError("not found")
	s.secret, s.serviceCA = newCA(t)
	s.expectKey()
	s.expectReads(2)

	// If the clock was set back, the cached failure does not last longer.
	s = newFixture(t)
	sound, s.secret = s.secret, nil
	s.expectError("not found")
	s.secret = sound
	s.clock.SetTime(now.Add(-1000 * time.Hour))
	s.expectKey()
}

// TestServerErrorsAreNotCached checks that an API server failure, which says nothing about the key,
// is not cached: the next call reads again.
func TestServerErrorsAreNotCached(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.err = apierrors.NewServiceUnavailable("away")
	if _, err := s.keys.Get(t.Context(), s.serviceCA); err == nil || errors.Is(err, keyring.ErrNotReady) {
		t.Errorf("a fault of the API server is %v", err)
	}
	s.err = nil
	s.expectKey()
	s.expectReads(2)
}

// TestFind checks that Find returns a problem if there is no CA, unless the CA will be ready
// without help.
func TestFind(t *testing.T) {
	t.Parallel()
	unready := func(status metav1.ConditionStatus) func(*fixture) {
		return func(s *fixture) {
			s.serviceCA.Status = v1alpha1.ServiceCAStatus{Conditions: []metav1.Condition{
				{Type: v1alpha1.ConditionReady, Status: status, Reason: "SourceInvalid", Message: "it expired"}}}
		}
	}
	for name, tc := range map[string]struct {
		change  func(*fixture)
		message string
		found   bool
	}{
		"ready":               {func(*fixture) {}, "", true},
		"none":                {func(s *fixture) { s.serviceCA = nil }, "there is no ServiceCA default: create it", false},
		"broken":              {unready(metav1.ConditionFalse), "ServiceCA default: it expired", false},
		"ready in a moment":   {unready(metav1.ConditionTrue), "", false},
		"nobody looked yet":   {func(s *fixture) { s.serviceCA.Status = v1alpha1.ServiceCAStatus{} }, "", false},
		"the key is changing": {func(s *fixture) { s.secret, _ = newCA(s.T) }, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t)
			tc.change(&s)
			ca, problem, err := s.keys.Find(t.Context(), s.fakeReader, "default")
			if err != nil || (ca != nil) != tc.found {
				t.Fatalf("found %v: %v", ca, err)
			}
			if problem == nil {
				problem = &issuance.Problem{}
			}
			if problem.Message != tc.message {
				t.Errorf("it is told %q, want %q", problem.Message, tc.message)
			}
		})
	}
}

// TestChanged checks that the predicate lets changes through that change the result of Find, and
// not those of counts.
func TestChanged(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*v1alpha1.ServiceCA)
		want   bool
	}{
		"nothing":    {func(*v1alpha1.ServiceCA) {}, false},
		"a count":    {func(ca *v1alpha1.ServiceCA) { ca.Status.Active.Certificates = new(int32(7)) }, false},
		"targets":    {func(ca *v1alpha1.ServiceCA) { ca.Status.TrustBundle.Targets++ }, false},
		"a label":    {func(ca *v1alpha1.ServiceCA) { ca.Labels = map[string]string{"a": "b"} }, false},
		"the key":    {func(ca *v1alpha1.ServiceCA) { ca.Status.Active.Fingerprint = "other" }, true},
		"the bundle": {func(ca *v1alpha1.ServiceCA) { ca.Status.TrustBundle.Hash = "other" }, true},
		"made again": {func(ca *v1alpha1.ServiceCA) { ca.UID = "other" }, true},
		"it is unready": {func(ca *v1alpha1.ServiceCA) {
			ca.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Message: "why"}}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, before := newCA(t)
			after := before.DeepCopy()
			tc.change(after)
			if got := keyring.Changed().Update(event.UpdateEvent{ObjectOld: before, ObjectNew: after}); got != tc.want {
				t.Errorf("it wakes who waits: %t, want %t", got, tc.want)
			}
		})
	}
}

// TestSuspend checks that a key is read again after the machine was suspended for longer than
// keyTTL, although the monotonic clock stood still.
func TestSuspend(t *testing.T) {
	s := newFixture(t)
	s.clock.SetTime(time.Now())
	s.expectKey()
	s.clock.SetTime(suspended(s.clock.Now(), time.Hour))
	s.expectKey()
	s.expectReads(2)
}

// suspended returns the time that is slept later by the wall clock, with the same monotonic
// reading.
func suspended(at time.Time, slept time.Duration) time.Time {
	later := at.Add(slept)
	// Package time has no function for that. The fields are those of time.Time; ext is the
	// monotonic reading.
	(*struct {
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&later)).ext -= int64(slept)
	return later
}
