package testoperator

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
)

// Main runs the tests of a package: as many at once as is said, where they mostly wait, and zero for as many as there are cores. run starts what
// they share, and stops it.
func Main(m *testing.M, parallel int, run func(*testing.M) (int, error)) {
	ctrl.SetLogger(logr.Discard())
	flag.Parse()
	if parallel > 0 {
		if err := flag.Set("test.parallel", strconv.Itoa(parallel)); err != nil {
			panic(err)
		}
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// pollInterval is how often is looked whether something has come.
const pollInterval = 100 * time.Millisecond

// Eventually waits until check finds nothing wrong; what it found last is why the test fails. Nothing is measured by patience.
func Eventually(t *testing.T, timeout time.Duration, check func(context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), pollInterval, timeout, true, func(ctx context.Context) (bool, error) {
		problem := check(ctx)
		if problem == nil || ctx.Err() == nil {
			last = problem
		}
		return problem == nil, nil
	})
	if err != nil {
		t.Fatalf("%v (%v)", last, err)
	}
}

// AsError makes an error of what a check says; none of nothing.
func AsError(check func(context.Context) string) func(context.Context) error {
	return func(ctx context.Context) error {
		if problem := check(ctx); problem != "" {
			return errors.New(problem)
		}
		return nil
	}
}
