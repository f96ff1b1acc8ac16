package controllers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
)

// publishedName is the ConfigMap that most add-ons for OpenShift mount.
const publishedName = "openshift-service-ca.crt"

// publishes makes a ServiceCA publish in all namespaces without the label no=publish.
func publishes(ca *v1alpha1.ServiceCA, _ *v1alpha1.ServingCertPolicy) {
	ca.Spec.TrustBundle.Publish = []v1alpha1.PublishedBundle{{ConfigMapName: publishedName, NamespaceSelector: metav1.LabelSelector{
		MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "no", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"publish"}}},
	}}}
}

func (c testCluster) namespace(name string, labels map[string]string) *corev1.Namespace {
	c.Helper()
	return createBy(c.T, c.kube, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}})
}

// publishedIn waits until the ConfigMap in each namespace is exactly what the ServiceCA publishes.
func (r realm) publishedIn(namespaces ...string) {
	r.Helper()
	for _, namespace := range namespaces {
		eventually(r.T, func(ctx context.Context) string {
			bundle, err := r.bundle(ctx)
			if err != nil {
				return err.Error()
			}
			var configMap corev1.ConfigMap
			if err := r.kube.Get(ctx, client.ObjectKey{Namespace: namespace, Name: publishedName}, &configMap); err != nil {
				return err.Error()
			}
			if len(configMap.Data) != 1 || configMap.Data[v1alpha1.DefaultCABundleKey] != bundle || configMap.Labels[v1alpha1.LabelServiceCA] != r.name {
				return fmt.Sprintf("in %s it has the labels %v and holds %v", namespace, configMap.Labels, configMap.Data)
			}
			return ""
		})
	}
}

// absentIn waits until none of the namespaces has such a ConfigMap.
func (c testCluster) absentIn(namespaces ...string) {
	c.Helper()
	for _, namespace := range namespaces {
		eventually(c.T, func(ctx context.Context) string {
			err := c.kube.Get(ctx, client.ObjectKey{Namespace: namespace, Name: publishedName}, &corev1.ConfigMap{})
			if apierrors.IsNotFound(err) {
				return ""
			}
			return fmt.Sprintf("in %s there is one (%v)", namespace, err)
		})
	}
}

// allTargets accepts a ServiceCA whose every target carries the bundle.
func allTargets(ca *v1alpha1.ServiceCA) string {
	bundle := ca.Status.TrustBundle
	if bundle == nil || bundle.Targets < 5 || bundle.Targets != bundle.CurrentTargets || !meta.IsStatusConditionTrue(ca.Status.Conditions, v1alpha1.ConditionTrustEstablished) {
		return "not all targets are counted as current"
	}
	return ""
}

// saysBlocked accepts a ServiceCA that is ready and reports, in these words, that some targets
// cannot have the bundle.
func saysBlocked(says ...string) func(*v1alpha1.ServiceCA) string {
	return func(ca *v1alpha1.ServiceCA) string {
		condition := meta.FindStatusCondition(ca.Status.Conditions, v1alpha1.ConditionTrustEstablished)
		if condition == nil || condition.Reason != "TargetsBlocked" || isReady(ca) != "" {
			return "it is not blocked"
		}
		for _, words := range says {
			if !strings.Contains(condition.Message, words) {
				return fmt.Sprintf("%q is not in %q", words, condition.Message)
			}
		}
		return ""
	}
}

// edit changes an object of the separate cluster.
func (c testCluster) edit(object client.Object, change func()) {
	c.Helper()
	eventually(c.T, func(ctx context.Context) string {
		if err := c.kube.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err.Error()
		}
		change()
		return errorText(c.kube.Update(ctx, object))
	})
}

func configMapIn(namespace string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: publishedName}}
}

// A ServiceCA publishes its bundle in every namespace that it selects, as soon as RBAC allows it,
// and keeps it there. A ConfigMap of that name that another client created stays as it is.
func TestPublish(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	through := newTransport()
	stop := w.start(through)
	w.namespace("tenant", nil)
	excluded := w.namespace("excluded", map[string]string{"no": "publish"})
	w.namespace("foreign", nil)
	foreign := configMapIn("foreign")
	foreign.Data = map[string]string{"theirs": "stays"}
	createBy(t, w.kube, foreign)
	r := newRealmIn(t, w.kube, "publisher", publishes)
	r.serviceCA(saysBlocked("config/components/publish"))
	w.absentIn("tenant")

	if err := testoperator.Allow(t.Context(), w.kube, operatorNamespace, "publish"); err != nil {
		t.Fatal(err)
	}
	r.publishedIn("tenant", "default", operatorNamespace)
	w.absentIn("excluded")
	r.serviceCA(saysBlocked("foreign/"+publishedName, "did not make it"))
	if err := w.kube.Get(t.Context(), client.ObjectKeyFromObject(foreign), foreign); err != nil || len(foreign.Data) != 1 || len(foreign.Labels) > 0 {
		t.Errorf("a ConfigMap of somebody else's is %+v (%v)", foreign, err)
	}
	var events corev1.EventList
	eventually(t, func(ctx context.Context) string {
		if err := w.kube.List(ctx, &events, client.InNamespace("foreign"), client.MatchingFields{"reason": "ConfigMapNotOurs"}); err != nil || len(events.Items) != 1 {
			return fmt.Sprintf("%d Events (%v)", len(events.Items), err)
		}
		return ""
	})

	// Such a ConfigMap can ask for the bundle by annotation; once it is deleted, the operator
	// publishes under its name.
	w.edit(foreign, func() { foreign.Annotations = map[string]string{v1alpha1.AnnotationInjectCABundle: r.name} })
	r.serviceCA(allTargets)
	if err := w.kube.Delete(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	r.publishedIn("foreign")
	r.serviceCA(allTargets)

	// The operator reverts what tenants change in a published ConfigMap.
	mine := configMapIn("tenant")
	w.edit(mine, func() { mine.Data, mine.Labels = map[string]string{"other": "x"}, nil })
	r.publishedIn("tenant")
	if err := w.kube.Delete(t.Context(), mine); err != nil {
		t.Fatal(err)
	}
	r.publishedIn("tenant")

	// Namespaces are created, and their labels change.
	w.namespace("later", nil)
	r.publishedIn("later")
	w.edit(excluded, func() { delete(excluded.Labels, "no") })
	r.publishedIn("excluded")
	w.edit(excluded, func() { excluded.Labels["no"] = "publish" })
	w.absentIn("excluded")

	// Of two ServiceCAs that publish under one name the older one does, and the other one reports
	// that.
	younger := newRealmIn(t, w.kube, "younger", publishes)
	younger.serviceCA(saysBlocked("publisher, which is older"))
	r.publishedIn("tenant", "younger")

	// A rotation waits for all published ConfigMaps, which need no annotation.
	before := activeOf(r.serviceCA(allTargets)).Fingerprint
	w.edit(r.ca, func() { r.ca.Spec.Rotation.Trigger = "now" })
	w.namespace("during", nil)
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if activeOf(ca).Fingerprint == before {
			return "the CA before signs"
		}
		return allTargets(ca)
	})
	r.publishedIn("tenant", "during", "default")

	// A ConfigMap that is no longer to be published is deleted, even when that changed while the
	// operator was down.
	stop()
	w.edit(r.ca, func() { r.ca.Spec.TrustBundle.Publish = nil })
	w.edit(younger.ca, func() { younger.ca.Spec.TrustBundle.Publish = nil })
	theirs := configMapIn("theirs")
	w.namespace("theirs", nil)
	theirs.Labels = map[string]string{v1alpha1.LabelServiceCA: r.name}
	theirs.Annotations = map[string]string{v1alpha1.AnnotationPublishedHash: "0123/service-ca.crt"}
	theirs.Data = map[string]string{v1alpha1.DefaultCABundleKey: "a mark is no proof"}
	createBy(t, w.kube, theirs)
	stop = w.start(through)
	w.absentIn("tenant", "default", "younger", operatorNamespace)
	if err := w.kube.Get(t.Context(), client.ObjectKeyFromObject(theirs), theirs); err != nil {
		t.Errorf("what somebody marked was removed: %v", err)
	}

	// When a ServiceCA is deleted, what it published stays, like everything else that it created.
	w.edit(r.ca, func() { publishes(r.ca, nil) })
	r.publishedIn("tenant")
	if err := w.kube.Delete(t.Context(), r.ca); err != nil {
		t.Fatal(err)
	}
	w.edit(mine, func() { mine.Annotations["touched"] = "by hand" })
	w.namespace("afterwards", nil)
	younger.serviceCA(isReady)
	if err := w.kube.Get(t.Context(), client.ObjectKeyFromObject(mine), mine); err != nil {
		t.Error(err)
	}
	stop()
}

// The operator does not read back what it wrote itself, neither when namespaces get the bundle nor
// when the bundle changes; it does read what other clients changed.
func TestPublishReadsWhatOthersWrite(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	if err := testoperator.Allow(t.Context(), w.kube, operatorNamespace, "publish"); err != nil {
		t.Fatal(err)
	}
	var namespaces []string
	for i := range 20 {
		namespaces = append(namespaces, w.namespace(fmt.Sprintf("tenant-%d", i), nil).Name)
	}
	through := newTransport()
	stop := w.start(through)
	r := newRealmIn(t, w.kube, "publisher", publishes)
	before := activeOf(r.serviceCA(allTargets)).Fingerprint
	r.publishedIn(namespaces...)
	w.edit(r.ca, func() { r.ca.Spec.Rotation.Trigger = "now" })
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if activeOf(ca).Fingerprint == before {
			return "the CA before signs"
		}
		return allTargets(ca)
	})
	r.publishedIn(namespaces...)
	for _, namespace := range namespaces {
		if writes := through.written("/namespaces/"+namespace+"/", "/configmaps"); len(writes) != 2 {
			t.Errorf("in %s the ConfigMap was not created and updated, each once: %v", namespace, writes)
		}
	}
	// The cache may be out of date for a few of them.
	if asked := through.asked(publishedName); asked >= len(namespaces)/2 {
		t.Errorf("%d requests for the ConfigMaps of %d namespaces", asked, len(namespaces))
	}

	// A new manager does not read them one by one either, and updates all that are out of date.
	stop()
	mine := configMapIn(namespaces[0])
	if err := w.kube.Delete(t.Context(), configMapIn(namespaces[1])); err != nil {
		t.Fatal(err)
	}
	w.edit(mine, func() { mine.Data = map[string]string{v1alpha1.DefaultCABundleKey: "x"} })
	again := newTransport()
	stop = w.start(again)
	r.publishedIn(namespaces...)
	again.quiet(t, time.Second)
	if asked := again.asked(publishedName); asked >= len(namespaces)/2 {
		t.Errorf("a new manager sends %d requests for the ConfigMaps of %d namespaces", asked, len(namespaces))
	}

	w.edit(mine, func() { mine.BinaryData = map[string][]byte{"other": []byte("x")} })
	eventually(t, func(ctx context.Context) string {
		if err := w.kube.Get(ctx, client.ObjectKeyFromObject(mine), mine); err != nil || len(mine.BinaryData) > 0 {
			return fmt.Sprintf("the key of a tenant stays (%v)", err)
		}
		return ""
	})
	stop()
}
