package controllers_test

import (
	"fmt"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// errorLines is a log sink that remembers the errors that no operator of this package may log: they
// resolve by themselves, and would only alarm an administrator who reads the log.
type errorLines struct {
	mu    sync.Mutex
	lines []string
}

// Init does nothing.
func (*errorLines) Init(logr.RuntimeInfo) {}

// Enabled returns false: only errors count.
func (*errorLines) Enabled(int) bool { return false }

// Info does nothing.
func (*errorLines) Info(int, string, ...any) {}

// Error remembers an error that should not be logged.
func (l *errorLines) Error(err error, message string, _ ...any) {
	if err == nil || (!apierrors.IsConflict(err) && !strings.Contains(err.Error(), "cache is not started")) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf("%s: %v", message, err))
}

// WithValues returns the sink itself.
func (l *errorLines) WithValues(...any) logr.LogSink { return l }

// WithName returns the sink itself.
func (l *errorLines) WithName(string) logr.LogSink { return l }

// check returns an error if one was logged that should not have been.
func (l *errorLines) check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) > 0 {
		return fmt.Errorf("%d errors were logged that pass by themselves, such as %q", len(l.lines), l.lines[0])
	}
	return nil
}
