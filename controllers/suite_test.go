package controllers_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/controllers/internal/testoperator"
	"github.com/servingcert/operator/hack/cluster"
)

// operatorNamespace is the operator's namespace in the tests.
const operatorNamespace = "servingcert-system"

var (
	// running is the cluster that all tests of this package share.
	running *cluster.Cluster
	// kube reads and writes as a cluster administrator, without a cache.
	kube client.Client
)

func TestMain(m *testing.M) {
	code, err := withCluster(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withCluster(m *testing.M) (code int, err error) {
	// Tests wait much more than they compute, so many run in parallel. The flag on the command line
	// still takes precedence.
	if err := flag.Set("test.parallel", "12"); err != nil {
		return 1, err
	}
	logged := &errorLines{}
	ctrl.SetLogger(logr.New(logged))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	running, err = cluster.Start(ctx, cluster.Options{Controllers: true, CRDs: []string{filepath.Join("..", "config", "crd", "bases")}})
	if err != nil {
		return 1, err
	}
	defer running.Stop() //nolint:errcheck // nothing is left to be done about it
	if kube, err = testoperator.Client(running); err != nil {
		return 1, err
	}
	if err := testoperator.Install(ctx, kube, operatorNamespace); err != nil {
		return 1, err
	}
	stop, err := testoperator.Start(ctx, running, operatorNamespace)
	if err != nil {
		return 1, err
	}
	code = m.Run()
	return code, errors.Join(stop(), logged.check())
}
