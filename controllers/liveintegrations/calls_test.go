package liveintegrations_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// asks returns the annotation of an object that asks for the realm's bundle.
func (r realm) asks() map[string]string {
	return map[string]string{v1alpha1.AnnotationInjectCABundle: r.name}
}

func (r realm) webhook(name string, s *server) admissionregistrationv1.ValidatingWebhook {
	path := "/admit"
	return admissionregistrationv1.ValidatingWebhook{
		Name:                    name + ".example.org",
		ClientConfig:            admissionregistrationv1.WebhookClientConfig{Service: &admissionregistrationv1.ServiceReference{Namespace: r.name, Name: s.service.Name, Port: &s.port, Path: &path}},
		SideEffects:             new(admissionregistrationv1.SideEffectClassNone),
		AdmissionReviewVersions: []string{"v1"},
		NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: r.name}},
		Rules: []admissionregistrationv1.RuleWithOperations{{
			Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
		}},
	}
}

func mutating(webhook admissionregistrationv1.ValidatingWebhook) admissionregistrationv1.MutatingWebhook {
	return admissionregistrationv1.MutatingWebhook{
		Name: webhook.Name, ClientConfig: webhook.ClientConfig, SideEffects: webhook.SideEffects, Rules: webhook.Rules,
		AdmissionReviewVersions: webhook.AdmissionReviewVersions, NamespaceSelector: webhook.NamespaceSelector,
	}
}

// crd returns a CustomResourceDefinition whose versions a webhook converts.
func (r realm) crd(group string, s *server) *apiextensionsv1.CustomResourceDefinition {
	path := "/convert"
	schema := &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: new(true)}}
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "things." + group, Annotations: r.asks()},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "things", Kind: "Thing", ListKind: "ThingList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{
				{Name: "v1", Served: true, Storage: true, Schema: schema}, {Name: "v2", Served: true, Schema: schema},
			},
			Conversion: &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
				ClientConfig:             &apiextensionsv1.WebhookClientConfig{Service: &apiextensionsv1.ServiceReference{Namespace: r.name, Name: s.service.Name, Port: &s.port, Path: &path}},
				ConversionReviewVersions: []string{"v1"},
			}},
		},
	}
}

// apiService returns an aggregated API.
func (r realm) apiService(group string, s *server) *unstructured.Unstructured {
	object := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{
		"group": group, "version": "v1", "groupPriorityMinimum": int64(1000), "versionPriority": int64(10),
		"service": map[string]any{"namespace": r.name, "name": s.service.Name, "port": int64(s.port)},
	}}}
	object.SetAPIVersion("apiregistration.k8s.io/v1")
	object.SetKind("APIService")
	object.SetName("v1." + group)
	object.SetAnnotations(r.asks())
	return object
}

// The API server calls a webhook, an aggregated API and a conversion webhook before, during and
// after a rotation, and none of these calls fails.
func TestCallsThroughARotation(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	s := r.serve("server")
	validating := create(t, &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: r.name, Annotations: r.asks()}, Webhooks: []admissionregistrationv1.ValidatingWebhook{r.webhook("a", s)},
	})
	mutates := create(t, &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: r.name, Annotations: r.asks()}, Webhooks: []admissionregistrationv1.MutatingWebhook{mutating(r.webhook("b", s))},
	})
	crd := create(t, r.crd("converted.example.org", s))
	aggregated := create(t, r.apiService("aggregated.example.org", s))
	// The trust-bundle ConfigMap, the ClusterTrustBundle, and these four.
	r.current(6)

	direct, err := kubernetes.NewForConfig(env.cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	thing := &unstructured.Unstructured{}
	thing.SetAPIVersion("converted.example.org/v1")
	thing.SetKind("Thing")
	thing.SetNamespace(r.name)
	thing.SetName("thing")
	create(t, thing)
	calls := map[string]func() error{
		"webhook": func() error {
			return env.kube.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, GenerateName: "call-"}}, client.DryRunAll)
		},
		"conversion": func() error {
			return direct.RESTClient().Get().AbsPath("/apis/converted.example.org/v2/namespaces", r.name, "things", "thing").Do(t.Context()).Error()
		},
		"aggregated API": func() error {
			return direct.RESTClient().Get().AbsPath("/apis/aggregated.example.org/v1").Do(t.Context()).Error()
		},
	}
	for what, call := range calls {
		// The API server picks up a new object after a moment.
		eventually(t, func(context.Context) string { return errorText(call()) })
		_ = what
	}
	begun := []int64{s.admissions.Load(), s.conversions.Load(), s.aggregated.Load()}
	callers := &callers{}
	for what, call := range calls {
		callers.keepCalling(t, what, call)
	}
	r.rotate("now")
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if ca.Status.Rotation.Trigger != "now" || ca.Status.Rotation.Phase != v1alpha1.PhaseRetiring {
			return "the certificates are not reissued"
		}
		return ""
	})
	after := callers.calls.Load()
	eventually(t, func(context.Context) string {
		if callers.failed.Load() == nil && callers.calls.Load() < after+50 {
			return "nobody calls any more"
		}
		return ""
	})
	if err := callers.failed.Load(); err != nil {
		t.Fatal(*err)
	}
	for i, now := range []int64{s.admissions.Load(), s.conversions.Load(), s.aggregated.Load()} {
		if now < begun[i]+10 {
			t.Errorf("the server was called %d times: %v", now-begun[i], []string{"webhook", "conversion", "aggregated API"}[i])
		}
	}
	r.current(6)
	bundle := r.bundle()
	get(t, validating, func(c *admissionregistrationv1.ValidatingWebhookConfiguration) string {
		return same("caBundle", string(c.Webhooks[0].ClientConfig.CABundle), bundle)
	})
	get(t, mutates, func(c *admissionregistrationv1.MutatingWebhookConfiguration) string {
		return same("caBundle", string(c.Webhooks[0].ClientConfig.CABundle), bundle)
	})
	get(t, crd, func(c *apiextensionsv1.CustomResourceDefinition) string {
		return same("caBundle", string(c.Spec.Conversion.Webhook.ClientConfig.CABundle), bundle)
	})
	for _, object := range []client.Object{validating, mutates, crd, aggregated} {
		get(t, object, disowned)
	}
}

func errorText(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

func same(what, got, want string) string {
	if got != want {
		return fmt.Sprintf("%s is %.60q, and not %.60q", what, got, want)
	}
	return ""
}

// disowned returns which fields of an object the operator still owns besides its marker, and an
// empty string if none.
func disowned(object client.Object) string {
	for _, entry := range object.GetManagedFields() {
		if entry.Manager == "servingcert-trust" && !strings.HasPrefix(entry.FieldsV1.GetRawString(), `{"f:metadata":{"f:annotations"`) {
			return fmt.Sprintf("%T %s: fields are still ours: %s", object, object.GetName(), entry.FieldsV1.GetRawString())
		}
	}
	return ""
}

// current waits until exactly that many targets carry the bundle.
func (r realm) current(targets int32) {
	r.Helper()
	r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if bundle := ca.Status.TrustBundle; bundle == nil || bundle.Targets != targets || bundle.CurrentTargets != targets {
			return fmt.Sprintf("%d targets should carry the bundle: %+v", targets, bundle)
		}
		return ""
	})
}
