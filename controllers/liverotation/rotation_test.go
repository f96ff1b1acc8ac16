// Package liverotation_test shows that no handshake fails while a CA rotates: servers and clients
// read the files that a kubelet mounts, and verify each other all the time.
package liverotation_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/servingcert/operator/api/v1alpha1"
)

// leastHandshakes is how many handshakes the test needs to prove anything.
const leastHandshakes = 5000

// TestLiveRotation replaces the CA five times in a row, each time for another reason, and once
// while another rotation is in progress. Not one handshake fails between peers that reload their
// files and peers that never do.
func TestLiveRotation(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	w := newTestEnv(t)
	w.deploy()
	w.traffic.start(t)
	first := w.meet()

	w.begin(v1alpha1.RotationTriggered, func() { w.change(trigger("first")) })
	w.finish()
	w.broughtOver()

	w.specChangesAndTriggerComes()
	w.clientsAreBehind(3)
	w.serversShow(first)
	w.broughtOver()

	w.keyIsLost()
	w.serversShow(first)
	w.broughtOver()

	w.compromised()
	w.conclude()
}

func trigger(value string) func(*v1alpha1.ServiceCASpec) {
	return func(spec *v1alpha1.ServiceCASpec) { spec.Rotation.Trigger = value }
}

func minimum(value v1alpha1.Duration) func(*v1alpha1.ServiceCASpec) {
	return func(spec *v1alpha1.ServiceCASpec) { spec.Rotation.Propagation.Minimum = value }
}

// specChangesAndTriggerComes runs two rotations: the second is triggered while the first is
// propagating. It waits and reports that, and begins as soon as the first has switched the signer.
func (e *testEnv) specChangesAndTriggerComes() {
	e.Helper()
	e.begin(v1alpha1.RotationSpecChanged, func() {
		e.change(minimum(lingering), func(spec *v1alpha1.ServiceCASpec) {
			spec.Certificate.PrivateKey = v1alpha1.PrivateKey{Algorithm: v1alpha1.RSA, Size: 2048}
		})
	})
	next := e.status().Next.SubjectKeyID
	e.change(trigger("second"))
	e.await("waits for the first rotation", func(ca *v1alpha1.ServiceCA) bool {
		return strings.Contains(strings.Join(ca.Status.Rotation.BlockedBy, "\n"), `spec.rotation.trigger "second" waits`)
	})
	e.begin(v1alpha1.RotationTriggered, func() { e.change(minimum(propagation)) })
	e.await("signs by the key of the first rotation", func(ca *v1alpha1.ServiceCA) bool {
		return ca.Status.Active.SubjectKeyID == next || ca.Status.Previous[0].SubjectKeyID == next
	})
	e.finish()
}

// keyIsLost rotates after the loss of the key: a lost key cannot cross-sign, so clients that never
// reload are replaced once the new root is published. The switch of the signer waits for the
// clients that the operator restarts.
func (e *testEnv) keyIsLost() {
	e.Helper()
	e.begin(v1alpha1.RotationSigningKeyLost, func() {
		e.change(minimum(lingering))
		key := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: e.ca.SigningKeySecretName()}}
		if err := e.kube.Delete(e.Context(), key); err != nil {
			e.Fatal(err)
		}
	})
	e.await("waits for a client", func(ca *v1alpha1.ServiceCA) bool {
		return strings.Contains(strings.Join(ca.Status.Rotation.BlockedBy, "\n"), "Deployment shop/restarting")
	})
	e.replace(e.keptClients()...)
	e.change(minimum(propagation))
	e.finish()
}

// compromised rotates after a compromise: the old roots leave the bundle, so a peer that never
// reloads is replaced as soon as its certificate is reissued.
func (e *testEnv) compromised() {
	e.Helper()
	e.begin(v1alpha1.RotationCompromise, func() {
		// Twice the usual minimum: it is also the time in which the test has to lengthen the next
		// phase.
		e.change(trigger("stolen"), minimum("20s"), func(spec *v1alpha1.ServiceCASpec) {
			spec.Rotation.TriggerReason = v1alpha1.TriggerCompromise
		})
	})
	e.await("switches", func(ca *v1alpha1.ServiceCA) bool { return ca.Status.Next == nil })
	e.change(minimum(lingering))
	e.finish()
	e.replace(e.kept()...)
	e.change(minimum(propagation))
	e.await("trusts one root only", func(ca *v1alpha1.ServiceCA) bool {
		return ca.Status.Rotation.Phase == v1alpha1.PhaseStable && ca.Status.TrustBundle.Certificates == 1
	})
	e.bundleIsMounted()
	e.meet()
}

// begin runs what starts a rotation, and waits until every target carries the next CA, and the
// kubelet has brought it to the pods.
func (e *testEnv) begin(reason v1alpha1.RotationReason, start func()) {
	e.Helper()
	before := e.status().Rotation.StartedAt
	start()
	e.await(fmt.Sprintf("propagates because of %s", reason), func(ca *v1alpha1.ServiceCA) bool {
		now := ca.Status.Rotation
		return now.Reason == reason && !now.StartedAt.Equal(before) && now.Phase != v1alpha1.PhasePublishing
	})
	if bundle := e.ca.Status.TrustBundle; bundle.CurrentTargets != bundle.Targets {
		e.Errorf("%s: only %d of %d targets carry the bundle", reason, bundle.CurrentTargets, bundle.Targets)
	}
	published := time.Now()
	e.bundleIsMounted()
	e.Logf("%s: the kubelet brought the bundle to the last pod after %s", reason, time.Since(published).Round(time.Millisecond))
	e.meet()
}

// finish waits until a rotation has replaced every certificate, and every client has met every
// server since.
func (e *testEnv) finish() {
	e.Helper()
	e.await("retires", func(ca *v1alpha1.ServiceCA) bool { return ca.Status.Rotation.Phase == v1alpha1.PhaseRetiring })
	e.reissued()
	signer := e.meet()
	for _, server := range e.servers {
		if shown := e.traffic.shownBy(server); !server.frozen && shown != signer {
			e.Errorf("%s reloads, and shows a certificate of %s instead of %s", server.name, shown, signer)
		}
	}
	e.Logf("%s signs; %s", e.ca.Status.Active.Subject, e.traffic)
}

// meet waits until every client has met every server from now on, and returns the CA that signs; an
// empty string if none may sign.
func (e *testEnv) meet() (signer string) {
	e.Helper()
	before := e.traffic.counts()
	e.eventually(func(context.Context) error { return e.traffic.metSince(before) })
	if active := e.status().Active; active != nil {
		return active.SubjectKeyID
	}
	return ""
}

// clientsAreBehind fails unless clients that were never replaced needed a cross-signed chain of
// that many certificates.
func (e *testEnv) clientsAreBehind(generations int64) {
	e.Helper()
	for _, client := range e.clients {
		if crossed := e.traffic.crossedBy(client); client.kept && crossed != generations {
			e.Errorf("%s, which never reloads, needed a bridge of %d certificates, want %d", client.name, crossed, generations)
		}
	}
}

// serversShow fails unless servers that were never replaced present a certificate of that signer,
// as they did at the start.
func (e *testEnv) serversShow(signer string) {
	e.Helper()
	for _, server := range e.servers {
		if shown := e.traffic.shownBy(server); server.kept && shown != signer {
			e.Errorf("%s, which never reloads, shows a certificate of %s, want %s", server.name, shown, signer)
		}
	}
}

// conclude counts the handshakes and the failures.
func (e *testEnv) conclude() {
	e.Helper()
	e.eventually(func(context.Context) error {
		if hands := e.traffic.hands(); hands < leastHandshakes {
			return fmt.Errorf("only %d handshakes in all, want %d", hands, leastHandshakes)
		}
		return nil
	})
	e.traffic.stop()
	e.failOnFailures()
	e.Logf("%s", e.traffic)
	fmt.Println(e.traffic)
}
