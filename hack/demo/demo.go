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

// timeout is for a busy machine; on an idle one nothing takes more than a few seconds.
const timeout = 3 * time.Minute

// Where the operator and the demo live; config/default and demo.yaml name them too.
const (
	operatorNamespace = "servingcert-system"
	demoNamespace     = "demo"
)

type options struct {
	// once stops after the handshake.
	once bool
	// cluster "current" is the cluster that kubectl points at; empty is one of our own.
	cluster string
	out     io.Writer
}

// demo is everything that has to be taken down again.
type demo struct {
	options
	steps steps
	// root is the repository, dir a folder for what is written.
	root, dir string
	target    target
	client    client.Client
	manager   *manager
	// created is what was not there before.
	created []*unstructured.Unstructured
	// end is called with the reason when something without which there is no demo has ended.
	end context.CancelCauseFunc
}

// run shows the demo, and takes everything down again, however it ends.
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

// show does everything in its order.
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

// tearDown stops and removes all that was started and created.
func (d *demo) tearDown() error {
	fmt.Fprintln(d.out)
	// The context of the demo is over: that is why we are here.
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

// repository is the nearest folder upwards with the operator's go.mod.
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
