package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

const publishedName = "openshift-service-ca.crt"

func publishSteps(b *bench, _ int) []step {
	return []step{
		{"make a CA", b.makeCA},
		{"create the namespaces", b.createTenants},
		{fmt.Sprintf("the floor: a ConfigMap in each by %d plain writers", writers), b.publishFloor},
		{"publish the bundle in each namespace", b.publish},
		{"restart the manager", b.restartPublished},
		{"publish the next CA", b.publishNext},
	}
}

func tenant(i int) string { return fmt.Sprintf("tenant-%d", i) }

func (b *bench) createTenants(ctx context.Context) error {
	return each(ctx, b.services, func(ctx context.Context, i int) error {
		return b.kube.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: tenant(i)}})
	})
}

// publishFloor measures how fast the API server creates a ready-made ConfigMap with the bundle in
// each namespace.
func (b *bench) publishFloor(ctx context.Context) error {
	var bundle corev1.ConfigMap
	if err := b.kube.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: "default-trust-bundle"}, &bundle); err != nil {
		return err
	}
	copyIn := func(i int) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: tenant(i), Name: "floor"}, Data: bundle.Data}
	}
	start := time.Now()
	err := each(ctx, b.services, func(ctx context.Context, i int) error { return b.kube.Create(ctx, copyIn(i)) })
	b.floorRate = float64(b.services) / time.Since(start).Seconds()
	b.rows.add("floor: ConfigMaps created", b.floorRate, "/s")
	// Deleted, so that the manager does not see them.
	return errors.Join(err, each(ctx, b.services, func(ctx context.Context, i int) error { return b.kube.Delete(ctx, copyIn(i)) }))
}

// publish configures the ServiceCA to publish its bundle while the manager is at rest, and measures
// that.
func (b *bench) publish(ctx context.Context) error {
	if err := b.startManager(ctx); err != nil {
		return err
	}
	if _, err := b.settle(ctx); err != nil {
		return err
	}
	if err := b.recordMemory(ctx, "beside as many namespaces"); err != nil {
		return err
	}
	spent, err := b.cpu()
	there, err2 := b.count(ctx, "ConfigMap")
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	const what = "ConfigMaps published"
	err = b.counting(ctx, what, func() error {
		err := b.patchCA(ctx, `{"spec":{"trustBundle":{"publish":[{"configMapName":"`+publishedName+`"}]}}}`)
		if err != nil {
			return err
		}
		perSecond, err := b.arrivals(ctx, "ConfigMap", there, there+b.services, time.Duration(float64(b.services)/b.floorRate*float64(time.Second)))
		b.rows.add(what, perSecond, "/s")
		b.rows.add("… of the floor, published", perSecond/b.floorRate, "")
		return err
	})
	after, err2 := b.cpu()
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	b.rows.growing("time on the cores per ConfigMap published", (after-spent).Seconds()/float64(b.services)*1000, "ms")
	return b.counting(ctx, "ConfigMaps at rest", func() error { return b.recordMemory(ctx, "after publishing") })
}

func (b *bench) patchCA(ctx context.Context, patch string) error {
	return b.kube.Patch(ctx, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, client.RawPatch(types.MergePatchType, []byte(patch)))
}

// counting counts the reads and writes per namespace from the call of do until the manager is at
// rest again.
func (b *bench) counting(ctx context.Context, what string, do func() error) error {
	before, err := b.writes(ctx)
	asked, err2 := b.reads(ctx)
	if err := errors.Join(err, err2, do()); err != nil {
		return err
	}
	if _, err := b.settle(ctx); err != nil {
		return err
	}
	after, err := b.writes(ctx)
	askedAfter, err2 := b.reads(ctx)
	made := since(before, after)
	for _, write := range slices.Sorted(maps.Keys(made)) {
		b.rows.add(what+": "+write+" per namespace", made[write]/float64(b.services), "")
	}
	b.rows.add(what+": GET configmaps per namespace", (askedAfter-asked)/float64(b.services), "")
	return errors.Join(err, err2)
}

func (b *bench) restartPublished(ctx context.Context) error {
	asked, err := b.reads(ctx)
	if err := errors.Join(err, b.restart(ctx, "a new manager where all is published")); err != nil {
		return err
	}
	after, err := b.reads(ctx)
	b.rows.add("a new manager where all is published: GET configmaps per namespace", (after-asked)/float64(b.services), "")
	return err
}

// publishNext rotates the CA, and measures how fast the root of the next CA is added to each
// ConfigMap. That happens before the CA signs.
func (b *bench) publishNext(ctx context.Context) error {
	arrive, err := b.watch(ctx, "ConfigMap", strings.TrimSuffix(tenant(0), "0"))
	if err != nil {
		return err
	}
	const what = "ConfigMaps in a rotation"
	return b.counting(ctx, what, func() error {
		if err := b.patchCA(ctx, `{"spec":{"rotation":{"trigger":"now"}}}`); err != nil {
			return err
		}
		if _, err := arrive(1); err != nil {
			return err
		}
		start := time.Now()
		perSecond, err := arrive(b.services - 1)
		b.rows.add("ConfigMaps given the next root", perSecond, "/s")
		b.rows.add("… of the floor, given the next root", perSecond/b.floorRate, "")
		b.rows.growing("from the first ConfigMap with the next root to the last", time.Since(start).Seconds(), "s")
		return err
	})
}
