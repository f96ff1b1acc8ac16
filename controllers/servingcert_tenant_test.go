package controllers_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// tenant returns the client of a user who may do everything with Services, Secrets and ConfigMaps
// of the realm's namespace, and nothing else.
func (r realm) tenant() client.Client {
	r.Helper()
	role := map[string]any{"rules": []any{map[string]any{
		"apiGroups": []any{""}, "resources": []any{"services", "secrets", "configmaps"}, "verbs": []any{"*"},
	}}}
	binding := map[string]any{
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tenant"},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "tenant-of-" + r.name}},
	}
	for kind, content := range map[string]map[string]any{"Role": role, "RoleBinding": binding} {
		object := &unstructured.Unstructured{Object: content}
		object.SetGroupVersionKind(schema.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: kind})
		object.SetNamespace(r.name)
		object.SetName("tenant")
		create(r.T, object)
	}
	config := rest.CopyConfig(running.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "tenant-of-" + r.name, Groups: []string{"system:authenticated"}}
	tenant := clientFor(r.T, config)
	eventually(r.T, func(ctx context.Context) string { // until the authorizer has the new rules
		return errorText(tenant.List(ctx, &corev1.SecretList{}, client.InNamespace(r.name)))
	})
	return tenant
}

// attack returns a realm, its tenant, and a neighbor who has a Service "victim" with a Secret
// "victim-tls".
func attack(t *testing.T) (r realm, tenant client.Client, neighbor realm, victim *corev1.Secret) {
	t.Helper()
	r = newRealm(t)
	neighbor = newRealmIn(t, kube, r.name+"-n")
	neighbor.service("victim", withSecretName("victim-tls"))
	return r, r.tenant(), neighbor, neighbor.secret("victim-tls", neighbor.issued("victim."+neighbor.name+".svc"))
}

// names returns the names in all certificates of a namespace.
func (r realm) names() []string {
	r.Helper()
	var secrets corev1.SecretList
	if err := kube.List(r.Context(), &secrets, client.InNamespace(r.name)); err != nil {
		r.Fatal(err)
	}
	var names []string
	for i := range secrets.Items {
		for _, certificate := range parse(r.T, secrets.Items[i].Data[corev1.TLSCertKey]) {
			names = append(names, append(certificate.DNSNames, certificate.Subject.CommonName)...)
		}
	}
	return names
}

// Whatever tenants write on their objects, they get certificates for their own Services only, and
// no Secret of another tenant changes.
func TestTenantGetsNoNameOfOthers(t *testing.T) {
	t.Parallel()
	r, tenant, neighbor, victim := attack(t)
	host := "victim." + neighbor.name + ".svc"
	for i, forged := range []map[string]string{
		{"servingcert.dev/dns-names": host, "servingcert.dev/extra-dns-names": host, "cert-manager.io/alt-names": host},
		{"servingcert.dev/service": "victim", "servingcert.dev/namespace": neighbor.name, "servingcert.dev/serviceca": neighbor.name},
		{"service.beta.openshift.io/originating-service-name": "victim", "service.beta.openshift.io/originating-service-uid": string(victim.UID)},
		{"servingcert.dev/serviceca": neighbor.name, "servingcert.dev/policy": neighbor.policy.Name, "servingcert.dev/namespace": neighbor.name},
	} {
		name := fmt.Sprintf("web-%d", i)
		annotations := withSecretName(name + "-tls")
		maps.Copy(annotations, forged)
		service := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name, Annotations: annotations, Labels: map[string]string{}},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}, ExternalIPs: nil},
		}
		for key, value := range forged {
			if len(value) < 63 {
				service.Labels[key] = value
			}
		}
		if err := tenant.Create(t.Context(), service); err != nil {
			t.Fatal(err)
		}
		r.secret(name+"-tls", r.issued(name+"."+r.name+".svc"))
	}
	// A Service that points at the victim's still gets the tenant's own name.
	far := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "far", Annotations: withSecretName("far-tls")},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: host}}
	if err := tenant.Create(t.Context(), far); err != nil {
		t.Fatal(err)
	}
	r.secret("far-tls", r.issued("far."+r.name+".svc"))
	for _, name := range r.names() {
		if !strings.Contains(name, "."+r.name+".svc") {
			t.Errorf("the tenant has a certificate for %q", name)
		}
	}
	unchanged(t, victim)
}

// A tenant cannot reach beyond its namespace, neither by the name of a Secret nor by an owner.
func TestTenantReachesNoSecretOfOthers(t *testing.T) {
	t.Parallel()
	r, tenant, neighbor, victim := attack(t)
	key := neighbor.signingKey()
	for i, name := range []string{
		neighbor.name + "/victim-tls", "../" + neighbor.name + "/victim-tls", neighbor.name + ".victim-tls", "victim-tls", key.Name,
	} {
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: fmt.Sprintf("web-%d", i), Annotations: withSecretName(name)},
			Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}}
		if err := tenant.Create(t.Context(), service); err != nil {
			t.Fatal(err)
		}
	}
	r.expectError("web-0", "InvalidSecretName")
	r.expectError("web-1", "InvalidSecretName")
	r.secret("victim-tls", r.issued("web-3."+r.name+".svc"))
	r.secret(key.Name, r.issued("web-4."+r.name+".svc"))
	// A Secret that claims to belong to the neighbor's Service, by name, UID and ServiceCA.
	var service corev1.Service
	if err := kube.Get(t.Context(), client.ObjectKey{Namespace: neighbor.name, Name: "victim"}, &service); err != nil {
		t.Fatal(err)
	}
	forged := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "forged", Labels: victim.Labels, Annotations: victim.Annotations,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: "victim", UID: service.UID}}},
		Type: corev1.SecretTypeTLS, Data: generateCA(t, "Forged", nil).data(t),
	}
	if err := tenant.Create(t.Context(), forged); err != nil {
		t.Fatal(err)
	}
	touch(t, &service)
	neighbor.passes()
	unchanged(t, victim, key)
	neighbor.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if *activeOf(ca).Certificates != 1 {
			return "a forged Secret is counted"
		}
		return isReady(ca)
	})
	if err := tenant.Get(t.Context(), client.ObjectKeyFromObject(victim), &corev1.Secret{}); !apierrors.IsForbidden(err) {
		t.Fatalf("the tenant of this test has rights that he should not have: %v", err)
	}
}

// Forged labels on a tenant's own Secret do not degrade the status of any ServiceCA.
func TestTenantForgesCertificates(t *testing.T) {
	t.Parallel()
	r, tenant, neighbor, victim := attack(t)
	forged := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "forged", Labels: victim.Labels},
		Type:       corev1.SecretTypeTLS, Data: generateCA(t, "Forged", nil).data(t),
	}
	if err := tenant.Create(t.Context(), forged); err != nil {
		t.Fatal(err)
	}
	// Whatever is counted for the forged Secret is counted by the time this later one is.
	neighbor.service("late", withSecretName("late-tls"))
	ca := neighbor.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if *activeOf(ca).Certificates != 2 {
			return "2 certificates are not counted"
		}
		return isReady(ca)
	})
	for _, condition := range ca.Status.Conditions {
		if condition.Type == v1alpha1.ConditionTrustEstablished && condition.Status != metav1.ConditionTrue {
			t.Errorf("a tenant broke the trust: %s", condition.Message)
		}
	}
	// One with a Service of that name that asks for it: it is then the Secret of the tenant's
	// Service, and the operator repairs it.
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "victim", Annotations: withSecretName("forged")},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}}
	if err := tenant.Create(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	r.secret("forged", r.signedBy(r.signer(), "victim."+r.name+".svc"))
	unchanged(t, victim)
}

// Annotations of the largest size that Kubernetes accepts affect no other tenant.
func TestTenantWritesHugeAnnotations(t *testing.T) {
	t.Parallel()
	r, tenant, neighbor, victim := attack(t)
	huge := strings.Repeat("x", 200<<10)
	for name, annotations := range map[string]map[string]string{
		"huge-name":  {v1alpha1.AnnotationSecretName: huge},
		"huge-other": {v1alpha1.AnnotationSecretName: "web-tls", "servingcert.dev/other": huge},
		"full":       {v1alpha1.AnnotationSecretName: "No Name", "filler": strings.Repeat("x", 256<<10-70)},
	} {
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name, Annotations: annotations},
			Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}}
		if err := tenant.Create(t.Context(), service); err != nil {
			t.Fatal(err)
		}
	}
	service := r.expectError("huge-name", "InvalidSecretName: ")
	if told := service.Annotations[v1alpha1.AnnotationError]; len(told) > 1024 {
		t.Errorf("the Service is told %d bytes", len(told))
	}
	r.secret("web-tls", r.issued("huge-other."+r.name+".svc"))
	p := r.report(func(p *v1alpha1.ServingCertPolicy) string {
		if counts := *p.Status.Services; counts.Matched != 3 || counts.Failed != 2 {
			return "the status is behind"
		}
		return ""
	})
	for _, failure := range p.Status.Failures {
		if len(failure.Message) > 1024 {
			t.Errorf("a failure has %d bytes", len(failure.Message))
		}
	}
	neighbor.serves(1)
	unchanged(t, victim)
}
