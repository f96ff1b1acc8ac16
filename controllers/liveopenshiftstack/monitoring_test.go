package liveopenshiftstack_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
)

// operatorNamespace is the namespace of config/openshift, which scripts written for OpenShift
// expect.
const operatorNamespace = "openshift-service-ca"

// TestOpenShiftMonitoringStack checks that OpenShift's monitoring stack starts with the operator,
// and that without it every pod of the stack waits for a Secret.
func TestOpenShiftMonitoringStack(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	s := newStack(t)
	if len(s.secrets) == 0 || len(s.configMaps) == 0 {
		t.Fatalf("the manifests ask for %d Secrets and hold %d ConfigMaps for the bundle", len(s.secrets), len(s.configMaps))
	}
	s.deploy()
	for _, pod := range s.pods() {
		s.waitsForSecret(&pod)
	}
	s.runOperator()
	roots := s.bundle()
	s.servicesAreServed(roots)
	pods := s.pods()
	for i := range pods {
		s.runs(&pods[i])
	}
	s.shakeHands(pods)
	s.statusIsGreen()
	s.deployingAgainChangesNothing()
}

// waitsForSecret waits until a pod is in ContainerCreating. Of everything that it mounts, only what
// Services ask for is missing.
func (s *stack) waitsForSecret(pod *corev1.Pod) {
	s.Helper()
	eventually(s.T, func(ctx context.Context) error {
		if err := s.kube.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
		if state := column(pod); state != "ContainerCreating" && state != "Init:0/1" {
			return fmt.Errorf("pod %s is %s", pod.Name, state)
		}
		return nil
	})
	var missing []string
	for i := range pod.Spec.Volumes {
		object, kind := foreignObject(&pod.Spec.Volumes[i], pod.Namespace)
		if object == nil {
			continue
		}
		switch err := s.kube.Get(s.Context(), client.ObjectKeyFromObject(object), object); {
		case apierrors.IsNotFound(err):
			missing = append(missing, kind+" "+object.GetName())
		case err != nil:
			s.Fatal(err)
		}
	}
	var ours []string
	for _, volume := range s.ourSecrets(pod) {
		ours = append(ours, "Secret "+volume.Secret.SecretName)
	}
	if len(ours) == 0 || !slices.Equal(missing, ours) {
		s.Fatalf("pod %s mounts %v, of which the Services ask for %v", pod.Name, missing, ours)
	}
	s.Logf("pod %s: %s, for there is no %s", pod.Name, column(pod), strings.Join(missing, ", "))
}

// column returns the STATUS that kubectl shows of a pod while it starts.
func column(pod *corev1.Pod) string {
	for i, status := range pod.Status.InitContainerStatuses {
		if status.State.Waiting != nil {
			return fmt.Sprintf("Init:%d/%d", i, len(pod.Spec.InitContainers))
		}
	}
	for _, status := range pod.Status.ContainerStatuses {
		if status.State.Waiting != nil {
			return status.State.Waiting.Reason
		}
	}
	return string(pod.Status.Phase)
}

// runOperator installs the operator and OpenShift's sample.
func (s *stack) runOperator() {
	s.Helper()
	err := errors.Join(
		testoperator.Install(s.Context(), s.kube, operatorNamespace),
		testoperator.Allow(s.Context(), s.kube, operatorNamespace, "publish"),
	)
	if err != nil {
		s.Fatal(err)
	}
	stop, err := testoperator.Start(context.Background(), s.cluster, operatorNamespace)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if err := stop(); err != nil {
			s.Error(err)
		}
	})
	folder, err := testoperator.Path("config", "samples", "openshift")
	if err != nil {
		s.Fatal(err)
	}
	sample, err := testoperator.Manifests(folder)
	if err != nil {
		s.Fatal(err)
	}
	for _, object := range sample {
		if err := s.kube.Create(s.Context(), object); err != nil {
			s.Fatal(err)
		}
	}
}

// bundle waits until every ConfigMap that asks for the bundle holds the published one and nothing
// else, and returns its roots.
func (s *stack) bundle() *x509.CertPool {
	s.Helper()
	var published corev1.ConfigMap
	for name := range s.configMaps {
		eventually(s.T, func(ctx context.Context) error {
			if err := s.kube.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: "signing-cabundle"}, &published); err != nil {
				return err
			}
			var target corev1.ConfigMap
			if err := s.kube.Get(ctx, split(name), &target); err != nil {
				return err
			}
			if len(target.Data) != 1 || target.Data["service-ca.crt"] == "" || target.Data["service-ca.crt"] != published.Data["ca-bundle.crt"] {
				return fmt.Errorf("ConfigMap %s does not hold exactly the bundle", name)
			}
			return nil
		})
	}
	for _, callee := range s.callees {
		eventually(s.T, func(ctx context.Context) error {
			live := &unstructured.Unstructured{}
			live.SetGroupVersionKind(callee.GroupVersionKind())
			if err := s.kube.Get(ctx, client.ObjectKeyFromObject(callee), live); err != nil {
				return err
			}
			encoded, err := live.MarshalJSON()
			if want := base64.StdEncoding.EncodeToString([]byte(published.Data["ca-bundle.crt"])); !strings.Contains(string(encoded), want) {
				return fmt.Errorf("%s %s does not hold the bundle", callee.GetKind(), callee.GetName())
			}
			return err
		})
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(published.Data["ca-bundle.crt"])) {
		s.Fatal("the bundle holds no certificate")
	}
	return roots
}

// servicesAreServed waits until every Service that asks for a Secret has one, and its certificate
// verifies by the injected bundle for all of its names.
func (s *stack) servicesAreServed(roots *x509.CertPool) {
	s.Helper()
	for _, object := range s.objects {
		secretName := object.GetAnnotations()["service.beta.openshift.io/serving-cert-secret-name"]
		if object.GetKind() != "Service" || secretName == "" {
			continue
		}
		host := object.GetName() + "." + object.GetNamespace() + ".svc"
		names := []string{host, host + ".cluster.local"}
		if clusterIP, _, _ := unstructured.NestedString(object.Object, "spec", "clusterIP"); clusterIP == corev1.ClusterIPNone {
			names = append(names, "pod-0."+host, "pod-0."+host+".cluster.local")
		}
		eventually(s.T, func(ctx context.Context) error {
			var secret corev1.Secret
			if err := s.kube.Get(ctx, client.ObjectKey{Namespace: object.GetNamespace(), Name: secretName}, &secret); err != nil {
				return err
			}
			return verify(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey], roots, names)
		})
	}
}

func verify(certificate, key []byte, roots *x509.CertPool, names []string) error {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots}); err != nil {
			return err
		}
	}
	return nil
}

// runs waits until a pod is Running and Ready, and its volume has the content of the Secret.
func (s *stack) runs(pod *corev1.Pod) {
	s.Helper()
	eventually(s.T, func(ctx context.Context) error {
		if err := s.kube.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
		if pod.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("pod %s is %s", pod.Name, column(pod))
		}
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("pod %s is not ready", pod.Name)
	})
	s.Logf("pod %s: Running", pod.Name)
	for _, volume := range s.ourSecrets(pod) {
		var secret corev1.Secret
		if err := s.kube.Get(s.Context(), client.ObjectKey{Namespace: pod.Namespace, Name: volume.Secret.SecretName}, &secret); err != nil {
			s.Fatal(err)
		}
		mounted := s.file(pod, volume.Name, corev1.TLSCertKey)
		if !bytes.Equal(mounted, secret.Data[corev1.TLSCertKey]) {
			s.Errorf("pod %s finds another certificate in volume %s", pod.Name, volume.Name)
		}
	}
}

func (s *stack) file(pod *corev1.Pod, volume, name string) []byte {
	s.Helper()
	folder, err := s.cluster.VolumePath(pod, volume)
	if err != nil {
		s.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		s.Fatal(err)
	}
	return content
}

// published are the targets that every ServiceCA has. The ServiceCA of OpenShift's sample also
// publishes in each namespace.
var published = []string{"its trust-bundle ConfigMap", "its ClusterTrustBundle"}

// statusIsGreen waits until the CA and the policy report that every target and every Service is
// served.
func (s *stack) statusIsGreen() {
	s.Helper()
	eventually(s.T, func(ctx context.Context) error {
		var policy v1alpha1.ServingCertPolicy
		var ca v1alpha1.ServiceCA
		var namespaces corev1.NamespaceList
		err := errors.Join(s.kube.Get(ctx, client.ObjectKey{Name: "default"}, &policy), s.kube.Get(ctx, client.ObjectKey{Name: "default"}, &ca),
			s.kube.List(ctx, &namespaces))
		if err != nil {
			return err
		}
		counts, bundle := policy.Status.Services, ca.Status.TrustBundle
		switch {
		case !meta.IsStatusConditionTrue(policy.Status.Conditions, v1alpha1.ConditionAllServed), counts == nil, int(counts.Issued) != len(s.secrets):
			return fmt.Errorf("the policy reports %+v", policy.Status)
		case !meta.IsStatusConditionTrue(ca.Status.Conditions, v1alpha1.ConditionTrustEstablished), int(bundle.CurrentTargets) != len(s.configMaps)+len(s.callees)+len(published)+len(namespaces.Items):
			return fmt.Errorf("the ServiceCA reports %+v", ca.Status)
		}
		return nil
	})
}

// deployingAgainChangesNothing checks that a deployer who applies the manifests again meets no
// conflict, reverts nothing and writes nothing. Only the first time does the API server record that
// an empty `data` in a manifest now has the deployer as an owner too.
func (s *stack) deployingAgainChangesNothing() {
	s.Helper()
	s.apply()
	s.bundle()
	before := s.versions()
	s.apply()
	for name, version := range s.versions() {
		if before[name] != version {
			s.Errorf("%s was written", name)
		}
	}
}

// versions returns the resourceVersions of the manifests' Services and ConfigMaps, and of the
// Secrets that these ask for.
func (s *stack) versions() map[string]string {
	s.Helper()
	versions := map[string]string{}
	note := func(kind string, key client.ObjectKey, object client.Object) {
		if err := s.kube.Get(s.Context(), key, object); err != nil {
			s.Fatal(err)
		}
		versions[kind+" "+key.String()] = object.GetResourceVersion()
	}
	for _, object := range s.objects {
		if kind := object.GetKind(); kind == "Service" || kind == "ConfigMap" {
			note(kind, client.ObjectKeyFromObject(object), object.DeepCopy())
		}
	}
	for name := range s.secrets {
		note("Secret", split(name), &corev1.Secret{})
	}
	return versions
}
