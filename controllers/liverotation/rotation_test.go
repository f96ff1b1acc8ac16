// Package liverotation_test shows that no handshake fails while a CA rotates: servers and clients read the files that a kubelet mounts,
// and verify each other all the time.
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

// leastHandshakes is how many the test must have seen to prove anything.
const leastHandshakes = 5000

// TestLiveRotation: the CA is replaced five times in a row, for another reason each time, one of them while another is under way. Not
// one handshake fails, between readers that reload and readers that never do.
func TestLiveRotation(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	w := newWorld(t)
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

// specChangesAndTriggerComes is two rotations: the trigger of the second comes while the first is propagating. It waits and says so,
// and begins as soon as the signer is switched.
func (w *world) specChangesAndTriggerComes() {
	w.Helper()
	w.begin(v1alpha1.RotationSpecChanged, func() {
		w.change(minimum(lingering), func(spec *v1alpha1.ServiceCASpec) {
			spec.Certificate.PrivateKey = v1alpha1.PrivateKey{Algorithm: v1alpha1.RSA, Size: 2048}
		})
	})
	next := w.status().Next.SubjectKeyID
	w.change(trigger("second"))
	w.await("waits for the first rotation", func(ca *v1alpha1.ServiceCA) bool {
		return strings.Contains(strings.Join(ca.Status.Rotation.BlockedBy, "\n"), `spec.rotation.trigger "second" waits`)
	})
	w.begin(v1alpha1.RotationTriggered, func() { w.change(minimum(propagation)) })
	w.await("signs by the key of the first rotation", func(ca *v1alpha1.ServiceCA) bool {
		return ca.Status.Active.SubjectKeyID == next || ca.Status.Previous[0].SubjectKeyID == next
	})
	w.finish()
}

// keyIsLost: nobody can cross-sign with a key that is gone, so clients that never reload are replaced once the new root is published. The
// switch waits for those that the operator restarts.
func (w *world) keyIsLost() {
	w.Helper()
	w.begin(v1alpha1.RotationSigningKeyLost, func() {
		w.change(minimum(lingering))
		key := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: w.ca.SigningKeySecretName()}}
		if err := w.kube.Delete(w.Context(), key); err != nil {
			w.Fatal(err)
		}
	})
	w.await("waits for a client", func(ca *v1alpha1.ServiceCA) bool {
		return strings.Contains(strings.Join(ca.Status.Rotation.BlockedBy, "\n"), "Deployment shop/restarting")
	})
	w.replace(w.keptClients()...)
	w.change(minimum(propagation))
	w.finish()
}

// compromised: the old roots leave the bundle, so whoever never reloads is replaced as soon as its certificate is reissued.
func (w *world) compromised() {
	w.Helper()
	w.begin(v1alpha1.RotationCompromise, func() {
		// Twice as long as otherwise: it is also what is left to lengthen the next phase.
		w.change(trigger("stolen"), minimum("20s"), func(spec *v1alpha1.ServiceCASpec) {
			spec.Rotation.TriggerReason = v1alpha1.TriggerCompromise
		})
	})
	w.await("switches", func(ca *v1alpha1.ServiceCA) bool { return ca.Status.Next == nil })
	w.change(minimum(lingering))
	w.finish()
	w.replace(w.kept()...)
	w.change(minimum(propagation))
	w.await("trusts one root only", func(ca *v1alpha1.ServiceCA) bool {
		return ca.Status.Rotation.Phase == v1alpha1.PhaseStable && ca.Status.TrustBundle.Certificates == 1
	})
	w.bundleIsMounted()
	w.meet()
}

// begin does what a rotation begins with, and waits until every target carries the next CA, and the kubelet has brought it to the pods.
func (w *world) begin(reason v1alpha1.RotationReason, start func()) {
	w.Helper()
	before := w.status().Rotation.StartedAt
	start()
	w.await(fmt.Sprintf("propagates because of %s", reason), func(ca *v1alpha1.ServiceCA) bool {
		now := ca.Status.Rotation
		return now.Reason == reason && !now.StartedAt.Equal(before) && now.Phase != v1alpha1.PhasePublishing
	})
	if bundle := w.ca.Status.TrustBundle; bundle.CurrentTargets != bundle.Targets {
		w.Errorf("%s: only %d of %d targets carry the bundle", reason, bundle.CurrentTargets, bundle.Targets)
	}
	published := time.Now()
	w.bundleIsMounted()
	w.Logf("%s: the kubelet brought the bundle to the last pod after %s", reason, time.Since(published).Round(time.Millisecond))
	w.meet()
}

// finish waits until a rotation has replaced every certificate, and everybody has met everybody since.
func (w *world) finish() {
	w.Helper()
	w.await("retires", func(ca *v1alpha1.ServiceCA) bool { return ca.Status.Rotation.Phase == v1alpha1.PhaseRetiring })
	w.reissued()
	signer := w.meet()
	for _, server := range w.servers {
		if shown := w.traffic.shownBy(server); !server.frozen && shown != signer {
			w.Errorf("%s reloads, and shows a certificate of %s instead of %s", server.name, shown, signer)
		}
	}
	w.Logf("%s signs; %s", w.ca.Status.Active.Subject, w.traffic)
}

// meet waits until every client has met every server from now on, and returns the CA that signs; empty while none may.
func (w *world) meet() (signer string) {
	w.Helper()
	before := w.traffic.counts()
	w.eventually(func(context.Context) error { return w.traffic.metSince(before) })
	if active := w.status().Active; active != nil {
		return active.SubjectKeyID
	}
	return ""
}

// clientsAreBehind fails unless clients that were never replaced needed a bridge of that many certificates.
func (w *world) clientsAreBehind(generations int64) {
	w.Helper()
	for _, client := range w.clients {
		if crossed := w.traffic.crossedBy(client); client.kept && crossed != generations {
			w.Errorf("%s, which never reloads, needed a bridge of %d certificates, want %d", client.name, crossed, generations)
		}
	}
}

// serversShow fails unless servers that were never replaced show the certificate that they had at the start.
func (w *world) serversShow(signer string) {
	w.Helper()
	for _, server := range w.servers {
		if shown := w.traffic.shownBy(server); server.kept && shown != signer {
			w.Errorf("%s, which never reloads, shows a certificate of %s, want %s", server.name, shown, signer)
		}
	}
}

// conclude counts.
func (w *world) conclude() {
	w.Helper()
	w.eventually(func(context.Context) error {
		if hands := w.traffic.hands(); hands < leastHandshakes {
			return fmt.Errorf("only %d handshakes in all, want %d", hands, leastHandshakes)
		}
		return nil
	})
	w.traffic.stop()
	w.failOnFailures()
	w.Logf("%s", w.traffic)
	fmt.Println(w.traffic)
}
