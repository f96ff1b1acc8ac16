package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// tailLines is how many lines of the manager's log are printed when something fails.
const tailLines = 20

// manager is the process of the operator.
type manager struct {
	log     string
	command *exec.Cmd
	exited  chan struct{}
	err     error
}

func (d *demo) build(ctx context.Context) error {
	return d.steps.do(ctx, "build the manager", func(ctx context.Context, _ func(string)) error {
		command := exec.CommandContext(ctx, "make", "--no-print-directory", "build")
		command.Dir = d.root
		_, err := output(command)
		return err
	})
}

func (d *demo) startManager(ctx context.Context) error {
	err := d.steps.do(ctx, "start the manager, with the rights of config/rbac", func(ctx context.Context, _ func(string)) error {
		kubeconfig, err := d.managerKubeconfig()
		if err != nil {
			return err
		}
		d.manager, err = start(ctx, filepath.Join(d.dir, "manager.log"), filepath.Join(d.root, "bin", "manager"),
			// With leader election, a manager that is not stopped exits when it can no longer renew its
			// lease.
			"--kubeconfig="+kubeconfig, "--namespace="+operatorNamespace, "--leader-elect", "--health-probe-bind-address=0")
		return err
	})
	if err != nil {
		return err
	}
	d.watch(ctx, d.manager.exited, func() error { return fmt.Errorf("the manager ended by itself: %w", d.manager.err) })
	d.steps.line("  its log: %s\n", d.manager.log)
	return nil
}

func start(ctx context.Context, log, path string, args ...string) (*manager, error) {
	file, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	m := &manager{log: log, command: exec.CommandContext(context.WithoutCancel(ctx), path, args...), exited: make(chan struct{})}
	m.command.Stdout, m.command.Stderr = file, file
	// A separate process group: Ctrl-C reaches only this process, which then stops everything in
	// order.
	m.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		m.err = m.command.Wait()
		close(m.exited)
	}()
	return m, nil
}

// stop terminates the manager, and kills it if it does not exit within 15 seconds.
func (m *manager) stop() {
	if m == nil {
		return
	}
	// An error means that the manager has exited already.
	_ = m.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-m.exited:
	case <-time.After(15 * time.Second):
		_ = m.command.Process.Kill()
		<-m.exited
	}
}

// printTail prints the last lines of the manager's log, if it was started.
func (m *manager) printTail(out io.Writer) {
	if m == nil {
		return
	}
	content, err := os.ReadFile(m.log)
	if err != nil {
		fmt.Fprintln(out, err)
		return
	}
	lines := bytes.Split(bytes.TrimSpace(content), []byte("\n"))
	fmt.Fprintln(out, "\nthe last lines of the manager's log:")
	for _, line := range lines[max(0, len(lines)-tailLines):] {
		fmt.Fprintf(out, "  %s\n", line)
	}
}
