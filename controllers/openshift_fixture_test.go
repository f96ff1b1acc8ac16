package controllers_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
)

// The prefixes of OpenShift's annotations.
const (
	beta  = "service.beta.openshift.io/"
	alpha = "service.alpha.openshift.io/"
)

// openShiftNamespaces is the label of the namespaces that the sample's policy selects in these
// tests.
const openShiftNamespaces = "servingcert.test/openshift"

// openShiftSample applies config/samples/openshift once, with its policy restricted to the
// namespaces of these tests.
var openShiftSample = sync.OnceValues(func() (sample realm, err error) {
	folder, err := testoperator.Path("config", "samples", "openshift")
	if err != nil {
		return sample, err
	}
	objects, err := testoperator.Manifests(folder)
	if err != nil {
		return sample, err
	}
	sample.ca, sample.policy = &v1alpha1.ServiceCA{}, &v1alpha1.ServingCertPolicy{}
	for _, object := range objects {
		into := map[string]client.Object{"ServiceCA": sample.ca, "ServingCertPolicy": sample.policy}[object.GetKind()]
		if err := convert(object, into); err != nil {
			return sample, err
		}
	}
	sample.ca.Spec.Rotation.Propagation.Minimum = "1s"
	// Publishing needs RBAC rules that the operator does not have in these tests; liveintegrations
	// tests it.
	sample.ca.Spec.TrustBundle.Publish = nil
	sample.policy.Spec.NamespaceSelector.MatchLabels = map[string]string{openShiftNamespaces: ""}
	if err := kube.Create(context.Background(), sample.ca); err != nil {
		return sample, err
	}
	return sample, kube.Create(context.Background(), sample.policy)
})

func convert(object *unstructured.Unstructured, into client.Object) error {
	return runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, into)
}

// newOpenShift creates a namespace in which OpenShift's annotations work as in the sample.
func newOpenShift(t *testing.T) realm {
	t.Helper()
	sample, err := openShiftSample()
	if err != nil {
		t.Fatal(err)
	}
	r := realm{T: t, name: realmName(t), ca: sample.ca, policy: sample.policy}
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.name, Labels: map[string]string{openShiftNamespaces: ""}}})
	return r
}

// served returns a Service that asks by OpenShift's beta annotation, and its Secret, "<name>-tls".
func (r realm) served(name string, adjust ...func(*corev1.Service)) (*corev1.Service, *corev1.Secret) {
	r.Helper()
	service := r.service(name, map[string]string{beta + "serving-cert-secret-name": name + "-tls"}, adjust...)
	return service, r.secret(name+"-tls", r.issued(name+"."+r.name+".svc", name+"."+r.name+".svc.cluster.local"))
}

// signer returns the current CA's certificate from the Secret of its key.
func (r realm) signer() *x509.Certificate {
	r.Helper()
	return parse(r.T, r.signingKey().Data[corev1.TLSCertKey])[0]
}

func (r realm) signingKey() *corev1.Secret {
	r.Helper()
	var secret corev1.Secret
	key := client.ObjectKey{Namespace: operatorNamespace, Name: r.ca.SigningKeySecretName()}
	eventually(r.T, func(ctx context.Context) string {
		if err := r.admin().Get(ctx, key, &secret); err != nil {
			return err.Error()
		}
		return ""
	})
	return &secret
}

// parse parses certificates in PEM.
func parse(t *testing.T, encoded []byte) []*x509.Certificate {
	t.Helper()
	var certificates []*x509.Certificate
	for block, rest := pem.Decode(encoded); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certificates = append(certificates, certificate)
	}
	if len(certificates) == 0 {
		t.Fatal("no certificate")
	}
	return certificates
}

// leaf returns the certificate in a Secret.
func leaf(t *testing.T, secret *corev1.Secret) *x509.Certificate {
	t.Helper()
	return parse(t, secret.Data[corev1.TLSCertKey])[0]
}

// forbid makes the API server reject every write of a ConfigMap for which a CEL expression holds,
// until allow is called.
func forbid(t *testing.T, expression string) (allow func()) {
	t.Helper()
	name := realmName(t)
	policy := admission("ValidatingAdmissionPolicy", name, map[string]any{
		"matchConstraints": map[string]any{"resourceRules": []any{map[string]any{
			"apiGroups": []any{""}, "apiVersions": []any{"v1"}, "operations": []any{"CREATE", "UPDATE"}, "resources": []any{"configmaps"},
		}}},
		"validations": []any{map[string]any{"expression": fmt.Sprintf("!(object.metadata.name == 'probe-%s' || (%s))", name, expression)}},
	})
	binding := admission("ValidatingAdmissionPolicyBinding", name, map[string]any{
		"policyName": name, "validationActions": []any{"Deny"},
	})
	create(t, policy)
	create(t, binding)
	await := func(refused bool) {
		eventually(t, func(ctx context.Context) string {
			probe := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "probe-" + name}}
			if err := kube.Create(ctx, probe, client.DryRunAll); (err != nil) != refused {
				return fmt.Sprintf("the API server does not yet know whether to refuse: %v", err)
			}
			return ""
		})
	}
	await(true)
	return func() {
		if err := kube.Delete(t.Context(), binding); err != nil {
			t.Fatal(err)
		}
		await(false)
	}
}

func admission(kind, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec,
	}}
}

// follow records every state of a ConfigMap from now on; stop ends the recording and returns the
// states.
func follow(t *testing.T, configMap *corev1.ConfigMap) (stop func() []*corev1.ConfigMap) {
	t.Helper()
	watcher, err := client.NewWithWatch(running.Config, client.Options{Scheme: kube.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	events, err := watcher.Watch(t.Context(), &corev1.ConfigMapList{}, client.InNamespace(configMap.Namespace),
		client.MatchingFields{"metadata.name": configMap.Name}, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: configMap.ResourceVersion}})
	if err != nil {
		t.Fatal(err)
	}
	states := make(chan []*corev1.ConfigMap, 1)
	go func() {
		var configMaps []*corev1.ConfigMap
		for event := range events.ResultChan() {
			if state, ok := event.Object.(*corev1.ConfigMap); ok {
				configMaps = append(configMaps, state)
			}
		}
		states <- configMaps
	}()
	return func() []*corev1.ConfigMap {
		events.Stop()
		return <-states
	}
}
