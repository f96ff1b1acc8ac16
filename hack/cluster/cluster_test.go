package cluster

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"
)

const patience = 2 * time.Minute

// start starts a cluster, and stops it at the end of the test, when nothing of it may be left.
func start(t *testing.T, options Options) *Cluster {
	t.Helper()
	start := time.Now()
	c, err := Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ready after %s", time.Since(start))
	t.Cleanup(func() {
		if err := c.Err(); err != nil {
			t.Error(err)
		}
		stop(t, c)
	})
	return c
}

func stop(t *testing.T, c *Cluster) {
	t.Helper()
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	for _, p := range c.processes {
		if err := syscall.Kill(p.command.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("%s is still there (%v)", p.name, err)
		}
	}
	if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", c.Dir, err)
	}
}

// eventually waits until check returns nil.
func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := await(ctx, what, check); err != nil {
		t.Fatal(err)
	}
}
