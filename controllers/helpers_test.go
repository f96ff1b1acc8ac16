package controllers_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
)

// timeout is how long a test waits for an expected state; it measures nothing.
const timeout = 2 * time.Minute

// eventually waits until check returns an empty string; what check returned last is the failure
// message.
func eventually(t *testing.T, check func(context.Context) string) {
	t.Helper()
	testoperator.Eventually(t, timeout, testoperator.AsError(check))
}

// errorText returns the text of an error, and an empty string for nil.
func errorText(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

// create creates an object that is deleted when the test ends.
func create[T client.Object](t *testing.T, object T) T {
	t.Helper()
	return createBy(t, kube, object)
}

// createBy creates an object in the cluster of the client.
func createBy[T client.Object](t *testing.T, kube client.Client, object T) T {
	t.Helper()
	if err := kube.Create(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.IgnoreNotFound(kube.Delete(context.Background(), object)); err != nil {
			t.Error(err)
		}
	})
	return object
}

// update changes an object by a function, and retries after a conflict.
func update[T client.Object](t *testing.T, object T, change func(T)) {
	t.Helper()
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err.Error()
		}
		change(object)
		switch err := kube.Update(ctx, object); {
		case apierrors.IsConflict(err):
			return err.Error()
		case err != nil:
			t.Fatal(err)
		}
		return ""
	})
}

// realm is a namespace for one test, with a ServiceCA and a policy that select only this namespace.
type realm struct {
	*testing.T
	// kube is the client of a separate cluster; nil stands for that of the shared cluster.
	kube client.Client
	// name is the name of the namespace, the ServiceCA and the policy.
	name   string
	ca     *v1alpha1.ServiceCA
	policy *v1alpha1.ServingCertPolicy
}

// newRealm creates a realm; adjust may change the CA and the policy before they are created.
func newRealm(t *testing.T, adjust ...func(*v1alpha1.ServiceCA, *v1alpha1.ServingCertPolicy)) realm {
	t.Helper()
	return newRealmIn(t, kube, realmName(t), adjust...)
}

// newRealmIn creates a realm of that name in the cluster of the client.
func newRealmIn(
	t *testing.T, kube client.Client, name string, adjust ...func(*v1alpha1.ServiceCA, *v1alpha1.ServingCertPolicy),
) realm {
	t.Helper()
	r := realm{
		T: t, kube: kube, name: name,
		// No client in these tests reads a bundle late.
		ca: &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.ServiceCASpec{
			Rotation: v1alpha1.CARotation{Propagation: v1alpha1.Propagation{Minimum: "1s"}},
		}},
		policy: &v1alpha1.ServingCertPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: v1alpha1.ServingCertPolicySpec{
				ServiceCAName:     name,
				NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: name}},
			},
		},
	}
	for _, a := range adjust {
		a(r.ca, r.policy)
	}
	createBy(t, kube, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	createBy(t, kube, r.ca)
	createBy(t, kube, r.policy)
	return r
}

// admin returns the client of an administrator of the realm's cluster.
func (r realm) admin() client.Client {
	if r.kube != nil {
		return r.kube
	}
	return kube
}

// realmName returns a name for the objects that one test creates.
func realmName(t *testing.T) string {
	t.Helper()
	name := regexp.MustCompile("[^a-z0-9]+").ReplaceAllString(strings.ToLower(t.Name()), "-")
	return strings.Trim(name[max(0, len(name)-40):], "-")
}

// service creates a Service in the realm; adjust may change it before.
func (r realm) service(name string, annotations map[string]string, adjust ...func(*corev1.Service)) *corev1.Service {
	r.Helper()
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name, Annotations: annotations},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443, TargetPort: intstr.FromInt32(8443)}}},
	}
	for _, a := range adjust {
		a(service)
	}
	return createBy(r.T, r.admin(), service)
}

// withSecretName returns the annotations of a Service that asks for a Secret.
func withSecretName(secretName string) map[string]string {
	return map[string]string{v1alpha1.AnnotationSecretName: secretName}
}

// secret waits for a Secret of the realm that check accepts by returning an empty string.
func (r realm) secret(name string, check func(*corev1.Secret) string) *corev1.Secret {
	r.Helper()
	var secret corev1.Secret
	eventually(r.T, func(ctx context.Context) string {
		if err := r.admin().Get(ctx, client.ObjectKey{Namespace: r.name, Name: name}, &secret); err != nil {
			return err.Error()
		}
		return check(&secret)
	})
	return &secret
}

// issued accepts a Secret that holds a certificate for these names which verifies by the published
// bundle.
func (r realm) issued(names ...string) func(*corev1.Secret) string {
	return func(secret *corev1.Secret) string {
		pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
		if err != nil {
			return err.Error()
		}
		intermediates := x509.NewCertPool()
		for _, der := range pair.Certificate[1:] {
			certificate, err := x509.ParseCertificate(der)
			if err != nil {
				return err.Error()
			}
			intermediates.AddCert(certificate)
		}
		roots, problem := r.roots()
		if problem != "" {
			return problem
		}
		for _, name := range names {
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: intermediates}); err != nil {
				return err.Error()
			}
		}
		return ""
	}
}

// roots returns the certificates in the trust-bundle ConfigMap of the realm's CA, or why there are
// none.
func (r realm) roots() (*x509.CertPool, string) {
	var bundle corev1.ConfigMap
	key := client.ObjectKey{Namespace: operatorNamespace, Name: r.ca.TrustBundleConfigMapName()}
	if err := r.admin().Get(r.Context(), key, &bundle); err != nil {
		return nil, err.Error()
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(bundle.Data[r.ca.Spec.TrustBundle.Key])) {
		return nil, "the published bundle is empty"
	}
	return roots, ""
}
