// Package testoperator runs the operator in the process of a test, where the race detector covers
// it, with the permissions of config/rbac, so that every test shows that they suffice.
package testoperator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/servingcert/operator/controllers"
	"github.com/servingcert/operator/hack/cluster"
)

// CloneSets is the resource that config/components/restart-clonesets lets the operator restart.
var CloneSets = schema.GroupVersionResource{Group: "apps.kruise.io", Version: "v1alpha1", Resource: "clonesets"}

// Client returns the client of a cluster administrator, without a cache.
func Client(running *cluster.Cluster) (client.Client, error) {
	options, err := controllers.ManagerOptions()
	if err != nil {
		return nil, err
	}
	return client.New(running.Config, client.Options{Scheme: options.Scheme})
}

// Path returns the path of a file of this repository.
func Path(elements ...string) (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return filepath.Join(append([]string{folder}, elements...)...), nil
		}
		if folder == filepath.Dir(folder) {
			return "", errors.New("no go.mod in this folder or above it")
		}
		folder = filepath.Dir(folder)
	}
}

// Manifests returns the objects in the YAML files of a folder and of the folders below it,
// unchanged and without those that only kustomize reads.
func Manifests(folder string) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" || entry.Name() == "kustomization.yaml" {
			return err
		}
		objectsInFile, err := readManifest(path)
		objects = append(objects, objectsInFile...)
		return err
	})
	return objects, err
}

func readManifest(path string) ([]*unstructured.Unstructured, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), len(content))
	for {
		var document json.RawMessage
		switch err := decoder.Decode(&document); {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, fmt.Errorf("%s: %w", path, err)
		case string(document) == "null":
			continue
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(document); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		objects = append(objects, object)
	}
}

// Install creates the operator's namespace and its RBAC objects, as kustomize would.
func Install(ctx context.Context, kube client.Client, namespace string) error {
	if err := kube.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
		return err
	}
	return grant(ctx, kube, namespace, "config", "rbac")
}

// Allow gives the operator the permissions of a kustomize component, such as restarts.
func Allow(ctx context.Context, kube client.Client, namespace, component string) error {
	return grant(ctx, kube, namespace, "config", "components", component)
}

func grant(ctx context.Context, kube client.Client, namespace string, folder ...string) error {
	path, err := Path(folder...)
	if err != nil {
		return err
	}
	objects, err := Manifests(path)
	if err != nil {
		return err
	}
	for _, object := range objects {
		if err := install(ctx, kube, object, namespace); err != nil {
			return fmt.Errorf("install %s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	return nil
}

func install(ctx context.Context, kube client.Client, object *unstructured.Unstructured, namespace string) error {
	if slices.Contains([]string{"Role", "RoleBinding", "ServiceAccount"}, object.GetKind()) {
		object.SetNamespace(namespace)
	}
	subjects, _, err := unstructured.NestedSlice(object.Object, "subjects")
	if err != nil {
		return err
	}
	for _, subject := range subjects {
		if fields, ok := subject.(map[string]any); ok && fields["name"] == "manager" {
			fields["namespace"] = namespace
		}
	}
	if len(subjects) > 0 {
		object.Object["subjects"] = subjects
	}
	return kube.Create(ctx, object)
}

// Start runs the operator as the ServiceAccount of Install; stop stops it, and returns the error
// with which it ended. adjust may change the client configuration and the manager's options.
func Start(
	ctx context.Context, running *cluster.Cluster, namespace string, adjust ...func(*rest.Config, *ctrl.Options),
) (stop func() error, err error) {
	config, err := running.ServiceAccount(ctx, namespace, "manager")
	if err != nil {
		return nil, err
	}
	return StartAs(ctx, config, namespace, adjust...)
}

// StartAs runs the operator with the identity in config.
func StartAs(
	ctx context.Context, config *rest.Config, namespace string, adjust ...func(*rest.Config, *ctrl.Options),
) (stop func() error, err error) {
	return StartBy(ctx, clock.RealClock{}, config, namespace, adjust...)
}

// StartBy runs the operator with another clock.
func StartBy(
	ctx context.Context, wall clock.PassiveClock, config *rest.Config, namespace string, adjust ...func(*rest.Config, *ctrl.Options),
) (stop func() error, err error) {
	options, err := controllers.ManagerOptions()
	if err != nil {
		return nil, err
	}
	options.Metrics = server.Options{BindAddress: "0"}
	options.Controller.SkipNameValidation = new(true)
	options.GracefulShutdownTimeout = ptr.To(10 * time.Second)
	config.QPS = -1
	for _, a := range adjust {
		a(config, &options)
	}
	mgr, err := ctrl.NewManager(config, options)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	err = controllers.Setup(ctx, mgr, controllers.Options{
		Namespace: namespace, ClusterDomain: "cluster.local", Clock: wall, ReissueRate: 200,
		Metrics: prometheus.NewRegistry(), RestartKinds: []schema.GroupVersionResource{CloneSets},
	})
	if err != nil {
		cancel()
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	return func() error {
		cancel()
		return <-ended
	}, nil
}
