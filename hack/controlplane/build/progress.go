package main

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// progress shows how far a long operation has come, and that it is still running: in place on a
// terminal, at intervals otherwise.
type progress struct {
	to      *os.File
	inPlace bool
	started time.Time
	end     chan struct{}
	ended   sync.WaitGroup

	mu   sync.Mutex
	line string
}

func newProgress(to *os.File, line string) *progress {
	p := &progress{to: to, started: time.Now(), end: make(chan struct{}), line: line}
	every := 15 * time.Second
	if info, err := to.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		p.inPlace, every = true, 200*time.Millisecond
	}
	p.print()
	p.ended.Go(func() { p.printEvery(every) })
	return p
}

// set changes what is shown next.
func (p *progress) set(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line = fmt.Sprintf(format, args...)
}

// done shows the last line, and leaves it there.
func (p *progress) done() {
	close(p.end)
	p.ended.Wait()
	p.print()
	if p.inPlace {
		fmt.Fprintln(p.to)
	}
}

func (p *progress) printEvery(interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-p.end:
			return
		case <-ticker.C:
			p.print()
		}
	}
}

func (p *progress) print() {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := fmt.Sprintf("%s, %s", p.line, time.Since(p.started).Round(time.Second))
	if p.inPlace {
		fmt.Fprint(p.to, "\r\033[K", line)
		return
	}
	fmt.Fprintln(p.to, line)
}
