package serviceca

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/certrequest"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/rotation"
	"github.com/servingcert/operator/controllers/servingcert"
)

// apiServer returns a fake API server with this time and these objects. It counts dry runs in
// tries.
func apiServer(t *testing.T, at time.Time, tries *int, objects ...client.Object) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(&v1alpha1.ServiceCA{}).
		WithInterceptorFuncs(interceptor.Funcs{
			Create: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.CreateOption) error {
				object.SetCreationTimestamp(metav1.NewTime(at))
				if createOptions := (&client.CreateOptions{}).ApplyOptions(options); len(createOptions.DryRun) > 0 {
					*tries++
				}
				return c.Create(ctx, object, options...)
			},
			List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error { return nil },
		}).Build()
}

// newReconciler returns a Reconciler for a cluster without Services. Its recorder holds up to ten
// Events.
func newReconciler(server client.Client, passiveClock clock.PassiveClock) *Reconciler {
	return &Reconciler{
		Targets: &injector.Injector{},
		Client:  server, Cache: server, Live: server, Keyring: keyring.New(server, "system", passiveClock), Recorder: events.NewFakeRecorder(10),
		Clock: passiveClock, Namespace: "system",
		Claims: func(context.Context) (func(*corev1.Secret) servingcert.Claim, error) {
			return func(*corev1.Secret) servingcert.Claim { return servingcert.Claim{Wanted: true} }, nil
		},
		Restarts: func(string, time.Time) rotation.Restarts { return rotation.Restarts{} },
		Published: func(context.Context, *v1alpha1.ServiceCA, string, time.Time, *injector.Targets) (string, error) {
			return "", nil
		},
		IssuedCertificates: func(context.Context, string) ([]certrequest.Issued, bool, error) { return nil, true, nil },
	}
}

// TestExpiryByAClockThatIsAhead checks that no key is destroyed and no root is dropped by a clock
// that is far ahead of the API server's, and that they are by a clock that is right or slightly
// wrong.
func TestExpiryByAClockThatIsAhead(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		// after is the time of the operator's clock, since the CA was created; ahead is how far that
		// clock is ahead of the API server's.
		after, ahead time.Duration
		refused      bool
		tries        int
	}{
		"years ahead":             {20 * 365 * 24 * time.Hour, 20 * 365 * 24 * time.Hour, true, 2},
		"hours ahead":             {1001 * time.Hour, 2 * time.Hour, true, 2},
		"minutes ahead":           {1001 * time.Hour, 10 * time.Minute, false, 2},
		"right":                   {1001 * time.Hour, 0, false, 2},
		"behind":                  {1001 * time.Hour, -24 * time.Hour, false, 2},
		"ahead, and nothing ends": {400 * time.Hour, 399 * time.Hour, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t, "")
			s.settle()
			before, tries, at := s.secret.DeepCopy(), 0, now.Add(tc.after)
			server := apiServer(t, at.Add(-tc.ahead), &tries, s.serviceCA, s.secret)
			passive := clocktesting.NewFakePassiveClock(at)
			r := newReconciler(server, passive)
			// The next CA is published, and replaces an expired one at once.
			var err error
			for range 2 {
				_, failed := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(s.serviceCA)})
				err = errors.Join(err, failed)
			}
			if refused := err != nil && strings.Contains(err.Error(), "ahead of the API server's"); refused != tc.refused || (err != nil && !refused) {
				t.Fatalf("the error is %v", err)
			}
			if tries != tc.tries {
				t.Errorf("the API server was asked for the time %d times, want %d", tries, tc.tries)
			}
			var after corev1.Secret
			if err := server.Get(t.Context(), client.ObjectKeyFromObject(before), &after); err != nil {
				t.Fatal(err)
			}
			kept := bytes.Equal(after.Data[corev1.TLSPrivateKeyKey], before.Data[corev1.TLSPrivateKeyKey])
			if want := tc.refused || tc.tries == 0; kept != want {
				t.Errorf("the key was kept: %t, want %t", kept, want)
			}
			var left corev1.ConfigMap
			if err := server.Get(t.Context(), client.ObjectKey{Namespace: "system", Name: "default-trust-bundle"}, &left); (err == nil) == tc.refused {
				t.Errorf("the bundle is published: %v", err)
			}
		})
	}
}
