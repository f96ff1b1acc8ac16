package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
)

// process is a component that is running, or has been.
type process struct {
	name    string
	log     string
	command *exec.Cmd
	stopped atomic.Bool
	exited  chan struct{}
}

// run starts a component, which has a name of its own for its log, and runs until Stop.
func (c *Cluster) run(name, component string, args ...string) error {
	p := &process{name: name, log: filepath.Join(c.options.Logs, name+".log"), exited: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return err
	}
	defer log.Close()
	p.command = exec.CommandContext(context.Background(), filepath.Join(c.options.Binaries, component), args...)
	p.command.Dir = c.Dir
	p.command.Stdout, p.command.Stderr = log, log
	// A process group of its own, so that Ctrl-C on a terminal reaches us alone, and we stop things in order.
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// The lifeline is a pipe that nobody writes to. The component ends when it breaks, hence when we are gone, for whatever
	// reason and on any system. (Linux could signal the death of the thread that started it, but threads come and go.)
	p.command.Env = []string{"CONTROLPLANE_LIFELINE=stdin", "HOME=" + c.Dir, "TMPDIR=" + c.Dir}
	if _, err := p.command.StdinPipe(); err != nil {
		return err
	}
	if err := p.command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	c.processes = append(c.processes, p)
	go c.watch(p)
	return nil
}

// watch reports a component that ends before it is told to.
func (c *Cluster) watch(p *process) {
	_ = p.command.Wait() // the state says more than the error
	if !p.stopped.Load() {
		c.fail(fmt.Errorf("%s ended by itself (%s), having logged last:\n%s", p.name, p.command.ProcessState, tail(p.log)))
	}
	close(p.exited)
}

// kill asks for no graceful end: all that the component could still put in order is about to be removed.
func (p *process) kill() error {
	p.stopped.Store(true)
	if err := p.command.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.exited
	return nil
}

// PauseNode stops a node without a word, as when its machine hangs; resume lets it go on.
func (c *Cluster) PauseNode(name string) (resume func() error, err error) {
	index := slices.IndexFunc(c.processes, func(p *process) bool { return p.name == name })
	if index < 0 {
		return nil, fmt.Errorf("there is no %s", name)
	}
	node := c.processes[index].command.Process
	return func() error { return node.Signal(syscall.SIGCONT) }, node.Signal(syscall.SIGSTOP)
}

// tail returns the last lines of a log.
func tail(log string) []byte {
	const most = 4 << 10
	content, err := os.ReadFile(log)
	if err != nil {
		return []byte(err.Error())
	}
	if len(content) <= most {
		return content
	}
	content = content[len(content)-most:]
	return content[bytes.IndexByte(content, '\n')+1:]
}
