package controllers_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
)

// faults makes one call about each realm fail: a read or a write, before the API server receives it
// or after.
type faults struct {
	mu sync.Mutex
	// left is how many calls about a realm succeed before the one that fails.
	left     map[string]int
	answered bool
}

func (f *faults) send(next http.RoundTripper, request *http.Request) (*http.Response, error) {
	if !f.strikes(request.URL.Path) {
		return next.RoundTrip(request)
	}
	if f.answered {
		if response, err := next.RoundTrip(request); err == nil {
			response.Body.Close()
		}
	}
	return nil, errDisconnected
}

func (f *faults) strikes(path string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, left := range f.left {
		if strings.Contains(path, name) {
			f.left[name] = left - 1
			return left == 0
		}
	}
	return false
}

// arm makes one later call about each realm fail: about realms[i], the one that follows first+i
// successful calls.
func (f *faults) arm(realms []realm, first int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = map[string]int{}
	for i, r := range realms {
		f.left[r.name] = first + i
	}
}

// untouched reports whether the call that should have failed was never made.
func (f *faults) untouched(r realm) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.left[r.name] >= 0
}

// Whichever call of a rotation fails, the rotation reaches the same final state: each call fails in
// turn, until a whole rotation completes without a fault.
func TestFaultAtEveryCallOfARotation(t *testing.T) {
	t.Parallel()
	for _, answered := range []bool{false, true} {
		t.Run(fmt.Sprintf("answered=%t", answered), func(t *testing.T) {
			t.Parallel()
			w, through := newTestCluster(t), &faults{answered: answered}
			stop, err := testoperator.Start(t.Context(), w.cluster, operatorNamespace, func(config *rest.Config, _ *ctrl.Options) {
				config.Wrap(func(next http.RoundTripper) http.RoundTripper {
					return roundTripper(func(request *http.Request) (*http.Response, error) { return through.send(next, request) })
				})
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
			const batch = 25
			for first := 0; ; first += batch {
				if w.rotatesWithFaults(through, first, batch) {
					return
				}
			}
		})
	}
}

// rotatesWithFaults rotates that many CAs, and reports whether one of them met no fault.
func (c testCluster) rotatesWithFaults(through *faults, first, number int) bool {
	c.Helper()
	var realms []realm
	for i := range number {
		r := newRealmIn(c.T, c.kube, fmt.Sprintf("fault-%03d-", first+i)+"x")
		r.service("web", withSecretName("web-tls"))
		r.injected("trust")
		realms = append(realms, r)
	}
	before := map[string]string{}
	for _, r := range realms {
		before[r.name] = activeOf(r.serviceCA(served(1, 0))).Fingerprint
	}
	through.arm(realms, first)
	for _, r := range realms {
		patch := client.MergeFrom(r.ca.DeepCopy())
		r.ca.Spec.Rotation.Trigger = "now"
		if err := c.kube.Patch(c.Context(), r.ca, patch); err != nil {
			c.Fatal(err)
		}
	}
	untouched := 0
	for _, r := range realms {
		ca := r.serviceCA(served(1, 1))
		if before[r.name] == activeOf(ca).Fingerprint || ca.Status.Previous[0].Fingerprint != before[r.name] {
			c.Errorf("%s: the CA before is not the one that signed", r.name)
		}
		r.handshake(r.secret("web-tls", r.signedBy(r.signer(), "web."+r.name+".svc")), "web."+r.name+".svc")
		if through.untouched(r) {
			untouched++
		}
	}
	c.Logf("calls %d to %d of a rotation failed in turn, and %d rotations met no fault", first+1, first+number, untouched)
	return untouched > 0
}

// served accepts a CA that has issued that many certificates, has that many predecessors, and no
// longer rotates.
func served(certificates int32, previous int) func(*v1alpha1.ServiceCA) string {
	return func(ca *v1alpha1.ServiceCA) string {
		phase := v1alpha1.CAPhase("")
		if ca.Status.Rotation != nil {
			phase = ca.Status.Rotation.Phase
		}
		if *activeOf(ca).Certificates != certificates || len(ca.Status.Previous) != previous || ca.Status.TrustBundle.CurrentTargets != 3 ||
			(phase != v1alpha1.PhaseStable && phase != v1alpha1.PhaseRetiring) {
			return "it has not rotated"
		}
		return isReady(ca)
	}
}

// A rotation reaches the same final state whenever the operator dies: one successor, and the root
// of the predecessor stays trusted.
func TestCrashAtEveryWriteOfARotation(t *testing.T) {
	t.Parallel()
	crashes{
		testCluster: newTestCluster(t), name: "rotation",
		prepare: func(r realm) {
			bootstrap(r)
			settled(r, 0)
		},
		act: func(r realm) {
			patch := client.MergeFrom(r.ca.DeepCopy())
			r.ca.Spec.Rotation.Trigger = "now"
			if err := r.kube.Patch(r.Context(), r.ca, patch); err != nil {
				r.Fatal(err)
			}
		},
		verify: func(r realm) {
			settled(r, 1)
			eventually(r.T, func(ctx context.Context) string {
				var ca v1alpha1.ServiceCA
				if err := r.kube.Get(ctx, client.ObjectKeyFromObject(r.ca), &ca); err != nil {
					return err.Error()
				}
				return served(3, 1)(&ca)
			})
		},
	}.run()
}
