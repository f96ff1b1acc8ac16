package serviceca

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/servingcert/operator/api/v1alpha1"
)

// bundlesIn returns a Reconciler for a cluster with this ClusterTrustBundle, in which reading it is
// forbidden if forbidden is set, and any write fails the test.
func bundlesIn(t *testing.T, forbidden bool, bundle *certificatesv1.ClusterTrustBundle) *Reconciler {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := certificatesv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	r := &Reconciler{Clock: clocktesting.NewFakePassiveClock(now), Live: fake.NewClientBuilder().WithScheme(scheme).WithObjects(bundle).WithInterceptorFuncs(interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
			if forbidden {
				return apierrors.NewForbidden(certificatesv1.Resource("clustertrustbundles"), key.Name, errors.New("no right"))
			}
			return c.Get(ctx, key, object, options...)
		},
		Apply: func(context.Context, client.WithWatch, runtime.ApplyConfiguration, ...client.ApplyOption) error {
			return errors.New("it is written")
		},
	}).Build()}
	r.clusterTrustBundlesServed.Store(true)
	return r
}

// TestClusterTrustBundleUnreadable checks that a ClusterTrustBundle that cannot be read is not
// reported as another owner's, and is not written.
func TestClusterTrustBundleUnreadable(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	state := s.settle()
	r := bundlesIn(t, true, &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: s.serviceCA.ClusterTrustBundleName()}})
	var err error
	if s.clusterTrustBundle, err = r.observeClusterTrustBundle(t.Context(), s.serviceCA); err != nil {
		t.Fatal(err)
	}
	if got := s.clusterTrustBundle; got.foreign || got.live != nil || !strings.Contains(got.rejection, "cannot be read") {
		t.Errorf("it is %+v", got)
	}
	if changed, err := r.publishClusterTrustBundle(t.Context(), &s.observed, state); changed || err != nil {
		t.Errorf("it is said to have changed (%t): %v", changed, err)
	}
	plan := changePlan{state: state}
	plan.scheduleRecheck(clusterEvidence{clusterTrustBundle: s.clusterTrustBundle})
	if plan.retry != retryClusterTrustBundle {
		t.Errorf("it looks again after %s", plan.retry)
	}
}

// TestClusterTrustBundleRepaired checks that a rejection is cleared once the ClusterTrustBundle
// holds the bundle, even if another client wrote it.
func TestClusterTrustBundleRepaired(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	state := s.settle()
	r := bundlesIn(t, false, &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: s.serviceCA.ClusterTrustBundleName(), Labels: map[string]string{v1alpha1.LabelServiceCA: "default"}},
		Spec:       certificatesv1.ClusterTrustBundleSpec{TrustBundle: string(state.Bundle().Encode())},
	})
	r.bundleRejections.Store(s.serviceCA.UID, "cannot be written")
	for _, want := range []bool{true, false} {
		var err error
		if s.clusterTrustBundle, err = r.observeClusterTrustBundle(t.Context(), s.serviceCA); err != nil {
			t.Fatal(err)
		}
		if changed, err := r.publishClusterTrustBundle(t.Context(), &s.observed, state); changed != want || err != nil {
			t.Errorf("it is said to have changed: %t (%v), want %t", changed, err, want)
		}
		if s.clusterTrustBundle.rejection != "" {
			t.Errorf("it still says %q", s.clusterTrustBundle.rejection)
		}
	}
}

// TestClusterTrustBundleCannotBeWritten checks that a failure of the API server is reported with
// its message once it has lasted, and that a rotation waits for it for ten minutes; a rejection is
// reported at once, and not waited for.
func TestClusterTrustBundleCannotBeWritten(t *testing.T) {
	t.Parallel()
	away := apierrors.NewInternalError(errors.New("failed calling webhook"))
	denied := apierrors.NewConflict(certificatesv1.Resource("clustertrustbundles"), "x", errors.New("webhook denied the request"))
	for _, verb := range []string{"read", "written"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t, "")
			state := s.settle()
			passive := clocktesting.NewFakePassiveClock(now)
			var fault error
			scheme := runtime.NewScheme()
			if err := certificatesv1.AddToScheme(scheme); err != nil {
				t.Fatal(err)
			}
			faulty := func(at string) error {
				if at == verb {
					return fault
				}
				return nil
			}
			r := newReconciler(fake.NewClientBuilder().WithScheme(scheme).WithInterceptorFuncs(interceptor.Funcs{
				Get: func(_ context.Context, _ client.WithWatch, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
					if err := faulty("read"); err != nil {
						return err
					}
					return apierrors.NewNotFound(certificatesv1.Resource("clustertrustbundles"), key.Name)
				},
				List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error { return nil },
				Apply: func(context.Context, client.WithWatch, runtime.ApplyConfiguration, ...client.ApplyOption) error {
					return faulty("written")
				},
			}).Build(), passive)
			r.clusterTrustBundlesServed.Store(true)
			for _, step := range []struct {
				after     time.Duration
				fault     error
				fails     bool
				message   string
				outOfDate int32
			}{
				{0, away, true, "", 0},
				{4 * time.Second, away, true, "", 0},
				{5 * time.Second, away, false, "cannot be " + verb + ": Internal error occurred: failed calling webhook", 1},
				{9 * time.Minute, away, false, "cannot be " + verb, 1},
				{10 * time.Minute, away, false, "cannot be " + verb, 0},
				{11 * time.Minute, nil, false, "", 0},
				{12 * time.Minute, away, true, "", 0},
			} {
				passive.SetTime(now.Add(step.after))
				fault = step.fault
				bundle, err := r.observeClusterTrustBundle(t.Context(), s.serviceCA)
				if s.clusterTrustBundle = bundle; err == nil {
					_, err = r.publishClusterTrustBundle(t.Context(), &s.observed, state)
				}
				if (err != nil) != step.fails {
					t.Errorf("after %s: the error is %v", step.after, err)
				}
				if got := s.clusterTrustBundle.rejection; !step.fails && ((got == "") != (step.message == "") || !strings.Contains(got, step.message)) {
					t.Errorf("after %s: it says %q, want %q", step.after, got, step.message)
				}
				if step.fails || step.fault == nil {
					continue
				}
				evidence, err := r.collectEvidence(t.Context(), s.observed, state)
				if err != nil {
					t.Fatal(err)
				}
				waits := strings.Join(evidence.OutOfDateNames, "; ")
				if got := strings.Contains(waits, "ClusterTrustBundle"); got != (step.outOfDate > 0) || (got && !strings.Contains(waits, "failed calling webhook")) {
					t.Errorf("after %s: a rotation waits for %q", step.after, waits)
				}
			}
			fault = denied
			if verb == "read" {
				return
			}
			if _, err := r.publishClusterTrustBundle(t.Context(), &s.observed, state); err != nil || s.clusterTrustBundle.rejection == "" || s.clusterTrustBundle.awaited {
				t.Errorf("denied: the error is %v, and it is %+v", err, s.clusterTrustBundle)
			}
		})
	}
}
