package controllers_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// Two operators run at the same time, as when one has lost its lease and has not yet noticed: they
// create one CA and not two, agree on every Secret, and settle.
func TestTwoOperatorsAtOnce(t *testing.T) {
	t.Parallel()
	const many = 20
	w := newTestCluster(t)
	wires := []*transport{newTransport(), newTransport()}
	for _, through := range wires {
		w.start(through)
	}
	rest := func() {
		t.Helper()
		for range 2 { // one of them may have to react to what the other writes
			for _, through := range wires {
				through.quiet(t, 3*time.Second)
			}
		}
	}
	r := newRealmIn(t, w.kube, "overlap")
	r.injected("trust")
	for i := range many {
		r.service(fmt.Sprintf("web-%d", i), withSecretName(fmt.Sprintf("web-%d-tls", i)))
	}
	allSigned := func(before int) {
		t.Helper()
		r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
			if problem := isReady(ca); problem != "" {
				return problem
			}
			if len(ca.Status.Previous) != before || *activeOf(ca).Certificates != many || ca.Status.TrustBundle.CurrentTargets != 3 {
				return "not all are signed"
			}
			return ""
		})
		root := r.signer()
		for i := range many {
			r.secret(fmt.Sprintf("web-%d-tls", i), r.signedBy(root, fmt.Sprintf("web-%d.%s.svc", i, r.name)))
		}
		r.carries(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "trust"}})
	}
	allSigned(0)
	rest()
	if writes := len(wires[0].written("/secrets/web-")) + len(wires[1].written("/secrets/web-")); writes > 3*many {
		t.Errorf("%d certificates cost %d writes", many, writes)
	}
	// The key is lost repeatedly: each time exactly one CA follows.
	for lost := 1; lost <= 3; lost++ {
		if err := w.kube.Delete(t.Context(), r.signingKey()); err != nil {
			t.Fatal(err)
		}
		allSigned(lost)
	}
	// Both operators carry out the rotations.
	for rotation := 4; rotation <= 6; rotation++ {
		former := r.ca.DeepCopy()
		r.ca.Spec.Rotation.Trigger = fmt.Sprintf("rotation %d", rotation)
		if err := w.kube.Patch(t.Context(), r.ca, client.MergeFrom(former)); err != nil {
			t.Fatal(err)
		}
		allSigned(rotation)
	}
	// A signing key that moves repeatedly stays the same key.
	root := r.signer()
	for i := range 8 {
		former := r.ca.DeepCopy()
		r.ca.Spec.SigningKey.SecretName = fmt.Sprintf("overlap-%d", i)
		if err := w.kube.Patch(t.Context(), r.ca, client.MergeFrom(former)); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			continue // without waiting for the operators
		}
		eventually(t, func(ctx context.Context) string {
			var keys corev1.SecretList
			err := w.kube.List(ctx, &keys, client.InNamespace(operatorNamespace), client.MatchingLabels{v1alpha1.LabelServiceCA: r.name})
			if err != nil || len(keys.Items) != 1 || keys.Items[0].Name != r.ca.SigningKeySecretName() {
				return fmt.Sprintf("the key lies in %d Secrets: %v", len(keys.Items), err)
			}
			return ""
		})
		if !r.signer().Equal(root) {
			t.Fatal("the key was lost as it moved")
		}
	}
	// Two Services exchange the names of their Secrets.
	for i, name := range []string{"web-0", "web-1"} {
		var service corev1.Service
		if err := w.kube.Get(t.Context(), client.ObjectKey{Namespace: r.name, Name: name}, &service); err != nil {
			t.Fatal(err)
		}
		former := service.DeepCopy()
		service.Annotations[v1alpha1.AnnotationSecretName] = fmt.Sprintf("web-%d-tls", 1-i)
		if err := w.kube.Patch(t.Context(), &service, client.MergeFrom(former)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		r.secret("web-1-tls", r.signedBy(root, "web-0."+r.name+".svc"))
		r.secret("web-0-tls", r.signedBy(root, "web-1."+r.name+".svc"))
		rest()
	}
	r.serves(many)
}
