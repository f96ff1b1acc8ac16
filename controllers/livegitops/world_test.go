// Package livegitops_test acts as Argo CD and Flux: it applies what is committed over and over,
// while CAs rotate, certificates are reissued and workloads are restarted.
package livegitops_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
	"github.com/servingcert/operator/hack/cluster"
)

const (
	operatorNamespace = "servingcert"
	// nameless is the field manager that a write of the operator's gets if it names none.
	nameless = "nameless"
	// timeout is how long a test waits for an expected state; it measures nothing.
	timeout = 5 * time.Minute
)

// env is the cluster that all tests share, and the operator in it.
var env struct {
	cluster *cluster.Cluster
	kube    client.Client
}

func TestMain(m *testing.M) { testoperator.Main(m, 20, run) }

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	crds, err := testoperator.Path("config", "crd", "bases")
	if err != nil {
		return 1, err
	}
	env.cluster, err = cluster.Start(ctx, cluster.Options{Controllers: true, Nodes: 1, CRDs: []string{crds}})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, env.cluster.Err(), env.cluster.Stop()) }()
	clientScheme := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(clientScheme), v1alpha1.AddToScheme(clientScheme)); err != nil {
		return 1, err
	}
	if env.kube, err = client.New(env.cluster.Config, client.Options{Scheme: clientScheme}); err != nil {
		return 1, err
	}
	err = errors.Join(
		testoperator.Install(ctx, env.kube, operatorNamespace),
		testoperator.Allow(ctx, env.kube, operatorNamespace, "restarts"),
	)
	if err != nil {
		return 1, err
	}
	stop, err := testoperator.Start(ctx, env.cluster, operatorNamespace, func(config *rest.Config, _ *ctrl.Options) {
		// The API server derives the field manager of a write that names none from the user agent.
		config.UserAgent = nameless + "/v0"
	})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	return m.Run(), nil
}

// eventually waits until check returns an empty string; what check returned last is the failure
// message.
func eventually(t *testing.T, check func(context.Context) string) {
	t.Helper()
	testoperator.Eventually(t, timeout, testoperator.AsError(check))
}

// get returns an object as the API server has it.
func get[T client.Object](t *testing.T, namespace, name string, object T) T {
	t.Helper()
	if err := env.kube.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, object); err != nil {
		t.Fatal(err)
	}
	return object
}

// remove deletes an object when the test ends.
func remove(t *testing.T, object client.Object) {
	t.Helper()
	t.Cleanup(func() {
		if err := env.kube.Delete(context.Background(), object); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
}

// kubectl runs kubectl, and returns what it prints.
func kubectl(t *testing.T, arguments ...string) string {
	t.Helper()
	path, err := testoperator.Path("bin", "k8s", "kubectl")
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), path, arguments...)
	command.Env = append(os.Environ(), "KUBECONFIG="+env.cluster.Kubeconfig, "HOME="+t.TempDir())
	var complaints strings.Builder
	command.Stderr = &complaints
	printed, err := command.Output()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(arguments, " "), err, complaints.String())
	}
	return string(printed)
}

// file returns the path of a temporary file with this content.
func file(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "manifests.yaml")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
