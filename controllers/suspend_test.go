package controllers_test

import (
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
)

// wallClock is the wall clock of a machine that was suspended for a while: timers do not advance
// while it is suspended.
type wallClock struct {
	clock.RealClock

	suspended *atomic.Int64
}

func (w wallClock) Now() time.Time { return time.Now().Add(time.Duration(w.suspended.Load())) }

func (w wallClock) Since(start time.Time) time.Duration { return w.Now().Sub(start) }

// A certificate whose renewal became due while the machine was suspended is renewed when it
// resumes, although most of the time of the renewal's timer is left.
func TestRenewalAfterSuspend(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	config, err := w.cluster.ServiceAccount(t.Context(), operatorNamespace, "manager")
	if err != nil {
		t.Fatal(err)
	}
	wall := wallClock{suspended: &atomic.Int64{}}
	stop, err := testoperator.StartBy(t.Context(), wall, config, operatorNamespace)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	r := newRealmIn(t, w.kube, "suspend", func(_ *v1alpha1.ServiceCA, p *v1alpha1.ServingCertPolicy) { p.Spec.Certificate.Duration = "1h" })
	r.service("web", withSecretName("web-tls"))
	before := leaf(t, r.secret("web-tls", r.issued("web.suspend.svc")))
	// Less than the hour by which a clock may be ahead of the API server's, and more than two
	// thirds of the certificate's lifetime.
	const suspended = 50 * time.Minute
	wall.suspended.Store(int64(suspended))
	after := leaf(t, r.secret("web-tls", func(secret *corev1.Secret) string {
		if leaf(t, secret).Equal(before) {
			return "the certificate is not renewed"
		}
		return ""
	}))
	if later := after.NotBefore.Sub(before.NotBefore); later < suspended {
		t.Errorf("it was made %s after the one before, want at least %s", later, suspended)
	}
}
