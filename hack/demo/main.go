// Demo shows the operator at work: it starts a cluster of its own, runs the operator in it, proves one TLS handshake with what the
// operator made, and stays up to be played with until Ctrl-C. With CLUSTER=current it does so in the cluster that kubectl points
// at, and removes what it created there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
)

// errInterrupted is no failure: somebody pressed Ctrl-C before the demo was through.
var errInterrupted = errors.New("interrupted")

func main() {
	once := flag.Bool("once", false, "stop after the handshake, instead of staying up until Ctrl-C")
	flag.Parse()
	// Only what concerns a person is printed.
	ctrl.SetLogger(logr.Discard())
	rest.SetDefaultWarningHandler(rest.NoWarnings{})

	ctx, restore := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, restore) // whoever presses Ctrl-C twice does not want to wait
	err := run(ctx, options{once: *once, cluster: os.Getenv("CLUSTER"), out: os.Stdout})
	switch {
	case errors.Is(err, errInterrupted):
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}
