// Package liveinstall_test installs the operator as users do, with kubectl from config/, and
// applies every sample.
package liveinstall_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
	"github.com/servingcert/operator/hack/cluster"
)

const (
	operatorNamespace = "servingcert-system"
	// timeout is how long a test waits for an expected state; it measures nothing.
	timeout = 4 * time.Minute
)

// overlays are the installations, each of which adds to the first.
var overlays = []string{"default", "restarts", "cert-manager"}

// env is a cluster with cert-manager's CRDs, in which every overlay is installed. The operator runs
// in this process, with the ServiceAccount and the permissions of the installation; the pods of its
// Deployment run no program.
var env struct {
	cluster *cluster.Cluster
	kube    client.Client
}

func TestMain(m *testing.M) { testoperator.Main(m, 0, run) }

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	certManager, err := moduleOf(ctx, "github.com/cert-manager/cert-manager")
	if err != nil {
		return 1, err
	}
	env.cluster, err = cluster.Start(ctx, cluster.Options{Nodes: 1, CRDs: []string{filepath.Join(certManager, "deploy", "crds")}})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, env.cluster.Err(), env.cluster.Stop()) }()
	clientScheme := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(clientScheme), cmapi.AddToScheme(clientScheme), v1alpha1.AddToScheme(clientScheme)); err != nil {
		return 1, err
	}
	if env.kube, err = client.New(env.cluster.Config, client.Options{Scheme: clientScheme}); err != nil {
		return 1, err
	}
	for _, overlay := range overlays {
		if _, err := apply(ctx, "config/"+overlay); err != nil {
			return 1, err
		}
	}
	config, err := env.cluster.ServiceAccount(ctx, operatorNamespace, "servingcert-manager")
	if err != nil {
		return 1, err
	}
	stop, err := testoperator.StartAs(ctx, config, operatorNamespace)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	return m.Run(), nil
}

// moduleOf returns the folder of a module that this one requires.
func moduleOf(ctx context.Context, path string) (string, error) {
	folder, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", path).Output()
	return strings.TrimSpace(string(folder)), err
}

// apply applies a kustomization as the guides describe, and returns what kubectl prints.
func apply(ctx context.Context, folder string) (message string, err error) {
	return kubectl(ctx, "apply", "--server-side", "-k", folder)
}

// build returns the objects that a kustomization builds.
func build(ctx context.Context, folder string) ([]*unstructured.Unstructured, error) {
	built, err := kubectl(ctx, "kustomize", folder)
	if err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(built), 4096)
	for {
		object := &unstructured.Unstructured{}
		switch err := decoder.Decode(object); {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, err
		}
		objects = append(objects, object)
	}
}

// kubectl runs kubectl in the root of the repository. A warning, for example of Pod Security, is an
// error here.
func kubectl(ctx context.Context, args ...string) (string, error) {
	root, err := testoperator.Path()
	if err != nil {
		return "", err
	}
	command := exec.CommandContext(ctx, filepath.Join(root, "bin", "k8s", "kubectl"), args...)
	command.Dir = root
	command.Env = append(os.Environ(), "KUBECONFIG="+env.cluster.Kubeconfig)
	var said, warned bytes.Buffer
	command.Stdout, command.Stderr = &said, &warned
	err = command.Run()
	if err == nil && warned.Len() > 0 {
		err = errors.New("there are warnings")
	}
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, warned.String())
	}
	return said.String(), nil
}

// eventually waits until check returns nil; the last error is the failure message.
func eventually(t *testing.T, check func(context.Context) error) {
	t.Helper()
	testoperator.Eventually(t, timeout, check)
}
