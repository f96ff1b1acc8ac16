package serviceca

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servingcert/operator/api/v1alpha1"
)

// TestStatusThatCannotBeWritten checks that an Event reports a status that cannot be written, once
// the failure has lasted or at once if it is a rejection. Other changes and problems are recorded
// meanwhile, each of them once.
func TestStatusThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	resource := v1alpha1.SchemeGroupVersion.WithResource("servicecas").GroupResource()
	away := apierrors.NewInternalError(errors.New(`failed calling webhook "w.example.org"`))
	denied := apierrors.NewConflict(resource, "default", errors.New(`admission webhook "w.example.org" denied the request`))
	gone := apierrors.NewNotFound(resource, "default")
	var fault error
	tries := 0
	server := interceptor.NewClient(apiServer(t, now, &tries, s.serviceCA), interceptor.Funcs{
		SubResourceApply: func(
			ctx context.Context, c client.Client, resource string, status runtime.ApplyConfiguration, options ...client.SubResourceApplyOption,
		) error {
			if fault != nil {
				return fault
			}
			return c.SubResource(resource).Apply(ctx, status, options...)
		},
	})
	passive, recorder := clocktesting.NewFakePassiveClock(now), events.NewFakeRecorder(10)
	r := newReconciler(server, passive)
	r.Recorder = recorder
	// The Event about missing ClusterTrustBundles was recorded before.
	r.reportedNotServed.Store(s.serviceCA.UID, true)
	request := ctrl.Request{NamespacedName: client.ObjectKeyFromObject(s.serviceCA)}
	for _, step := range []struct {
		name  string
		after time.Duration
		fault error
		// source is the Secret that spec.source refers to.
		source  string
		message string
	}{
		{"a CA is made", 0, away, "", "Normal CACreated "},
		{"it fails for a moment", 4 * time.Second, away, "", ""},
		{"it lasts", 5 * time.Second, away, "", `Warning RequestFailed write the status: Internal error occurred: failed calling webhook`},
		{"it lasts on", time.Minute, away, "", ""},
		{"there is a problem besides", 2 * time.Minute, away, "none", "Warning SourceNotThere "},
		{"there still is", 3 * time.Minute, away, "none", ""},
		{"it is denied with the code of a conflict", 4 * time.Minute, denied, "none", "Warning RequestRefused write the status: "},
		{"it is denied again", 5 * time.Minute, denied, "none", ""},
		{"it is written", 6 * time.Minute, nil, "none", ""},
		{"it fails anew", 7 * time.Minute, away, "", ""},
		{"it lasts anew", 8 * time.Minute, away, "", "Warning RequestFailed "},
		{"the ServiceCA is gone", 9 * time.Minute, gone, "", ""},
	} {
		passive.SetTime(now.Add(step.after))
		fault = step.fault
		ca := &v1alpha1.ServiceCA{}
		if err := server.Get(t.Context(), request.NamespacedName, ca); err != nil {
			t.Fatal(err)
		}
		if ca.Spec.Source.Secret = nil; step.source != "" {
			ca.Spec.Source.Secret = &v1alpha1.SecretSource{Name: step.source}
		}
		if err := server.Update(t.Context(), ca); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Reconcile(t.Context(), request); (err == nil) != (fault == nil || apierrors.IsNotFound(fault)) {
			t.Errorf("%s: the error is %v", step.name, err)
		}
		message := ""
		for more := true; more; {
			select {
			case event := <-recorder.Events:
				message += event
			default:
				more = false
			}
		}
		if (message == "") != (step.message == "") || !strings.HasPrefix(message, step.message) || strings.Count(message, "Warning ")+strings.Count(message, "Normal ") > 1 {
			t.Errorf("%s: the Events are %q, want %q", step.name, message, step.message)
		}
	}
}
