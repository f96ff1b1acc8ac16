package controllers_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// crashes runs an action in a new realm repeatedly: with an operator that dies at the first write
// about the realm, at the second, and so on, until it survives the whole action. The request at
// which it dies is either never sent or, in the next run, sent and its response lost. Each time
// another operator finishes what was begun.
type crashes struct {
	testCluster
	name string
	// prepare is what an operator that does not die does first.
	prepare func(realm)
	// act is the change to which the operator then reacts.
	act func(realm)
	// verify waits for the final state, and checks it.
	verify func(realm)
}

func (c crashes) run() {
	c.Helper()
	through := newTransport()
	stop := c.start(through)
	for _, answered := range []bool{false, true} {
		for index := 1; ; index++ {
			name := fmt.Sprintf("%s-%t-%02d", c.name, answered, index)
			r := c.realm(name)
			c.prepare(r)
			through.arm(failurePoint{about: name, at: index, answered: answered})
			c.act(r)
			if !c.dies(through, r) {
				c.Logf("%s, requests at which it dies being answered: %t: %d writes", c.name, answered, index-1)
				break
			}
			stop()
			through = newTransport()
			stop = c.start(through)
			c.verify(r)
			if c.Failed() {
				c.Fatalf("after a death at write %d of %s (answered: %t)", index, c.name, answered)
			}
		}
	}
}

// realm returns a realm without a ServiceCA and without a policy.
func (c crashes) realm(name string) realm {
	made := metav1.ObjectMeta{Name: name}
	return realm{
		T: c.T, kube: c.kube, name: name, ca: &v1alpha1.ServiceCA{ObjectMeta: made, Spec: v1alpha1.ServiceCASpec{
			Rotation: v1alpha1.CARotation{Propagation: v1alpha1.Propagation{Minimum: "1s"}},
		}},
		policy: &v1alpha1.ServingCertPolicy{ObjectMeta: made, Spec: v1alpha1.ServingCertPolicySpec{
			ServiceCAName: name, NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: name}},
		}},
	}
}

// dies waits until the operator is dead, or has done all of its work, and reports whether it is
// dead.
func (c crashes) dies(through *transport, r realm) bool {
	c.Helper()
	dead := false
	eventually(c.T, func(context.Context) string {
		through.mu.Lock()
		resting := time.Since(through.last) > 4*time.Second
		through.mu.Unlock()
		if dead = through.isDead(); !dead && !resting {
			return "the operator is neither dead nor at rest"
		}
		return ""
	})
	if dead {
		return true
	}
	// On a busy machine a recount may be due later than that; writes that are still due are let
	// through.
	through.arm(failurePoint{})
	if through.isDead() {
		return true
	}
	c.verify(r)
	return false
}

// crashServices are the names of the Services in each realm.
var crashServices = []string{"web", "api", "db"}

func bootstrap(r realm) {
	createBy(r.T, r.kube, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.name}})
	createBy(r.T, r.kube, r.ca)
	createBy(r.T, r.kube, r.policy)
	for _, name := range crashServices {
		r.service(name, withSecretName(name+"-tls"))
	}
	r.injected("trust")
}

// settled waits until every Service of a realm has a certificate from a CA that trusts, besides
// itself, that many predecessors; it returns the CA's root.
func settled(r realm, before int) *x509.Certificate {
	r.Helper()
	ca := r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if problem := isReady(ca); problem != "" {
			return problem
		}
		if len(ca.Status.Previous) != before || *activeOf(ca).Certificates != 3 || ca.Status.TrustBundle.CurrentTargets != 3 {
			return "the status is behind"
		}
		return ""
	})
	root := r.signer()
	if activeOf(ca).SerialNumber != root.SerialNumber.Text(16) {
		r.Errorf("%s signs, and the Secret holds %s", activeOf(ca).Subject, root.Subject)
	}
	for _, name := range crashServices {
		r.handshake(r.secret(name+"-tls", r.signedBy(root, name+"."+r.name+".svc")), name+"."+r.name+".svc")
	}
	bundle, err := r.bundle(r.Context())
	if count := strings.Count(bundle, "BEGIN CERTIFICATE"); err != nil || count != before+1 {
		r.Errorf("the bundle holds %d roots, want %d: %v", count, before+1, err)
	}
	r.carries(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "trust"}})
	var keys corev1.SecretList
	if err := r.kube.List(r.Context(), &keys, client.InNamespace(operatorNamespace), client.MatchingLabels{v1alpha1.LabelServiceCA: r.name}); err != nil {
		r.Fatal(err)
	}
	if len(keys.Items) != 1 || keys.Items[0].Name != r.ca.SigningKeySecretName() {
		r.Errorf("there are %d Secrets of the CA", len(keys.Items))
	}
	return root
}

// Whenever the operator dies while it creates a CA, its bundle, its certificates and its injected
// targets, it creates one root and no more.
func TestCrashAtEveryWriteOfABringUp(t *testing.T) {
	t.Parallel()
	crashes{
		testCluster: newTestCluster(t), name: "bring-up",
		prepare: func(realm) {}, act: bootstrap,
		verify: func(r realm) { settled(r, 0) },
	}.run()
}

// Exactly one new CA follows one whose key was lost, and the old root stays trusted.
func TestCrashAtEveryWriteAfterALostKey(t *testing.T) {
	t.Parallel()
	var lost *x509.Certificate
	crashes{
		testCluster: newTestCluster(t), name: "lost-key",
		prepare: func(r realm) {
			bootstrap(r)
			lost = settled(r, 0)
		},
		act: func(r realm) {
			if err := r.kube.Delete(r.Context(), r.signingKey()); err != nil {
				r.Fatal(err)
			}
		},
		verify: func(r realm) {
			differentGenerations(r.T, lost, settled(r, 1))
			bundle, err := r.bundle(r.Context())
			if problem := differs(bundle, []*x509.Certificate{lost, r.signer()}); problem != "" || err != nil {
				r.Errorf("%s %v", problem, err)
			}
		},
	}.run()
}

// A signing key that moves to another Secret name is never lost during the move.
func TestCrashAtEveryWriteOfARename(t *testing.T) {
	t.Parallel()
	var root *x509.Certificate
	crashes{
		testCluster: newTestCluster(t), name: "rename",
		prepare: func(r realm) {
			bootstrap(r)
			root = settled(r, 0)
		},
		act: func(r realm) {
			former := r.ca.DeepCopy()
			r.ca.Spec.SigningKey.SecretName, r.ca.Spec.TrustBundle.ConfigMapName = r.name+"-moved", r.name+"-moved"
			if err := r.kube.Patch(r.Context(), r.ca, client.MergeFrom(former)); err != nil {
				r.Fatal(err)
			}
		},
		verify: func(r realm) {
			// The ServiceCA is ready all the time: the move is complete when the former Secret has
			// gone.
			eventually(r.T, func(ctx context.Context) string {
				var former corev1.Secret
				err := r.kube.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: r.name + "-signing-key"}, &former)
				if err == nil {
					return "the former Secret is still there"
				}
				return errorText(client.IgnoreNotFound(err))
			})
			if !settled(r, 0).Equal(root) {
				r.Error("a new CA signs")
			}
		},
	}.run()
}
