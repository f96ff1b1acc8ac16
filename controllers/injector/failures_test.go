package injector

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
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servingcert/operator/api/v1alpha1"
)

// A target that the API server cannot write is reported once the failure persists, is waited for by
// name for ten minutes, and is forgotten when the failure ends.
func TestTargetThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	unavailable := apierrors.NewInternalError(errors.New(`failed calling webhook "w.example.org"`))
	var fault error = unavailable
	target := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: "trust", Annotations: map[string]string{v1alpha1.AnnotationInjectCABundle: "default", v1alpha1.AnnotationCABundleKey: "a/b"},
	}}
	c := fake.NewClientBuilder().WithObjects(target).WithInterceptorFuncs(interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, object client.Object, patch client.Patch, options ...client.PatchOption) error {
			if fault != nil {
				return fault
			}
			return c.Patch(ctx, object, patch, options...)
		},
	}).Build()
	clock, recorder := clocktesting.NewFakePassiveClock(now), events.NewFakeRecorder(8)
	r := &Reconciler{kind: ConfigMaps, cache: c, targets: c, live: c, clock: clock, recorder: recorder}
	key := client.ObjectKeyFromObject(target)
	for _, step := range []struct {
		name                      string
		after                     time.Duration
		fault                     error
		withReason                bool
		outOfDate, blocked, tried int32
	}{
		{"at first", 0, unavailable, false, 1, 0, 1},
		{"after a while", 10 * time.Second, unavailable, true, 1, 0, 1},
		{"for nearly too long", 10*time.Minute - 1, unavailable, true, 1, 0, 1},
		{"for too long", 10 * time.Minute, unavailable, true, 0, 1, 1},
		{"over", 11 * time.Minute, nil, false, 0, 1, 0},
	} {
		fault = step.fault
		clock.SetTime(now.Add(step.after))
		_, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: key})
		if (err != nil) != (step.tried > 0) {
			t.Errorf("%s: %v", step.name, err)
		}
		cached := ConfigMaps.Metadata()
		if err := c.Get(t.Context(), key, cached); err != nil {
			t.Fatal(err)
		}
		var targets Targets
		r.count(cached, &targets, "hash", now.Add(time.Hour))
		if targets.OutOfDate != step.outOfDate || targets.Blocked != step.blocked || (len(targets.Failing) == 1) != step.withReason {
			t.Errorf("%s: the counts are %+v", step.name, targets)
		}
		withReason := func(name string) bool {
			return strings.HasPrefix(name, "ConfigMap shop/trust (") && strings.Contains(name, "w.example.org")
		}
		if step.outOfDate > 0 && slices.ContainsFunc(targets.OutOfDateNames, withReason) != step.withReason {
			t.Errorf("%s: what is behind is %q", step.name, targets.OutOfDateNames)
		}
	}
	if first := <-recorder.Events; !strings.Contains(first, reasonInvalidKey) {
		t.Errorf("the first Event is %s", first)
	}
}

// The failures of an object that no longer requests a bundle are forgotten: if it requests one
// again, only later failures count.
func TestFailuresOfWhatAsksNoMore(t *testing.T) {
	t.Parallel()
	asking := map[string]string{v1alpha1.AnnotationInjectCABundle: "default", v1alpha1.AnnotationCABundleKey: "a/b"}
	target := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "trust", Annotations: asking}}
	c := fake.NewClientBuilder().WithObjects(target).WithInterceptorFuncs(interceptor.Funcs{
		Patch: func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
			return apierrors.NewInternalError(errors.New(`failed calling webhook "w.example.org"`))
		},
	}).Build()
	clock := clocktesting.NewFakePassiveClock(now)
	r := &Reconciler{kind: ConfigMaps, cache: c, targets: c, live: c, clock: clock, recorder: events.NewFakeRecorder(8)}
	key := client.ObjectKeyFromObject(target)
	for _, step := range []struct {
		annotations map[string]string
		after       time.Duration
	}{{asking, 0}, {nil, time.Minute}, {asking, time.Hour}} {
		clock.SetTime(now.Add(step.after))
		if err := c.Get(t.Context(), key, target); err != nil {
			t.Fatal(err)
		}
		target.Annotations = step.annotations
		if err := c.Update(t.Context(), target); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: key}); (err != nil) != (step.annotations != nil) {
			t.Errorf("after %s: %v", step.after, err)
		}
	}
	if r.conflicts.Unresolvable(key, clock.Now()) || r.conflicts.Failure(key, clock.Now()) != nil {
		t.Error("a rotation does not wait for it, because of a failure of an hour ago")
	}
}
