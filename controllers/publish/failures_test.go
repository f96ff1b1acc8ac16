package publish

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/pki"
)

var (
	now    = time.Date(2031, time.March, 4, 5, 6, 7, 0, time.UTC)
	key    = types.NamespacedName{Namespace: "shop", Name: "service-ca"}
	bundle = []byte("bundle")
)

// fixture is a Publisher of one ConfigMap, whose writes fail with fault.
type fixture struct {
	*Publisher
	*testing.T

	clock     *clocktesting.FakePassiveClock
	recorder  *events.FakeRecorder
	effective *claim
	fault     error
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	s := &fixture{T: t, clock: clocktesting.NewFakePassiveClock(now), recorder: events.NewFakeRecorder(16)}
	c := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.CreateOption) error {
			if s.fault != nil {
				return s.fault
			}
			return c.Create(ctx, object, options...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.DeleteOption) error {
			if s.fault != nil {
				return s.fault
			}
			return c.Delete(ctx, object, options...)
		},
	}).WithReturnManagedFields().Build()
	requested := func(context.Context, string, client.ObjectKey) (string, error) { return "", nil }
	s.Publisher = New(&Publisher{Cache: c, Live: c, Clock: s.clock, Recorder: s.recorder, RequestedServiceCA: requested})
	s.permitted.Store(true)
	s.effective = &claim{ca: &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, bundle: &v1alpha1.PublishedBundle{
		ConfigMapName: key.Name, Key: v1alpha1.DefaultCABundleKey,
	}}
	return s
}

// count counts the ConfigMap, and returns its problem.
func (f *fixture) count() (injector.Targets, string) {
	f.Helper()
	var targets injector.Targets
	c := &counter{Publisher: f.Publisher, ca: f.effective.ca, hash: pki.Hash(bundle), since: now.Add(time.Hour), counted: &targets}
	if err := c.count(f.Context(), &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: key.Namespace}}, f.effective); err != nil {
		f.Fatal(err)
	}
	return targets, c.problem()
}

// changed reports whether the Publisher announced that the ServiceCA must be counted again.
func (f *fixture) changed() bool {
	select {
	case <-f.changes:
		return true
	default:
		return false
	}
}

// A ConfigMap that the API server cannot write is reported with the API server's error once the
// failure persists, and is waited for by name for ten minutes.
func TestConfigMapThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	away := apierrors.NewInternalError(errors.New(`failed calling webhook "w.example.org"`))
	for _, step := range []struct {
		name                        string
		after                       time.Duration
		fault                       error
		withReason                  bool
		outOfDate, blocked, current int32
	}{
		{"at first", 0, away, false, 1, 0, 0},
		{"after a while", 10 * time.Second, away, true, 1, 0, 0},
		{"for nearly too long", 10*time.Minute - 1, away, true, 1, 0, 0},
		{"for too long", 10 * time.Minute, away, true, 0, 1, 0},
		{"over", 11 * time.Minute, nil, false, 0, 0, 1},
	} {
		s.fault = step.fault
		s.clock.SetTime(now.Add(step.after))
		if _, err := s.publish(t.Context(), s.effective, bundle, key); (err != nil) != (step.fault != nil) {
			t.Errorf("%s: %v", step.name, err)
		}
		targets, problem := s.count()
		if targets.OutOfDate != step.outOfDate || targets.Blocked != step.blocked || targets.Current != step.current {
			t.Errorf("%s: the counts are %+v", step.name, targets)
		}
		if strings.Contains(problem, "w.example.org") != step.withReason {
			t.Errorf("%s: the ServiceCA says %q", step.name, problem)
		}
		says := func(name string) bool { return strings.Contains(name, "w.example.org") }
		if step.outOfDate > 0 && slices.ContainsFunc(targets.OutOfDateNames, says) != step.withReason {
			t.Errorf("%s: the rotation waits for %q", step.name, targets.OutOfDateNames)
		}
	}
	if note := <-s.recorder.Events; !strings.Contains(note, "RequestFailed") {
		t.Errorf("the Event is %s", note)
	}
}

// A ConfigMap that cannot be removed is reported too.
func TestConfigMapThatCannotBeRemoved(t *testing.T) {
	t.Parallel()
	for reason, fault := range map[string]error{
		"PublishRefused": apierrors.NewForbidden(corev1.Resource("configmaps"), key.Name, errors.New(`webhook "w.example.org" denied the request`)),
		"RequestFailed":  apierrors.NewInternalError(errors.New(`failed calling webhook "w.example.org"`)),
	} {
		s := newFixture(t)
		if _, err := s.publish(t.Context(), s.effective, bundle, key); err != nil {
			t.Fatal(err)
		}
		s.fault = fault
		for range 2 {
			_, err := s.remove(t.Context(), key, []v1alpha1.ServiceCA{*s.effective.ca})
			if (err == nil) != (reason == "PublishRefused") {
				t.Errorf("%s: %v", reason, err)
			}
			s.clock.SetTime(now.Add(10 * time.Second))
		}
		if len(s.recorder.Events) != 1 {
			t.Fatalf("%s: %d Events", reason, len(s.recorder.Events))
		}
		if note := <-s.recorder.Events; !strings.Contains(note, reason) || !strings.Contains(note, "w.example.org") || !strings.Contains(note, "removed") {
			t.Errorf("the Event is %s", note)
		}
	}
}

// The client that keeps overwriting a ConfigMap is reported while it does, and the ConfigMap is
// counted again afterwards.
func TestConfigMapThatIsOverwritten(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	for range 5 {
		if _, err := s.publish(t.Context(), s.effective, bundle, key); err != nil {
			t.Fatal(err)
		}
		theirs := &corev1.ConfigMap{}
		if err := s.Live.Get(t.Context(), key, theirs); err != nil {
			t.Fatal(err)
		}
		theirs.Data = map[string]string{v1alpha1.DefaultCABundleKey: "theirs"}
		if err := s.Live.Update(t.Context(), theirs, client.FieldOwner("rival")); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		s.reportOverwritten(s.effective.ca, key)
	}
	if note := <-s.recorder.Events; !strings.Contains(note, "Overwritten") || !strings.Contains(note, `field manager "rival"`) || len(s.recorder.Events) > 0 {
		t.Errorf("the Event is %s, and there are %d more", note, len(s.recorder.Events))
	}
	// The ConfigMap is blocked, although its marker claims that it carries the bundle.
	if targets, problem := s.count(); targets.Blocked != 1 || !strings.Contains(problem, "keeps overwriting") {
		t.Errorf("the counts are %+v, and the ServiceCA says %q", targets, problem)
	}
	for s.changed() {
	}
	s.clock.SetTime(now.Add(31 * time.Second))
	result, err := s.publish(t.Context(), s.effective, bundle, key)
	if err != nil || result.RequeueAfter == 0 || s.changed() {
		t.Errorf("after a pause: %v, %v", result, err)
	}
	s.clock.SetTime(now.Add(31*time.Second + result.RequeueAfter))
	if _, err := s.publish(t.Context(), s.effective, bundle, key); err != nil || !s.changed() {
		t.Errorf("nobody counts again when it is over: %v", err)
	}
	if targets, problem := s.count(); targets.Current != 1 || problem != "" {
		t.Errorf("in the end the counts are %+v, and the ServiceCA says %q", targets, problem)
	}
}
