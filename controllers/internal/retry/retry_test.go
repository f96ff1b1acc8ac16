package retry_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/servingcert/operator/controllers/internal/retry"
)

func TestWithQuietConflicts(t *testing.T) {
	t.Parallel()
	conflict, fault := apierrors.NewConflict(corev1.Resource("secrets"), "web-tls", errors.New("changed")), errors.New("no route to host")
	denied := apierrors.NewConflict(corev1.Resource("secrets"), "web-tls", errors.New(`admission webhook "w.example.org" denied the request: no`))
	for name, tc := range map[string]struct {
		err    error
		logged bool
	}{
		"none":                     {},
		"a conflict":               {err: conflict},
		"a conflict, explained":    {err: fmt.Errorf("write the Secret: %w", conflict)},
		"conflicts":                {err: errors.Join(conflict, fmt.Errorf("policy default: %w", conflict))},
		"another error":            {err: fault, logged: true},
		"a webhook that denies":    {err: denied, logged: true},
		"a denial and a conflict":  {err: errors.Join(conflict, denied), logged: true},
		"a conflict and an error":  {err: errors.Join(conflict, fault), logged: true},
		"an error and a conflict":  {err: errors.Join(fault, conflict), logged: true},
		"that object exists now":   {err: apierrors.NewAlreadyExists(corev1.Resource("secrets"), "web-tls"), logged: true},
		"a conflict beside others": {err: errors.Join(errors.Join(conflict, fault), conflict), logged: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			usual := ctrl.Result{RequeueAfter: time.Hour}
			result, err := retry.WithQuietConflicts(reconcile.Func(func(context.Context, ctrl.Request) (ctrl.Result, error) {
				return usual, tc.err
			})).Reconcile(t.Context(), ctrl.Request{})
			if (err != nil) != tc.logged {
				t.Errorf("it says %v, want an error: %t", err, tc.logged)
			}
			if soon := result.RequeueAfter < time.Minute; soon != (tc.err != nil && !tc.logged) {
				t.Errorf("it is tried again after %s", result.RequeueAfter)
			}
		})
	}
}

// A cause that an administrator has removed is noticed within a minute, however long it lasted.
func TestDelayIsBounded(t *testing.T) {
	t.Parallel()
	limiter, before := retry.Options(1).RateLimiter, time.Duration(0)
	for range 100 {
		delay := limiter.When(ctrl.Request{})
		if delay < before || delay > retry.MaxDelay {
			t.Fatalf("after %s comes %s", before, delay)
		}
		before = delay
	}
	if before != retry.MaxDelay {
		t.Errorf("the last delay is %s", before)
	}
}

// Every controller uses these options. The defaults of controller-runtime wait for up to 17 minutes
// and log conflicts as errors.
func TestEveryControllerUsesOptions(t *testing.T) {
	t.Parallel()
	controllers := 0
	err := filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := os.ReadFile(path)
		if made := strings.Count(string(content), "NewControllerManagedBy("); made > 0 {
			controllers += made
			for _, part := range []string{"retry.Options(", "retry.WithQuietConflicts("} {
				if strings.Count(string(content), part) != made {
					t.Errorf("%s has %d controllers, and another number of %s", path, made, part)
				}
			}
		}
		return err
	})
	if err != nil || controllers < 7 {
		t.Errorf("%d controllers were found: %v", controllers, err)
	}
}
