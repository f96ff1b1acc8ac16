package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// timeout is long enough for a busy machine; on an idle one each step takes a few seconds.
const timeout = 3 * time.Minute

// Namespaces of the operator and the demo; config/default and demo.yaml name them too.
const (
	operatorNamespace = "servingcert-system"
	demoNamespace     = "demo"
)

type options struct {
	// once stops the demo after the handshake.
	once bool
	// cluster is "current" for the cluster that kubectl points at, or empty for a cluster that the
	// demo starts.
	cluster string
	out     io.Writer
}

// demo holds everything that has to be removed at the end.
type demo struct {
	options
	steps steps
	// root is the folder of the repository, dir a temporary folder for files of the demo.
	root, dir string
	target    target
	client    client.Client
	manager   *manager
	// created are the objects that did not exist before the demo.
	created []*unstructured.Unstructured
	// end is called with the reason when a process that the demo needs has exited.
	end context.CancelCauseFunc
}

// run shows the demo and removes everything afterwards, even after an error.
func run(ctx context.Context, o options) error {
	if o.cluster != "" && o.cluster != "current" {
		return fmt.Errorf("CLUSTER=%s: say CLUSTER=current for the cluster that kubectl points at, or nothing for one of our own", o.cluster)
	}
	d := &demo{options: o, steps: newSteps(o.out)}
	var err error
	if d.root, err = repository(); err != nil {
		return err
	}
	if d.dir, err = os.MkdirTemp("", "servingcert-demo-"); err != nil {
		return err
	}
	working, end := context.WithCancelCause(ctx)
	d.end = end
	err = d.show(working)
	if ctx.Err() != nil && err != nil {
		err = errInterrupted
	}
	if err != nil && !errors.Is(err, errInterrupted) {
		d.manager.printTail(o.out)
	}
	end(nil)
	return errors.Join(err, d.tearDown())
}

// show performs the steps of the demo in order.
func (d *demo) show(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		d.build, d.connectCluster, d.install, d.startManager, d.applySample, d.deploy, d.awaitIssued, d.printTables, d.prove,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if d.once {
		return nil
	}
	d.printWhatNext()
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// tearDown stops and removes everything that the demo started or created.
func (d *demo) tearDown() error {
	fmt.Fprintln(d.out)
	// The context of the demo has ended already.
	return d.steps.do(context.Background(), "leave nothing behind", func(ctx context.Context, report func(string)) error {
		d.manager.stop()
		var errs []error
		if d.target.embedded != nil {
			errs = append(errs, d.target.embedded.Stop())
		} else {
			errs = append(errs, d.deleteCreated(ctx, report))
		}
		return errors.Join(append(errs, os.RemoveAll(d.dir))...)
	})
}

// repository returns the nearest folder, from the working directory upwards, that has a go.mod.
func repository() (string, error) {
	folder, err := os.Getwd()
	for err == nil {
		if _, missing := os.Stat(filepath.Join(folder, "go.mod")); missing == nil {
			return folder, nil
		}
		if folder == filepath.Dir(folder) {
			return "", errors.New("run this in a clone of the repository")
		}
		folder = filepath.Dir(folder)
	}
	return "", err
}
