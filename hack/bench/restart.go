package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// fillWithForeignObjects creates objects that have nothing to do with the operator, restarts the
// manager, and measures its memory.
func (b *bench) fillWithForeignObjects(ctx context.Context, number int) error {
	if number == 0 {
		return nil
	}
	if err := b.createNamespaces(ctx, "foreign"); err != nil {
		return err
	}
	before, err := b.atRest(ctx)
	if err != nil {
		return err
	}
	large := bytes.Repeat([]byte("x"), 50<<10)
	err = each(ctx, number, func(ctx context.Context, i int) error {
		meta := metav1.ObjectMeta{Namespace: namespace("foreign", i), Name: fmt.Sprintf("foreign-%d", i)}
		return errors.Join(
			b.kube.Create(ctx, &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"x": large}}),
			b.kube.Create(ctx, &corev1.ConfigMap{ObjectMeta: meta, BinaryData: map[string][]byte{"x": large}}),
		)
	})
	if err != nil {
		return err
	}
	b.stopManager()
	if err := b.startManager(ctx); err != nil {
		return err
	}
	if _, err := b.settle(ctx); err != nil {
		return err
	}
	after, err := b.atRest(ctx)
	most, err2 := b.memory("VmHWM")
	b.rows.add("memory of a new manager for the objects of others", after-before, "MiB")
	b.rows.add("memory of a new manager beside the objects of others, at most", most, "MiB")
	return errors.Join(err, err2)
}

// restart measures the start of a new manager with leader election, as in an upgrade.
func (b *bench) restart(ctx context.Context, what string) error {
	if _, err := b.settle(ctx); err != nil {
		return err
	}
	b.stopManager()
	before, err := b.writes(ctx)
	if err := errors.Join(err, b.startManager(ctx, "--leader-elect")); err != nil {
		return err
	}
	took, err := b.settle(ctx)
	if err != nil {
		return err
	}
	after, err := b.writes(ctx)
	if err != nil {
		return err
	}
	writes := 0.0
	for made, number := range since(before, after) {
		writes += number
		b.rows.add(what+": "+made, number, "")
	}
	b.rows.add(what+" writes", writes, "")
	b.rows.add(what+" is quiet after", took.Seconds(), "s")
	return b.recordMemory(ctx, "of "+what)
}
