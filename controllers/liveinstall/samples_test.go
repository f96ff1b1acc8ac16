package liveinstall_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
)

// helpers do what a sample needs from others: an administrator who brings a CA, the issuer, or the
// approver.
var helpers = map[string]func(*testing.T){
	"byo":                       bringCA,
	"intermediate":              signIntermediate,
	"certificatesigningrequest": approve,
	"cert-manager":              requestCertificate,
}

// Every sample is applied, and reaches the state that it describes. Samples with their own
// ServiceCA are applied one at a time; the others all together with the basic one, as in any
// cluster, and after the Service that they build on.
func TestSamples(t *testing.T) {
	platform, applications := samples(t)
	for _, sample := range platform {
		t.Run(sample, func(t *testing.T) {
			try(t, sample)
			forget(t, sample)
		})
	}
	t.Run("applications", func(t *testing.T) {
		try(t, "basic")
		try(t, "service")
		for _, sample := range applications {
			t.Run(sample, func(t *testing.T) {
				t.Parallel()
				try(t, sample)
			})
		}
	})
}

// samples returns the folders of the samples with a ServiceCA, and of those without.
func samples(t *testing.T) (platform, applications []string) {
	t.Helper()
	folder, err := testoperator.Path("config", "samples")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		isOurs := func(object *unstructured.Unstructured) bool { return object.GetKind() == "ServiceCA" }
		if slices.ContainsFunc(read(t, entry.Name()), isOurs) {
			platform = append(platform, entry.Name())
		} else {
			applications = append(applications, entry.Name())
		}
	}
	if len(platform) == 0 || len(applications) == 0 {
		t.Fatalf("samples of platforms: %v, of applications: %v", platform, applications)
	}
	return platform, applications
}

func read(t *testing.T, sample string) []*unstructured.Unstructured {
	t.Helper()
	objects, err := build(t.Context(), "config/samples/"+sample)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func try(t *testing.T, sample string) {
	t.Helper()
	if _, err := apply(t.Context(), "config/samples/"+sample); err != nil {
		t.Fatal(err)
	}
	if help := helpers[sample]; help != nil {
		help(t)
	}
	for _, object := range read(t, sample) {
		eventually(t, func(ctx context.Context) error {
			if err := env.kube.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
				return err
			}
			if err := current(ctx, object); err != nil {
				return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
			}
			return nil
		})
	}
}

// current returns an error that says what an object still lacks, and nil if it lacks nothing.
func current(ctx context.Context, object *unstructured.Unstructured) error {
	annotations := object.GetAnnotations()
	if message := annotations[v1alpha1.AnnotationError]; message != "" {
		return errors.New(message)
	}
	asks := annotations[v1alpha1.AnnotationInjectCABundle] != "" || annotations["service.beta.openshift.io/inject-cabundle"] != ""
	if asks && annotations[v1alpha1.AnnotationCABundleHash] == "" {
		return errors.New("it has no bundle")
	}
	if annotations[v1alpha1.AnnotationTruststore] != "" {
		if store, _, _ := unstructured.NestedString(object.Object, "binaryData", v1alpha1.TruststoreKey); store == "" {
			return errors.New("it has no truststore")
		}
	}
	switch object.GetKind() {
	case "ServiceCA", "ServingCertPolicy":
		return ready(object)
	case "Service":
		return served(ctx, object)
	case "Deployment":
		var deployment appsv1.Deployment
		err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &deployment)
		if err == nil && deployment.Status.AvailableReplicas == 0 {
			err = errors.New("no replica is available")
		}
		return err
	case "CertificateSigningRequest":
		if issued, _, _ := unstructured.NestedString(object.Object, "status", "certificate"); issued == "" {
			return errors.New("it has no certificate")
		}
	}
	return nil
}

func ready(object *unstructured.Unstructured) error {
	var status struct {
		ObservedGeneration int64              `json:"observedGeneration"`
		Conditions         []metav1.Condition `json:"conditions"`
	}
	content, _, _ := unstructured.NestedMap(object.Object, "status")
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, &status); err != nil {
		return err
	}
	isReady := slices.ContainsFunc(status.Conditions, func(c metav1.Condition) bool {
		return c.Type == v1alpha1.ConditionReady && c.Status == metav1.ConditionTrue
	})
	if status.ObservedGeneration != object.GetGeneration() || !isReady {
		return fmt.Errorf("not Ready: %+v", status)
	}
	return nil
}

// served returns an error unless the Secret that a Service asks for exists, with everything that
// the Service asks for.
func served(ctx context.Context, service *unstructured.Unstructured) error {
	annotations := service.GetAnnotations()
	name := annotations[v1alpha1.AnnotationSecretName] + annotations["service.beta.openshift.io/serving-cert-secret-name"]
	if name == "" {
		return nil
	}
	var secret corev1.Secret
	if err := env.kube.Get(ctx, client.ObjectKey{Namespace: service.GetNamespace(), Name: name}, &secret); err != nil {
		return err
	}
	if annotations[v1alpha1.AnnotationKeystore] != "" && len(secret.Data[v1alpha1.KeystoreKey]) == 0 {
		return errors.New("it has no keystore")
	}
	return nil
}

// forget deletes a sample, and the CA that its ServiceCA leaves behind, as an administrator would
// to start over.
func forget(t *testing.T, sample string) {
	t.Helper()
	if _, err := kubectl(t.Context(), "delete", "-k", "config/samples/"+sample); err != nil {
		t.Fatal(err)
	}
	made := client.MatchingLabels{v1alpha1.LabelServiceCA: "default"}
	for _, kind := range []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}} {
		if err := env.kube.DeleteAllOf(t.Context(), kind, client.InNamespace(operatorNamespace), made); client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
	}
}
