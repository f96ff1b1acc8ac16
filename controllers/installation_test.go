package controllers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
)

const (
	otherNamespace = "operators"
	crdOfCAs       = "servicecas." + v1alpha1.GroupName
)

// installOther prepares a second installation, with all of its RBAC rules.
func (c testCluster) installOther() {
	c.Helper()
	for _, add := range []func(*runtime.Scheme) error{rbacv1.AddToScheme, eventsv1.AddToScheme} {
		if err := add(c.kube.Scheme()); err != nil {
			c.Fatal(err)
		}
	}
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: otherNamespace}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: otherNamespace, Name: "manager"}},
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: otherNamespace},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: otherNamespace, Name: "manager"}},
		},
	} {
		if err := c.kube.Create(c.Context(), object); err != nil {
			c.Fatal(err)
		}
	}
}

// operate runs an installation in a namespace.
func (c testCluster) operate(namespace string) (stop func() error) {
	c.Helper()
	stop, err := testoperator.Start(c.Context(), c.cluster, namespace)
	if err != nil {
		c.Fatal(err)
	}
	return stop
}

// signingKey returns the signing-key Secret of a ServiceCA in a namespace, or nil if there is none.
func (c testCluster) signingKey(namespace, ca string) *corev1.Secret {
	c.Helper()
	var secret corev1.Secret
	err := c.kube.Get(c.Context(), client.ObjectKey{Namespace: namespace, Name: ca + "-signing-key"}, &secret)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		c.Fatal(err)
	}
	return &secret
}

// moveKey moves a signing-key Secret as docs/install.md describes.
func (c testCluster) moveKey(from, to, ca string) {
	c.Helper()
	secret := c.signingKey(from, ca)
	moved := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: to, Name: secret.Name, Labels: secret.Labels, Annotations: secret.Annotations},
		Type:       secret.Type, Data: secret.Data,
	}
	if err := c.kube.Create(c.Context(), moved); err != nil {
		c.Fatal(err)
	}
	if err := c.kube.Delete(c.Context(), secret); err != nil {
		c.Fatal(err)
	}
}

func (c testCluster) crd() *metav1.PartialObjectMetadata {
	c.Helper()
	crd := &metav1.PartialObjectMetadata{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	if err := c.kube.Get(c.Context(), client.ObjectKey{Name: crdOfCAs}, crd); err != nil {
		c.Fatal(err)
	}
	return crd
}

// handOver names another installation in the claim.
func (c testCluster) handOver(to string) {
	c.Helper()
	crd := c.crd()
	before := crd.DeepCopy()
	metav1.SetMetaDataAnnotation(&crd.ObjectMeta, v1alpha1.AnnotationInstallation, to)
	if err := c.kube.Patch(c.Context(), crd, client.MergeFrom(before)); err != nil {
		c.Fatal(err)
	}
}

// refused waits for an Event on a ServiceCA that says which installation is idle, and why.
func (c testCluster) refused(ca, idle, reason string) {
	c.Helper()
	eventually(c.T, func(ctx context.Context) string {
		var list eventsv1.EventList
		if err := c.kube.List(ctx, &list); err != nil {
			return err.Error()
		}
		for _, e := range list.Items {
			if e.Regarding.Name == ca && e.Reason == "AnotherInstallation" && strings.Contains(e.Note, "in namespace "+idle+" does nothing") &&
				strings.Contains(e.Note, reason) {
				return ""
			}
		}
		return fmt.Sprintf("no Event says that the installation in %s does nothing, because %s", idle, reason)
	})
}

// mintedOnce fails if the operator took a signing key for lost and created another.
func (c testCluster) mintedOnce() {
	c.Helper()
	var list eventsv1.EventList
	if err := c.kube.List(c.Context(), &list); err != nil {
		c.Fatal(err)
	}
	for _, e := range list.Items {
		if e.Reason == "SigningKeyLost" || e.Reason == "SigningKeyRestored" {
			c.Errorf("%s: %s", e.Reason, e.Note)
		}
	}
}

// A second installation stays idle and reports why, until the ServiceCAs are handed over to it with
// their keys; from then on the first one is idle.
func TestSecondInstallation(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.installOther()
	stop := w.operate(operatorNamespace)
	first := newRealmIn(t, w.kube, "first")
	signer := activeOf(first.serviceCA(isReady)).Fingerprint
	stopOther := w.operate(otherNamespace)
	w.refused("first", otherNamespace, "belong to the installation in namespace "+operatorNamespace)
	second := newRealmIn(t, w.kube, "second")
	second.serviceCA(isReady)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, ca := range []string{"first", "second"} {
		if w.signingKey(otherNamespace, ca) != nil || w.signingKey(operatorNamespace, ca) == nil {
			t.Errorf("the signing key of %s is not where it belongs", ca)
		}
		w.moveKey(operatorNamespace, otherNamespace, ca)
	}
	w.handOver(otherNamespace)
	third := newRealmIn(t, w.kube, "third")
	third.serviceCA(isReady)
	stop = w.operate(operatorNamespace)
	w.refused("first", operatorNamespace, "belong to the installation in namespace "+otherNamespace)
	if ca := first.serviceCA(isReady); activeOf(ca).Fingerprint != signer || ca.Status.Rotation.Phase != v1alpha1.PhaseStable {
		t.Errorf("after the move %s signs in phase %s", activeOf(ca).Subject, ca.Status.Rotation.Phase)
	}
	if w.signingKey(operatorNamespace, "third") != nil || w.signingKey(otherNamespace, "third") == nil {
		t.Error("the wrong installation made the signing key of a new ServiceCA")
	}
	w.mintedOnce()

	// Handed over without the keys, the active installation stops, and the one that takes over
	// reports where the keys are, and creates none.
	w.handOver(operatorNamespace)
	first.serviceCA(isStalled("SigningKeyElsewhere", otherNamespace+"/first-signing-key"))
	// It stops by itself when it next checks the claim, or is stopped before.
	if err := stopOther(); err != nil && !strings.Contains(err.Error(), operatorNamespace) {
		t.Errorf("the installation that lost its ServiceCAs ended with %v", err)
	}
	for _, ca := range []string{"first", "second", "third"} {
		w.moveKey(otherNamespace, operatorNamespace, ca)
	}
	if ca := first.serviceCA(isReady); activeOf(ca).Fingerprint != signer {
		t.Errorf("after the way back %s signs", activeOf(ca).Subject)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	w.mintedOnce()
}

// Of two installations that start at the same time in a new cluster, one is active. Where the claim
// is lost, as with a CRD that was replaced, the other one detects where the keys are; where a
// namespace was lost with its keys, the other one takes over.
func TestInstallationClaim(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.installOther()
	stops := map[string]func() error{operatorNamespace: w.operate(operatorNamespace), otherNamespace: w.operate(otherNamespace)}
	r := newRealmIn(t, w.kube, "claimed")
	r.serviceCA(isReady)
	holder := w.crd().Annotations[v1alpha1.AnnotationInstallation]
	idle := map[string]string{operatorNamespace: otherNamespace, otherNamespace: operatorNamespace}[holder]
	if w.signingKey(holder, "claimed") == nil || w.signingKey(idle, "claimed") != nil {
		t.Fatalf("%q has the claim, and another the signing key", holder)
	}
	w.mintedOnce()
	if err := stops[holder](); err != nil {
		t.Fatal(err)
	}
	w.handOver("")
	w.refused("claimed", idle, "Secret "+holder+"/claimed-signing-key")
	if w.crd().Annotations[v1alpha1.AnnotationInstallation] != "" {
		t.Error("the claim was taken, without the signing key")
	}

	// This control plane runs no controllers that delete the objects of a namespace, or the
	// namespace itself.
	w.handOver("gone")
	w.deleteKey(holder, "claimed")
	eventually(t, func(context.Context) string {
		if w.signingKey(idle, "claimed") == nil {
			return "nobody makes a new signing key"
		}
		return ""
	})
	r.serviceCA(isReady)
	if err := stops[idle](); err != nil {
		t.Error(err)
	}
}

func (c testCluster) deleteKey(namespace, ca string) {
	c.Helper()
	if err := c.kube.Delete(c.Context(), c.signingKey(namespace, ca)); err != nil {
		c.Fatal(err)
	}
}
