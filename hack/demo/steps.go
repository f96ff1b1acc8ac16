package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// steps prints each step with its duration, one per line.
type steps struct {
	out io.Writer
	// terminal is set when the output is a terminal, on which a line can be overwritten.
	terminal bool
}

func newSteps(out io.Writer) steps {
	file, ok := out.(*os.File)
	if !ok {
		return steps{out: out}
	}
	info, err := file.Stat()
	return steps{out: out, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

// do performs one step. The step may report what it is waiting for.
func (s steps) do(ctx context.Context, name string, work func(ctx context.Context, report func(string)) error) error {
	start := time.Now()
	p := s.begin(name, start)
	err := work(ctx, p.set)
	last := p.finish()
	took := time.Since(start).Seconds()
	if err == nil {
		s.line("✓ %-58s %5.1fs\n", name, took)
		return nil
	}
	s.line("✗ %-58s %5.1fs\n", name, took)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if last != "" {
		err = fmt.Errorf("%w; last seen: %s", err, last)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// line prints a line and overwrites the progress of the present step.
func (s steps) line(format string, args ...any) {
	if s.terminal {
		format = "\r\033[K" + format
	}
	fmt.Fprintf(s.out, format, args...)
}

// progress is the step that is being performed.
type progress struct {
	mu       sync.Mutex
	reported string
	stop     chan struct{}
	stopped  chan struct{}
}

func (s steps) begin(name string, start time.Time) *progress {
	p := &progress{stop: make(chan struct{}), stopped: make(chan struct{})}
	interval, format := 15*time.Second, "… %s, %s%s\n"
	if s.terminal {
		interval, format = time.Second, "… %s, %s%s"
		s.line("… %s", name)
	}
	go func() {
		defer close(p.stopped)
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-ticker.C:
				waitingFor := p.get()
				if waitingFor != "" {
					waitingFor = ": " + waitingFor
				}
				s.line(format, name, time.Since(start).Round(time.Second), waitingFor)
			}
		}
	}()
	return p
}

func (p *progress) set(reported string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reported = reported
}

func (p *progress) get() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reported
}

// finish stops the output of progress, and returns what was reported last.
func (p *progress) finish() string {
	close(p.stop)
	<-p.stopped
	return p.get()
}

// await polls until missing returns an empty string. It returns an error after timeout.
func await(ctx context.Context, report func(string), missing func(context.Context) string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done after %s", timeout))
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		what := missing(ctx)
		if what == "" {
			report("")
			return nil
		}
		if ctx.Err() == nil {
			report(what)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
