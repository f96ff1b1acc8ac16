// Demo shows the operator at work: it starts a cluster, runs the operator in it, proves one TLS
// handshake with the certificate and the bundle that the operator created, and keeps running until
// Ctrl-C so that the user can try more. With CLUSTER=current it uses the cluster that kubectl
// points at, and removes what it created there.
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

// errInterrupted means that the user pressed Ctrl-C before the demo was complete. It is not a
// failure.
var errInterrupted = errors.New("interrupted")

func main() {
	once := flag.Bool("once", false, "stop after the handshake, instead of staying up until Ctrl-C")
	flag.Parse()
	// Print only what is meant for the user.
	ctrl.SetLogger(logr.Discard())
	rest.SetDefaultWarningHandler(rest.NoWarnings{})

	ctx, restore := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, restore) // a second Ctrl-C exits at once
	err := run(ctx, options{once: *once, cluster: os.Getenv("CLUSTER"), out: os.Stdout})
	switch {
	case errors.Is(err, errInterrupted):
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}
