// Package liveopenshiftstack_test runs other projects' manifests, unchanged, with the operator.
package liveopenshiftstack_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/controllers/internal/testoperator"
	"github.com/servingcert/operator/hack/cluster"
)

// timeout allows for the kubelet, which retries a mount with a missing Secret after up to two
// minutes.
const timeout = 4 * time.Minute

// manifests returns the folder in the environment variable REAL_MANIFESTS.
func manifests(t *testing.T) string {
	t.Helper()
	folder := os.Getenv("REAL_MANIFESTS")
	if folder == "" {
		t.Skip("REAL_MANIFESTS names no folder: set it to one with the manifests of OpenShift's monitoring stack " +
			"(openshift/cluster-monitoring-operator, assets/)")
	}
	return folder
}

// stack is the content of the manifests, and the cluster in which it runs.
type stack struct {
	*testing.T
	cluster *cluster.Cluster
	kube    client.Client
	objects []*unstructured.Unstructured
	// secrets are the names of the Secrets that Services ask for, and configMaps those of the
	// ConfigMaps that ask for the bundle, as "<namespace>/<name>".
	secrets, configMaps map[string]bool
	// callees are the webhook configurations and APIServices that ask for the bundle.
	callees []*unstructured.Unstructured
}

func eventually(t *testing.T, check func(context.Context) error) {
	t.Helper()
	testoperator.Eventually(t, timeout, check)
}

// newStack starts a cluster of two nodes, for replicas with anti-affinity, and reads the manifests.
func newStack(t *testing.T) *stack {
	t.Helper()
	folder := manifests(t)
	crds, err := testoperator.Path("config", "crd", "bases")
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{T: t, secrets: map[string]bool{}, configMaps: map[string]bool{}}
	if s.objects, err = testoperator.Manifests(folder); err != nil {
		t.Fatal(err)
	}
	for _, object := range s.objects {
		s.read(object)
	}
	if s.cluster, err = cluster.Start(t.Context(), cluster.Options{Nodes: 2, CRDs: []string{crds}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.cluster.Err(), s.cluster.Stop()); err != nil {
			t.Error(err)
		}
	})
	if s.kube, err = testoperator.Client(s.cluster); err != nil {
		t.Fatal(err)
	}
	return s
}

// read records what an object asks for by OpenShift's annotations.
func (s *stack) read(object *unstructured.Unstructured) {
	annotations := object.GetAnnotations()
	name := annotations["service.beta.openshift.io/serving-cert-secret-name"]
	switch {
	case object.GetKind() == "Service" && name != "":
		s.secrets[object.GetNamespace()+"/"+name] = true
	case object.GetKind() == "ConfigMap" && annotations["service.beta.openshift.io/inject-cabundle"] == "true":
		s.configMaps[object.GetNamespace()+"/"+object.GetName()] = true
	case annotations["service.beta.openshift.io/inject-cabundle"] == "true":
		s.callees = append(s.callees, object)
	}
}

// deploy does what a deployer does: it creates the namespaces, gives a node the role that pods
// select, fills in what the manifests leave out, and applies everything else unchanged.
func (s *stack) deploy() {
	s.Helper()
	for _, namespace := range s.namespaces() {
		if err := s.kube.Create(s.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
			s.Fatal(err)
		}
	}
	role := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"node-role.kubernetes.io/master":""}}}`))
	if err := s.kube.Patch(s.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-0"}}, role); err != nil {
		s.Fatal(err)
	}
	for _, object := range s.objects {
		s.fillIn(object)
	}
	s.standIn()
	s.apply()
}

func (s *stack) namespaces() []string {
	var namespaces []string
	for _, object := range s.objects {
		if n := object.GetNamespace(); n != "" && !slices.Contains(namespaces, n) {
			namespaces = append(namespaces, n)
		}
	}
	return namespaces
}

// apply applies the manifests as a deployer does, without force.
func (s *stack) apply() {
	s.Helper()
	for _, object := range s.objects {
		err := s.kube.Apply(s.Context(), client.ApplyConfigurationFromUnstructured(object.DeepCopy()), client.FieldOwner("deployer"))
		if err != nil {
			s.Fatalf("apply %s %s: %v", object.GetKind(), object.GetName(), err)
		}
	}
}

// template returns the pod template of a workload, and nil for any other object.
func (s *stack) template(object *unstructured.Unstructured) *corev1.PodTemplateSpec {
	s.Helper()
	fields, ok, err := unstructured.NestedMap(object.Object, "spec", "template")
	if err != nil || !ok {
		return nil
	}
	var template corev1.PodTemplateSpec
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &template); err != nil {
		s.Fatal(err)
	}
	return &template
}

// fillIn sets what the manifests leave to others: to the deployer the images, and the volumes that
// are mounted but not defined; to OpenShift's admission a user other than root.
func (s *stack) fillIn(object *unstructured.Unstructured) {
	s.Helper()
	template := s.template(object)
	if template == nil {
		return
	}
	for _, containers := range [][]corev1.Container{template.Spec.InitContainers, template.Spec.Containers} {
		for i := range containers {
			if containers[i].Image == "" {
				containers[i].Image = "registry.example.org/stand-in:latest"
			}
			for _, mount := range containers[i].VolumeMounts {
				addVolume(&template.Spec, mount.Name)
			}
		}
	}
	if template.Spec.SecurityContext == nil {
		template.Spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	template.Spec.SecurityContext.RunAsUser = ptr.To[int64](1000600000)
	filled, err := runtime.DefaultUnstructuredConverter.ToUnstructured(template)
	if err != nil {
		s.Fatal(err)
	}
	if err := unstructured.SetNestedMap(object.Object, filled, "spec", "template"); err != nil {
		s.Fatal(err)
	}
}

func addVolume(pod *corev1.PodSpec, name string) {
	if slices.ContainsFunc(pod.Volumes, func(volume corev1.Volume) bool { return volume.Name == name }) {
		return
	}
	pod.Volumes = append(pod.Volumes, corev1.Volume{
		Name: name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}},
	})
}

// standIn creates what the pods mount and neither the manifests contain nor the operator creates;
// on OpenShift other operators do.
func (s *stack) standIn() {
	s.Helper()
	there := map[string]bool{}
	for _, object := range s.objects {
		there[object.GetKind()+" "+object.GetNamespace()+"/"+object.GetName()] = true
	}
	for secret := range s.secrets {
		there["Secret "+secret] = true
	}
	for _, object := range s.objects {
		template := s.template(object)
		if template == nil {
			continue
		}
		for i := range template.Spec.Volumes {
			foreign, data := foreignObject(&template.Spec.Volumes[i], object.GetNamespace())
			if foreign == nil || there[data+" "+client.ObjectKeyFromObject(foreign).String()] {
				continue
			}
			there[data+" "+client.ObjectKeyFromObject(foreign).String()] = true
			if err := s.kube.Create(s.Context(), foreign); err != nil {
				s.Fatal(err)
			}
			s.Logf("stands in: %s %s", data, foreign.GetName())
		}
	}
}

// foreignObject returns the Secret or ConfigMap of a volume, with the keys that the volume names,
// and its kind; it returns nil for any other volume.
func foreignObject(volume *corev1.Volume, namespace string) (object client.Object, kind string) {
	switch {
	case volume.Secret != nil:
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: volume.Secret.SecretName}, StringData: map[string]string{}}
		for _, item := range volume.Secret.Items {
			secret.StringData[item.Key] = "stand-in"
		}
		return secret, "Secret"
	case volume.ConfigMap != nil:
		configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: volume.ConfigMap.Name}, Data: map[string]string{}}
		for _, item := range volume.ConfigMap.Items {
			configMap.Data[item.Key] = "stand-in"
		}
		return configMap, "ConfigMap"
	}
	return nil, ""
}

// pods returns all pods of the manifests' workloads, once there are as many as the workloads ask
// for.
func (s *stack) pods() []corev1.Pod {
	s.Helper()
	var found []corev1.Pod
	eventually(s.T, func(ctx context.Context) error {
		found = nil
		for _, object := range s.objects {
			template := s.template(object)
			if template == nil {
				continue
			}
			var list corev1.PodList
			err := s.kube.List(ctx, &list, client.InNamespace(object.GetNamespace()), client.MatchingLabels(template.Labels))
			if want := s.replicas(object); err != nil || len(list.Items) != want {
				return fmt.Errorf("%s has %d pods, want %d (%w)", object.GetName(), len(list.Items), want, err)
			}
			found = append(found, list.Items...)
		}
		return nil
	})
	return found
}

// replicas returns how many pods a workload has; a DaemonSet has one on each of the two nodes.
func (s *stack) replicas(object *unstructured.Unstructured) int {
	s.Helper()
	if object.GetKind() == "DaemonSet" {
		return 2
	}
	replicas, ok, err := unstructured.NestedInt64(object.Object, "spec", "replicas")
	if err != nil || !ok {
		s.Fatalf("%s %s says no replicas (%v)", object.GetKind(), object.GetName(), err)
	}
	return int(replicas)
}

// ourSecrets returns the volumes of a pod from Secrets that Services ask for.
func (s *stack) ourSecrets(pod *corev1.Pod) []corev1.Volume {
	return slices.DeleteFunc(slices.Clone(pod.Spec.Volumes), func(volume corev1.Volume) bool {
		return volume.Secret == nil || !s.secrets[pod.Namespace+"/"+volume.Secret.SecretName]
	})
}

// split returns the key of an object named "<namespace>/<name>".
func split(name string) client.ObjectKey {
	namespace, name, _ := strings.Cut(name, "/")
	return client.ObjectKey{Namespace: namespace, Name: name}
}
