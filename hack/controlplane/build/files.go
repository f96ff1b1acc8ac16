package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lock waits until no other process holds the file. The operating system releases the lock when the
// process exits, for whatever reason.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	held := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(held, syscall.EWOULDBLOCK) {
		fmt.Fprintln(os.Stderr, "waiting for another build of the same control plane")
		held = syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
	}
	return func() { _ = file.Close() }, held
}

// link creates in folder a link to the binary for every component's name.
func link(folder, binary string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for _, component := range components {
		if err := point(filepath.Join(folder, component), binary); err != nil {
			return err
		}
	}
	return nil
}

// point replaces a link atomically, so that a process that starts the component meanwhile gets
// either the old or the new binary.
func point(path, target string) error {
	if current, err := os.Readlink(path); err == nil && current == target {
		return nil
	}
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Symlink(target, fresh); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}
