package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestDemo acts as a user who starts the demo, runs the suggested commands, and presses Ctrl-C.
func TestDemo(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	printed, done := &screen{}, make(chan error, 1)
	go func() { done <- run(ctx, options{out: printed}) }()
	printed.await(t, done, suggestions[len(suggestions)-1].command)
	for _, want := range []string{"web.demo.svc", "TLS 1.3", "serviceca.servingcert.dev/default", "servingcertpolicy.servingcert.dev/default"} {
		if !strings.Contains(printed.String(), want) {
			t.Errorf("%q was not printed", want)
		}
	}
	exports := strings.Join(regexp.MustCompile(`export .*`).FindAllString(printed.String(), -1), "\n")
	for _, s := range suggestions {
		if output, err := exec.CommandContext(t.Context(), "bash", "-c", exports+"\n"+s.command).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", s.command, err, output)
		}
	}
	interrupt()
	if err := <-done; err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
	if t.Failed() {
		t.Log(printed)
	}
}

// screen is the output so far.
type screen struct {
	mu      sync.Mutex
	printed bytes.Buffer
}

func (s *screen) Write(more []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.printed.Write(more)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.printed.String()
}

func (s *screen) await(t *testing.T, done <-chan error, want string) {
	t.Helper()
	for !strings.Contains(s.String(), want) {
		select {
		case err := <-done:
			t.Fatalf("the demo ended (%v), having printed:\n%s", err, s)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
