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

// Main runs the tests of a package: parallel of them at once, for packages whose tests mostly wait,
// or as many as there are cores if parallel is zero. run starts what the tests share, runs them,
// and stops it.
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

// pollInterval is how often Eventually calls its check.
const pollInterval = 100 * time.Millisecond

// Eventually waits until check returns nil; the last error is the failure message. timeout measures
// nothing.
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

// AsError turns a check that returns a text into one that returns an error, and nil for an empty
// text.
func AsError(check func(context.Context) string) func(context.Context) error {
	return func(ctx context.Context) error {
		if problem := check(ctx); problem != "" {
			return errors.New(problem)
		}
		return nil
	}
}
