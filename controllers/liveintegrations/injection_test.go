package liveintegrations_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	admissionac "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/servingcert/operator/api/v1alpha1"
)

// applied returns a webhook configuration as it is in Git, without any caBundle.
func (r realm) applied(name string, annotations map[string]string, webhooks ...string) *admissionac.ValidatingWebhookConfigurationApplyConfiguration {
	configuration := admissionac.ValidatingWebhookConfiguration(name).WithAnnotations(annotations)
	for _, webhook := range webhooks {
		called := admissionac.WebhookClientConfig()
		if strings.HasPrefix(webhook, "url") {
			called.WithURL("https://elsewhere.example.org")
		} else {
			called.WithService(admissionac.ServiceReference().WithNamespace(r.name).WithName("nobody"))
		}
		configuration.WithWebhooks(admissionac.ValidatingWebhook().
			WithName(webhook + ".example.org").WithClientConfig(called).WithSideEffects(admissionregistrationv1.SideEffectClassNone).
			WithAdmissionReviewVersions("v1").WithFailurePolicy(admissionregistrationv1.Ignore).
			WithRules(admissionac.RuleWithOperations().WithOperations(admissionregistrationv1.Create).
				WithAPIGroups("nobody.example.org").WithAPIVersions("v1").WithResources("things")))
	}
	return configuration
}

// git is the field manager of a tool that applies what is in Git.
const git = client.FieldOwner("git")

func (r realm) apply(configuration *admissionac.ValidatingWebhookConfigurationApplyConfiguration) *admissionregistrationv1.ValidatingWebhookConfiguration {
	r.Helper()
	object := &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: *configuration.Name}}
	r.Cleanup(func() { _ = client.IgnoreNotFound(env.kube.Delete(context.Background(), object)) })
	if err := env.kube.Apply(r.Context(), configuration, git); err != nil {
		r.Fatal(err)
	}
	return object
}

// bundles returns the caBundles of a configuration's webhooks, by the webhooks' names.
func bundles(configuration *admissionregistrationv1.ValidatingWebhookConfiguration) map[string]string {
	values := map[string]string{}
	for _, webhook := range configuration.Webhooks {
		name, _, _ := strings.Cut(webhook.Name, ".")
		values[name] = string(webhook.ClientConfig.CABundle)
	}
	return values
}

// A client that applies a webhook configuration from Git can add webhooks, remove them, and remove
// the annotation, as if the operator were not there.
func TestWebhookRemovedByItsOwner(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	bundle := r.bundle()
	object := r.apply(r.applied(r.name, r.asks(), "first", "url"))
	filled := func(names ...string) {
		t.Helper()
		get(t, object, func(c *admissionregistrationv1.ValidatingWebhookConfiguration) string {
			has := bundles(c)
			if len(has) != len(names) {
				return fmt.Sprintf("the webhooks are %v", has)
			}
			for _, name := range names {
				if has[name] != bundle {
					return fmt.Sprintf("webhook %s has no bundle", name)
				}
			}
			return disowned(c)
		})
	}
	filled("first", "url")
	r.apply(r.applied(r.name, r.asks(), "first", "url", "later"))
	filled("first", "url", "later")
	generation := object.Generation
	r.apply(r.applied(r.name, r.asks(), "first", "url", "later"))
	get(t, object, func(c *admissionregistrationv1.ValidatingWebhookConfiguration) string {
		if c.Generation != generation {
			t.Fatalf("applying the same again changed the generation from %d to %d", generation, c.Generation)
		}
		return ""
	})
	r.apply(r.applied(r.name, r.asks(), "later"))
	filled("later")
	update(t, object, func(c *admissionregistrationv1.ValidatingWebhookConfiguration) {
		c.Webhooks[0].ClientConfig.CABundle = nil
	})
	filled("later")
	r.apply(r.applied(r.name, map[string]string{}, "later"))
	get(t, object, func(c *admissionregistrationv1.ValidatingWebhookConfiguration) string {
		if has := bundles(c); has["later"] != "" || len(c.Annotations) > 0 {
			return fmt.Sprintf("given up, it has %v and the annotations %v", has, c.Annotations)
		}
		return disowned(c)
	})
}

// A caBundle that another client put in place of the operator's stays when the annotation is
// removed.
func TestWebhookKeepsWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	object := r.apply(r.applied(r.name, r.asks(), "first"))
	get(t, object, func(c *admissionregistrationv1.ValidatingWebhookConfiguration) string {
		return same("caBundle", bundles(c)["first"], r.bundle())
	})
	theirs := newRealmBundle(t)
	update(t, object, func(c *admissionregistrationv1.ValidatingWebhookConfiguration) {
		c.Webhooks[0].ClientConfig.CABundle = theirs
		delete(c.Annotations, v1alpha1.AnnotationInjectCABundle)
	})
	get(t, object, func(c *admissionregistrationv1.ValidatingWebhookConfiguration) string {
		if len(c.Annotations) > 0 {
			return fmt.Sprintf("it has the annotations %v", c.Annotations)
		}
		return same("caBundle", bundles(c)["first"], string(theirs))
	})
}

// newRealmBundle returns a bundle of another CA.
func newRealmBundle(t *testing.T) []byte {
	t.Helper()
	var root corev1.ConfigMap
	if err := env.kube.Get(t.Context(), client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: "kube-root-ca.crt"}, &root); err != nil {
		t.Fatal(err)
	}
	return []byte(root.Data["ca.crt"])
}

// OpenShift's annotation stands for the ServiceCA default; on webhook configurations and CRDs only
// its beta form counts. A webhook with a URL gets the bundle too, as on OpenShift.
func TestOpenShiftAnnotations(t *testing.T) {
	t.Parallel()
	create(t, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	r := realm{t, "default"}
	r.ready()
	const beta, alpha = "service.beta.openshift.io/inject-cabundle", "service.alpha.openshift.io/inject-cabundle"
	object := r.apply(r.applied("openshift-beta", map[string]string{beta: "True"}, "first", "url"))
	get(t, object, func(c *admissionregistrationv1.ValidatingWebhookConfiguration) string {
		return same("caBundle", bundles(c)["first"], r.bundle()) + same("caBundle of the webhook at a URL", bundles(c)["url"], r.bundle())
	})
	apiService := r.apiService("alpha.example.org", &server{service: &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "nobody"}}, port: 443})
	apiService.SetAnnotations(map[string]string{alpha: "true"})
	create(t, apiService)
	get(t, apiService, func(c *unstructured.Unstructured) string {
		encoded, _, _ := unstructured.NestedString(c.Object, "spec", "caBundle")
		bundle, _ := base64.StdEncoding.DecodeString(encoded)
		return same("caBundle", string(bundle), r.bundle())
	})
	passed := r.apply(r.applied("openshift-alpha", map[string]string{alpha: "true"}, "first"))
	get(t, passed, func(c *admissionregistrationv1.ValidatingWebhookConfiguration) string {
		if bundles(c)["first"] != "" {
			t.Fatal("OpenShift honours no alpha annotation on webhook configurations")
		}
		return ""
	})
}

// The operator adds one key to a Secret, as to a ConfigMap, and touches nothing else in it; for
// Java it adds a truststore with the same bundle.
func TestSecretsAndTruststores(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	annotations := r.asks()
	annotations[v1alpha1.AnnotationTruststore] = "pkcs12"
	secret := create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "java", Annotations: annotations}, StringData: map[string]string{"mine": "kept"},
	})
	configMap := create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "java", Annotations: annotations}})
	var first []byte
	get(t, configMap, func(c *corev1.ConfigMap) string {
		first = c.BinaryData[v1alpha1.TruststoreKey]
		return truststore(first, "", r.bundle()) + same(v1alpha1.DefaultCABundleKey, c.Data[v1alpha1.DefaultCABundleKey], r.bundle())
	})
	get(t, secret, func(s *corev1.Secret) string {
		return truststore(s.Data[v1alpha1.TruststoreKey], "", r.bundle()) + same("mine", string(s.Data["mine"]), "kept") +
			same("the truststore", string(s.Data[v1alpha1.TruststoreKey]), string(first))
	})
	r.current(4)

	// With a password, whose Secret must name this use.
	create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "secret"}, StringData: map[string]string{"password": "other"}})
	create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "emoji", Labels: map[string]string{v1alpha1.LabelKeystorePassword: ""}},
		StringData: map[string]string{"password": "\U0001F600"},
	})
	update(t, secret, func(s *corev1.Secret) { s.Annotations[v1alpha1.AnnotationTruststorePassword] = "secret" })
	get(t, secret, func(s *corev1.Secret) string {
		if reported := s.Annotations[v1alpha1.AnnotationError]; !strings.Contains(reported, "label it servingcert.dev/keystore-password") {
			return "it is told " + reported
		}
		return truststore(s.Data[v1alpha1.TruststoreKey], "", r.bundle())
	})
	password := create(t, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "password", Labels: map[string]string{v1alpha1.LabelKeystorePassword: ""}},
		StringData: map[string]string{"password": "changeit", "other": "changed"},
	})
	// Neither error delays a rotation; each is reported on the Secret.
	for wrong, says := range map[string]string{"..": "names no Secret and key", "emoji": "takes no such characters"} {
		update(t, secret, func(s *corev1.Secret) { s.Annotations[v1alpha1.AnnotationTruststorePassword] = wrong })
		get(t, secret, func(s *corev1.Secret) string { return contains(s.Annotations[v1alpha1.AnnotationError], says) })
	}
	update(t, secret, func(s *corev1.Secret) { s.Annotations[v1alpha1.AnnotationTruststorePassword] = "password" })
	get(t, secret, func(s *corev1.Secret) string {
		if reported := s.Annotations[v1alpha1.AnnotationError]; reported != "" {
			return "it is told " + reported
		}
		return truststore(s.Data[v1alpha1.TruststoreKey], "changeit", r.bundle())
	})
	update(t, password, func(s *corev1.Secret) { s.StringData = map[string]string{"password": "another"} })
	get(t, secret, func(s *corev1.Secret) string {
		return truststore(s.Data[v1alpha1.TruststoreKey], "another", r.bundle())
	})

	// The operator reverts drift, and removes what it wrote with the annotations.
	update(t, secret, func(s *corev1.Secret) { delete(s.Data, v1alpha1.TruststoreKey) })
	get(t, secret, func(s *corev1.Secret) string {
		return truststore(s.Data[v1alpha1.TruststoreKey], "another", r.bundle())
	})
	update(t, secret, func(s *corev1.Secret) { delete(s.Annotations, v1alpha1.AnnotationTruststore) })
	get(t, secret, func(s *corev1.Secret) string {
		if _, has := s.Data[v1alpha1.TruststoreKey]; has {
			return "the truststore is still there"
		}
		return same(v1alpha1.DefaultCABundleKey, string(s.Data[v1alpha1.DefaultCABundleKey]), r.bundle())
	})
	update(t, secret, func(s *corev1.Secret) { delete(s.Annotations, v1alpha1.AnnotationInjectCABundle) })
	get(t, secret, func(s *corev1.Secret) string {
		if len(s.Data) != 1 || string(s.Data["mine"]) != "kept" {
			return fmt.Sprintf("it has %d keys", len(s.Data))
		}
		return ""
	})
}

// truststore returns what is wrong with a truststore, and an empty string if it holds the bundle.
func truststore(encoded []byte, password, bundle string) string {
	roots, err := pkcs12.DecodeTrustStore(encoded, password)
	if err != nil {
		return "the truststore: " + err.Error()
	}
	if len(roots) != strings.Count(bundle, "BEGIN CERTIFICATE") {
		return fmt.Sprintf("the truststore has %d roots", len(roots))
	}
	return ""
}

// The operator reverts changes of the ClusterTrustBundle, and leaves alone one that another client
// created under its name.
func TestClusterTrustBundle(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	bundle := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "servingcert.dev:" + r.name + ":bundle"}}
	get(t, bundle, func(b *certificatesv1.ClusterTrustBundle) string {
		if b.Spec.SignerName != "servingcert.dev/"+r.name {
			t.Fatalf("the signer is %s", b.Spec.SignerName)
		}
		return same("the bundle", b.Spec.TrustBundle, r.bundle())
	})
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		return same("status.trustBundle.clusterTrustBundleName", ca.Status.TrustBundle.ClusterTrustBundleName, bundle.Name)
	})
	update(t, bundle, func(b *certificatesv1.ClusterTrustBundle) { b.Spec.TrustBundle = string(newRealmBundle(t)) })
	get(t, bundle, func(b *certificatesv1.ClusterTrustBundle) string {
		return same("the bundle", b.Spec.TrustBundle, r.bundle())
	})
	if err := env.kube.Delete(t.Context(), bundle); err != nil {
		t.Fatal(err)
	}
	bundle.ResourceVersion = ""
	get(t, bundle, func(b *certificatesv1.ClusterTrustBundle) string {
		return same("the bundle", b.Spec.TrustBundle, r.bundle())
	})

	other := r.name + "-other"
	foreign := create(t, &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: "servingcert.dev:" + other + ":bundle"},
		Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: "servingcert.dev/" + other, TrustBundle: string(newRealmBundle(t))},
	})
	create(t, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: other}})
	get(t, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: other}}, func(ca *v1alpha1.ServiceCA) string {
		for _, condition := range ca.Status.Conditions {
			if condition.Type == v1alpha1.ConditionTrustEstablished && strings.Contains(condition.Message, "did not make it") {
				return ""
			}
		}
		return fmt.Sprintf("nobody is told: %+v", ca.Status.Conditions)
	})
	get(t, foreign, func(b *certificatesv1.ClusterTrustBundle) string {
		if b.Spec.TrustBundle != string(newRealmBundle(t)) {
			t.Fatal("somebody else's ClusterTrustBundle was written")
		}
		return ""
	})
}
