package controllers_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/servingcert/operator/controllers"
	"github.com/servingcert/operator/hack/cluster"
)

// operatorNamespace is the operator's own in the tests.
const operatorNamespace = "servingcert-system"

var (
	// running is the cluster of all tests of this package.
	running *cluster.Cluster
	// kube reads and writes as a cluster administrator, without a cache.
	kube client.Client
)

func TestMain(m *testing.M) {
	os.Exit(withCluster(m))
}

func withCluster(m *testing.M) int {
	ctrl.SetLogger(logr.Discard())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var err error
	running, err = cluster.Start(ctx, cluster.Options{Controllers: true, CRDs: []string{filepath.Join("..", "config", "crd", "bases")}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer running.Stop() //nolint:errcheck // nothing is left to be done about it
	options, err := controllers.ManagerOptions()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if kube, err = client.New(running.Config, client.Options{Scheme: options.Scheme}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := install(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	stop, err := startManager(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer stop()
	return m.Run()
}

// install creates the operator's namespace and its rights as config/rbac has them, so that every test shows that they suffice.
func install(ctx context.Context) error {
	if err := kube.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: operatorNamespace}}); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join("..", "config", "rbac", "*.yaml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if filepath.Base(file) == "kustomization.yaml" {
			continue
		}
		manifest, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		// As kustomize does for an installation.
		manifest = bytes.ReplaceAll(manifest, []byte("namespace: system"), []byte("namespace: "+operatorNamespace))
		var object unstructured.Unstructured
		if err := yaml.Unmarshal(manifest, &object.Object); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if object.GetKind() == "Role" || object.GetKind() == "RoleBinding" {
			object.SetNamespace(operatorNamespace)
		}
		if err := kube.Create(ctx, &object); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}

// startManager runs the operator in this process, so that the race detector sees it; stop returns when it has ended.
func startManager(ctx context.Context) (stop func(), err error) {
	options, err := controllers.ManagerOptions()
	if err != nil {
		return nil, err
	}
	options.Metrics = server.Options{BindAddress: "0"}
	options.Controller.SkipNameValidation = ptr.To(true)
	options.GracefulShutdownTimeout = ptr.To(10 * time.Second)
	config, err := running.ServiceAccount(ctx, operatorNamespace, "manager")
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	mgr, err := ctrl.NewManager(config, options)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	err = controllers.Setup(ctx, mgr, controllers.Options{
		Namespace: operatorNamespace, ClusterDomain: "cluster.local", Clock: clock.RealClock{},
	})
	if err != nil {
		cancel()
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			fmt.Fprintln(os.Stderr, "manager:", err)
		}
	}, nil
}
