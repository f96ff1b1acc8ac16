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

// process is a component that is running or has exited.
type process struct {
	name    string
	log     string
	command *exec.Cmd
	stopped atomic.Bool
	exited  chan struct{}
}

// run starts a component that runs until Stop. The name identifies its log.
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
	// A separate process group: Ctrl-C on a terminal reaches only this process, which then stops the
	// components in order.
	p.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// The lifeline is a pipe that is never written to. It breaks, and the component exits, when this
	// process exits for any reason, on any operating system. (Linux could signal the exit of the
	// thread that started the component, but threads do not last.)
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

// watch reports a component that exits before it is stopped.
func (c *Cluster) watch(p *process) {
	_ = p.command.Wait() // the process state has more detail than the error
	if !p.stopped.Load() {
		c.fail(fmt.Errorf("%s ended by itself (%s), having logged last:\n%s", p.name, p.command.ProcessState, tail(p.log)))
	}
	close(p.exited)
}

// kill does not stop the component gracefully: everything that it could still write is about to be
// removed.
func (p *process) kill() error {
	p.stopped.Store(true)
	if err := p.command.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.exited
	return nil
}

// PauseNode suspends a node without notice, as when its machine hangs. The returned function
// resumes it.
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
