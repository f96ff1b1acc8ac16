// Package livemetrics_test scrapes the operator like a Prometheus that config/metrics configures: a
// kubelet mounts the certificate that the operator issued for itself, and the API server authorizes
// each scrape.
package livemetrics_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/controllers/internal/testoperator"
	"github.com/servingcert/operator/hack/cluster"
)

const (
	operatorNamespace = "servingcert-system"
	// timeout is how long a test waits for an expected state; it measures nothing.
	timeout = 4 * time.Minute
)

// env is the cluster, and what config/metrics has created in it.
var env struct {
	cluster *cluster.Cluster
	kube    client.Client
	// folder is for files, and manager is the compiled program.
	folder, manager string
	// monitor is the ServiceMonitor, which is not applied: the cluster has no prometheus-operator.
	monitor *unstructured.Unstructured
	// container is the manager's container in the Deployment.
	container corev1.Container
}

func TestMain(m *testing.M) { testoperator.Main(m, 0, run) }

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	if env.folder, err = os.MkdirTemp("", "livemetrics-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(env.folder)
	crds, err := testoperator.Path("config", "crd", "bases")
	if err != nil {
		return 1, err
	}
	env.cluster, err = cluster.Start(ctx, cluster.Options{Controllers: true, Nodes: 1, CRDs: []string{crds}})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, env.cluster.Err(), env.cluster.Stop()) }()
	if env.kube, err = testoperator.Client(env.cluster); err != nil {
		return 1, err
	}
	if err := eventsv1.AddToScheme(env.kube.Scheme()); err != nil {
		return 1, err
	}
	env.manager = filepath.Join(env.folder, "manager")
	if err := errors.Join(command(ctx, "go", "build", "-o", env.manager, "."), install(ctx, "metrics"), install(ctx, "samples/basic")); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// command runs a command in the root of the repository.
func command(ctx context.Context, name string, args ...string) error {
	run := exec.CommandContext(ctx, name, args...)
	var err error
	if run.Dir, err = testoperator.Path(); err != nil {
		return err
	}
	if printed, err := run.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, printed)
	}
	return nil
}

// install creates the objects of a kustomization whose kinds the cluster knows.
func install(ctx context.Context, kustomization string) error {
	kubectl, err := testoperator.Path("bin", "k8s", "kubectl")
	if err != nil {
		return err
	}
	folder := filepath.Join(env.folder, filepath.Base(kustomization))
	if err := os.Mkdir(folder, 0o755); err != nil {
		return err
	}
	if err := command(ctx, kubectl, "kustomize", "config/"+kustomization, "--output="+filepath.Join(folder, "all.yaml")); err != nil {
		return err
	}
	objects, err := testoperator.Manifests(folder)
	if err != nil {
		return err
	}
	for _, object := range objects {
		switch object.GetKind() {
		case "CustomResourceDefinition", "PrometheusRule":
			continue
		case "ServiceMonitor":
			env.monitor = object
			continue
		case "Deployment":
			var deployment appsv1.Deployment
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &deployment); err != nil {
				return err
			}
			env.container = deployment.Spec.Template.Spec.Containers[0]
			// The node of the embedded cluster has no images, and assumes that each of them runs as
			// root.
			user := int64(65532)
			if err := unstructured.SetNestedField(object.Object, user, "spec", "template", "spec", "securityContext", "runAsUser"); err != nil {
				return err
			}
		}
		if err := env.kube.Create(ctx, object); err != nil {
			return fmt.Errorf("install %s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	return nil
}

// eventually waits until check returns an empty string; what check returned last is the failure
// message.
func eventually(t *testing.T, check func(context.Context) string) {
	t.Helper()
	testoperator.Eventually(t, timeout, testoperator.AsError(check))
}

// pods returns the pods of the Deployment, once the kubelet has mounted their volumes.
func pods(t *testing.T) []corev1.Pod {
	t.Helper()
	var list corev1.PodList
	eventually(t, func(ctx context.Context) string {
		if err := env.kube.List(ctx, &list, client.InNamespace(operatorNamespace)); err != nil {
			return err.Error()
		}
		if len(list.Items) != 2 {
			return fmt.Sprintf("there are %d pods", len(list.Items))
		}
		for i := range list.Items {
			if list.Items[i].Status.Phase != corev1.PodRunning {
				return fmt.Sprintf("pod %s is %s", list.Items[i].Name, list.Items[i].Status.Phase)
			}
		}
		return ""
	})
	return list.Items
}

// replica is a running manager.
type replica struct {
	address, log string
	// probes is the address of the kubelet's probes.
	probes string
}

// start runs the manager as it would run in a pod: with the arguments of the Deployment, the
// permissions of its ServiceAccount and the files that the kubelet mounts there.
func start(t *testing.T, pod *corev1.Pod) replica {
	t.Helper()
	certificate, err := env.cluster.VolumePath(pod, "metrics-certificate")
	if err != nil {
		t.Fatal(err)
	}
	r := replica{address: freeAddress(t), log: filepath.Join(env.folder, pod.Name+".log"), probes: freeAddress(t)}
	file, err := os.Create(r.log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	args := []string{"--kubeconfig=" + kubeconfig(t, account(t, operatorNamespace, "servingcert-manager")), "--zap-log-level=debug"}
	inPod := strings.NewReplacer("$(POD_NAMESPACE)", operatorNamespace, "/etc/servingcert/metrics", certificate,
		"metrics-bind-address=:8443", "metrics-bind-address="+r.address, "probe-bind-address=:8081", "probe-bind-address="+r.probes)
	for _, arg := range env.container.Args {
		args = append(args, inPod.Replace(arg))
	}
	manager := exec.CommandContext(t.Context(), env.manager, args...)
	manager.Stdout, manager.Stderr = file, file
	if err := manager.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = manager.Wait() })
	return r
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// account returns the configuration of a client that is a ServiceAccount.
func account(t *testing.T, namespace, name string) *rest.Config {
	t.Helper()
	config, err := env.cluster.ServiceAccount(t.Context(), namespace, name)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// kubeconfig returns the path of a kubeconfig with the same content.
func kubeconfig(t *testing.T, config *rest.Config) string {
	t.Helper()
	access := clientcmdapi.NewConfig()
	access.Clusters["c"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData, CertificateAuthority: config.CAFile}
	access.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: config.BearerToken}
	access.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	access.CurrentContext = "x"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*access, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// serviceAccount creates a ServiceAccount in its own namespace, and returns its token.
func serviceAccount(t *testing.T, name string) string {
	t.Helper()
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: name}},
	} {
		if err := env.kube.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	return account(t, name, name).BearerToken
}
