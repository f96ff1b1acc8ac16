package injector

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/keyring"
)

// now is far in the future, so that a stray time.Now() fails the test.
var now = time.Date(2071, time.March, 14, 15, 9, 26, 0, time.UTC)

// An object is reconciled again when no client has overwritten it for long enough.
func TestRetryAfterConflict(t *testing.T) {
	t.Parallel()
	contested := types.NamespacedName{Namespace: "shop", Name: "fought"}
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Namespace: contested.Namespace, Name: contested.Name, Annotations: map[string]string{v1alpha1.AnnotationInjectCABundle: "default"},
	}}
	c := fake.NewClientBuilder().WithObjects(configMap).Build()
	r := &Reconciler{kind: ConfigMaps, cache: c, targets: c, live: c, clock: clocktesting.NewFakePassiveClock(now.Add(time.Second)), recorder: events.NewFakeRecorder(1)}
	for r.conflicts.RetryAfter(contested, now) == 0 {
		r.conflicts.RecordWrite(contested, "bundle", now, nil)
	}
	result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: contested})
	if want := r.conflicts.RetryAfter(contested, now) - time.Second; err != nil || result.RequeueAfter != want {
		t.Errorf("it is looked at again after %s (%v), want %s", result.RequeueAfter, err, want)
	}
}

// A target whose CA has no bundle yet is requeued: fixing a signing key need not change the
// ServiceCA.
func TestRequeuesForABundle(t *testing.T) {
	t.Parallel()
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	changing := &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "changing"}}
	changing.Status.TrustBundle = &v1alpha1.TrustBundleStatus{Hash: "hash"}
	unready := changing.DeepCopy()
	unready.Name = "unready"
	unready.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Message: "no"}}
	for ca, want := range map[string]time.Duration{"changing": retryCAChanging, "unready": retryNotReady} {
		key := types.NamespacedName{Namespace: "shop", Name: ca}
		c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(changing, unready, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
			Namespace: key.Namespace, Name: key.Name, Annotations: map[string]string{v1alpha1.AnnotationInjectCABundle: ca},
		}}).Build()
		clock := clocktesting.NewFakePassiveClock(now)
		r := &Reconciler{
			kind: ConfigMaps, cache: c, targets: c, live: c, clock: clock, recorder: events.NewFakeRecorder(1), keyring: keyring.New(c, "system", clock),
		}
		result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: key})
		if err != nil || result.RequeueAfter != want {
			t.Errorf("of a CA that is %s: asked for again after %s (%v), want %s", ca, result.RequeueAfter, err, want)
		}
	}
}

// InsertSorted returns the same names in any order of the calls, so that a status does not change
// without cause.
func TestInsertSorted(t *testing.T) {
	t.Parallel()
	var forwards, backwards []string
	for i := range 26 {
		forwards = InsertSorted(forwards, string(rune('a'+i)))
		backwards = InsertSorted(backwards, string(rune('z'-i)))
	}
	if want := strings.Split("abcdefghij", ""); !slices.Equal(forwards, want) || !slices.Equal(backwards, want) {
		t.Errorf("%v and %v are told, want %v", forwards, backwards, want)
	}
}
