package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

const widgets = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Cluster
  names: {kind: Widget, plural: widgets}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}
`

func TestACompleteCluster(t *testing.T) {
	crds := t.TempDir()
	if err := os.WriteFile(filepath.Join(crds, "widgets.yaml"), []byte(widgets), 0o644); err != nil {
		t.Fatal(err)
	}
	c := start(t, Options{Nodes: 2, CRDs: []string{crds}})
	t.Run("volumes are written and refreshed", c.testVolumes)
	t.Run("pods of all kinds run", c.testPods)
	t.Run("pod certificates are asked for", c.testPodCertificates)
	t.Run("jobs complete", c.testJobs)
	t.Run("dependents are collected", c.testGarbageCollection)
	t.Run("namespaces are deleted", c.testNamespaceDeletion)
	t.Run("service accounts have tokens", c.testServiceAccounts)
	t.Run("the kubeconfig works", c.testKubeconfig)
}

// namespace creates a namespace and waits until pods can be created in it.
func (c *Cluster) namespace(t *testing.T) string {
	t.Helper()
	created, err := c.client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the default ServiceAccount", func(ctx context.Context) error {
		_, err := c.client.CoreV1().ServiceAccounts(created.Name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return created.Name
}

func (c *Cluster) testVolumes(t *testing.T) {
	namespace := c.namespace(t)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "web-tls"}, StringData: map[string]string{"tls.crt": "first"}}
	if _, err := c.client.CoreV1().Secrets(namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	bundle := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "trust"}, Data: map[string]string{"ca.crt": "root"}}
	if _, err := c.client.CoreV1().ConfigMaps(namespace).Create(t.Context(), bundle, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.AppsV1().Deployments(namespace).Create(t.Context(), deployment(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := c.readyPod(t, namespace)
	for file, want := range map[string]string{"secret/tls.crt": "first", "configmap/ca.crt": "root", "both/tls.crt": "first", "both/ca.crt": "root"} {
		c.expectFile(t, pod, file, want)
	}

	secret.StringData["tls.crt"] = "second"
	if _, err := c.client.CoreV1().Secrets(namespace).Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	changed := time.Now()
	c.expectFile(t, pod, "secret/tls.crt", "second")
	t.Logf("refreshed after %s", time.Since(changed))
	c.expectFile(t, pod, "both/tls.crt", "second")
}

// expectFile waits until a file, named by its volume and its path in it, has the content.
func (c *Cluster) expectFile(t *testing.T, pod *corev1.Pod, file, want string) {
	t.Helper()
	volume, name, _ := strings.Cut(file, "/")
	folder, err := c.VolumePath(pod, volume)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, file, func(context.Context) error {
		got, err := os.ReadFile(filepath.Join(folder, name))
		if err == nil && string(got) != want {
			err = fmt.Errorf("is %q instead of %q", got, want)
		}
		return err
	})
}

func deployment() *appsv1.Deployment {
	secret := &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "web-tls"}}
	bundle := &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "trust"}}
	volumes := []corev1.Volume{
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "web-tls"}}},
		{Name: "configmap", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: bundle.LocalObjectReference}}},
		{Name: "both", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{Secret: secret}, {ConfigMap: bundle}}}}},
	}
	labels := map[string]string{"app": "web"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{mounting(container("web"), volumes...)}, Volumes: volumes},
			},
		},
	}
}

func container(name string) corev1.Container {
	return corev1.Container{Name: name, Image: "example.com/anything"}
}

// mounting mounts volumes that the kubelet would not write otherwise.
func mounting(c corev1.Container, volumes ...corev1.Volume) corev1.Container {
	for _, volume := range volumes {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: volume.Name, MountPath: "/" + volume.Name})
	}
	return c
}

// readyPod waits until the only pod of a namespace is Ready, and returns it.
func (c *Cluster) readyPod(t *testing.T, namespace string) (pod *corev1.Pod) {
	t.Helper()
	eventually(t, "a ready pod", func(ctx context.Context) error {
		pods, err := c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(pods.Items) != 1 {
			return fmt.Errorf("there are %d pods", len(pods.Items))
		}
		pod = &pods.Items[0]
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("it is not ready: %v", pod.Status)
	})
	return pod
}

func (c *Cluster) testPods(t *testing.T) {
	trust := corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}}
	bundle := corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
		ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{SignerName: new("kubernetes.io/kube-apiserver-serving"), LabelSelector: &metav1.LabelSelector{}, Path: "ca.crt"},
	}}}}
	for name, change := range map[string]func(*corev1.PodSpec){
		"critical": func(p *corev1.PodSpec) { p.PriorityClassName = "system-cluster-critical" },
		"host network": func(p *corev1.PodSpec) {
			p.HostNetwork = true
			p.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 9100, HostPort: 9100}}
		},
		"host path": func(p *corev1.PodSpec) {
			p.Volumes = []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/proc"}}}}
			p.Containers[0] = mounting(p.Containers[0], p.Volumes...)
		},
		"sub path": func(p *corev1.PodSpec) {
			p.Volumes = []corev1.Volume{{Name: "trust", VolumeSource: trust}}
			p.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "trust", MountPath: "/ca.crt", SubPath: "ca.crt"}}
		},
		"cluster trust bundle": func(p *corev1.PodSpec) {
			p.Volumes = []corev1.Volume{{Name: "trust", VolumeSource: bundle}}
			p.Containers[0] = mounting(p.Containers[0], p.Volumes...)
		},
		"init and sidecar": func(p *corev1.PodSpec) {
			sidecar := container("sidecar")
			sidecar.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
			p.InitContainers = []corev1.Container{container("init"), sidecar}
		},
	} {
		t.Run(name, func(t *testing.T) {
			namespace := c.namespace(t)
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod"}, Spec: corev1.PodSpec{Containers: []corev1.Container{container("main")}}}
			change(&pod.Spec)
			if _, err := c.client.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			c.readyPod(t, namespace)
		})
	}
}

func (c *Cluster) testPodCertificates(t *testing.T) {
	namespace := c.namespace(t)
	volume := corev1.Volume{Name: "certificate", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
		PodCertificate: &corev1.PodCertificateProjection{SignerName: "example.com/signer", KeyType: "ECDSAP256", CredentialBundlePath: "bundle.pem"},
	}}}}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod"}}
	pod.Spec = corev1.PodSpec{Containers: []corev1.Container{mounting(container("main"), volume)}, Volumes: []corev1.Volume{volume}}
	if _, err := c.client.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a PodCertificateRequest", func(ctx context.Context) error {
		requests, err := c.client.CertificatesV1().PodCertificateRequests(namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(requests.Items) == 0 {
			err = errors.New("there is none")
		}
		return err
	})
}

func (c *Cluster) testJobs(t *testing.T) {
	namespace := c.namespace(t)
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "job"}}
	job.Spec.Template.Spec = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{container("main")}}
	if _, err := c.client.BatchV1().Jobs(namespace).Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the job", func(ctx context.Context) error {
		job, err := c.client.BatchV1().Jobs(namespace).Get(ctx, "job", metav1.GetOptions{})
		if err == nil && job.Status.Succeeded != 1 {
			err = fmt.Errorf("it has not succeeded: %v", job.Status)
		}
		return err
	})
}

func (c *Cluster) testGarbageCollection(t *testing.T) {
	namespace := c.namespace(t)
	custom := dynamic.NewForConfigOrDie(c.Config).Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"})
	owner, err := custom.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": "Widget", "metadata": map[string]any{"name": "owner"},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	reference := metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Widget", Name: "owner", UID: owner.GetUID()}
	dependent := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "dependent", OwnerReferences: []metav1.OwnerReference{reference}}}
	if _, err := c.client.CoreV1().ConfigMaps(namespace).Create(t.Context(), dependent, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := custom.Delete(t.Context(), "owner", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the dependent", func(ctx context.Context) error {
		_, err := c.client.CoreV1().ConfigMaps(namespace).Get(ctx, "dependent", metav1.GetOptions{})
		return gone(err)
	})
}

func (c *Cluster) testNamespaceDeletion(t *testing.T) {
	namespace := c.namespace(t)
	if err := c.client.CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the namespace", func(ctx context.Context) error {
		_, err := c.client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		return gone(err)
	})
}

func gone(err error) error {
	if err == nil {
		return errors.New("it is still there")
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *Cluster) testServiceAccounts(t *testing.T) {
	namespace := c.namespace(t)
	config, err := c.ServiceAccount(t.Context(), namespace, "default")
	if err != nil {
		t.Fatal(err)
	}
	client := kubernetes.NewForConfigOrDie(config)
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := review.Status.UserInfo.Username, "system:serviceaccount:"+namespace+":default"; got != want {
		t.Errorf("the token is of %s, want %s", got, want)
	}
	if _, err := client.CoreV1().Secrets(namespace).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("it may read secrets (%v)", err)
	}
}

func (c *Cluster) testKubeconfig(t *testing.T) {
	kubectl := filepath.Join(c.options.Binaries, "kubectl")
	output, err := exec.CommandContext(t.Context(), kubectl, "--kubeconfig="+c.Kubeconfig, "get", "nodes", "--output=name").Output()
	if want := "node/node-0\nnode/node-1\n"; err != nil || string(output) != want {
		t.Errorf("kubectl says %q (%v), want %q", output, err, want)
	}
}
