package controllers_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// openShiftsOwn installs the API by which OpenShift configures its own service CA.
func openShiftsOwn(t *testing.T, kube client.Client) {
	t.Helper()
	createBy(t, kube, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "servicecas.operator.openshift.io"},
		"spec": map[string]any{
			"group": "operator.openshift.io", "scope": "Cluster",
			"names": map[string]any{"kind": "ServiceCA", "plural": "servicecas"},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object"}},
			}},
		},
	}})
	eventually(t, func(ctx context.Context) string {
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion("operator.openshift.io/v1")
		list.SetKind("ServiceCAList")
		if err := kube.List(ctx, list); err != nil {
			return err.Error()
		}
		return ""
	})
}

// On OpenShift itself the operator leaves OpenShift's annotations to OpenShift's own service CA,
// and the operator's annotations work beside them.
func TestOpenShiftsOwnServiceCAIsLeftAlone(t *testing.T) {
	t.Parallel()
	kube, start := newCluster(t)
	openShiftsOwn(t, kube)
	defer start()()
	r := newRealmIn(t, kube, "shop")
	createBy(t, kube, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	demand := func(name string, annotations map[string]string) (*corev1.Service, *corev1.ConfigMap) {
		common := metav1.ObjectMeta{Namespace: r.name, Name: name, Annotations: annotations}
		service := &corev1.Service{ObjectMeta: *common.DeepCopy(), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}}
		return createBy(t, kube, service), createBy(t, kube, &corev1.ConfigMap{ObjectMeta: common, Data: map[string]string{"mine": "stays"}})
	}
	theirService, theirConfigMap := demand("theirs", map[string]string{beta + "serving-cert-secret-name": "theirs-tls", alpha + "inject-cabundle": "true"})
	_, ourConfigMap := demand("ours", map[string]string{
		v1alpha1.AnnotationSecretName: "ours-tls", v1alpha1.AnnotationInjectCABundle: "default", beta + "inject-cabundle": "true",
	})
	eventually(t, func(ctx context.Context) string {
		var secret corev1.Secret
		if err := kube.Get(ctx, client.ObjectKey{Namespace: r.name, Name: "ours-tls"}, &secret); err != nil {
			return err.Error()
		}
		if err := kube.Get(ctx, client.ObjectKeyFromObject(ourConfigMap), ourConfigMap); err != nil {
			return err.Error()
		}
		if ourConfigMap.Data[v1alpha1.DefaultCABundleKey] == "" || ourConfigMap.Data["mine"] != "stays" {
			return "our annotation does not work"
		}
		return ""
	})
	for _, object := range []client.Object{theirService, theirConfigMap} {
		before := object.GetResourceVersion()
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
			t.Fatal(err)
		}
		if object.GetResourceVersion() != before {
			t.Errorf("%T %s was written", object, object.GetName())
		}
	}
	if err := kube.Get(t.Context(), client.ObjectKey{Namespace: r.name, Name: "theirs-tls"}, &corev1.Secret{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Secret of OpenShift's annotation is there (%v)", err)
	}
}
