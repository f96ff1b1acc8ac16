package main

import (
	"io"
	"os"
)

// lifeline is set by whoever starts a component that must not outlive it: standard input is then a pipe that
// nobody writes to, and that the kernel closes when its other end dies, however that happens.
const lifeline = "CONTROLPLANE_LIFELINE"

func dieWithParent() {
	if os.Getenv(lifeline) != "stdin" {
		return
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
}
