package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

const (
	// writers are how many plain writers make the floor.
	writers = 32
	// namespaces are over how many the Services are spread.
	namespaces = 20
	// samples is how many Services are annotated, one after the other.
	samples = 200
	// quiet is for how long nothing is written before the manager is taken to be at rest: longer than it gathers what it reports.
	quiet = 12 * time.Second
)

// each runs a function for each number, many at once.
func each(ctx context.Context, number int, do func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(writers)
	for i := range number {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

func namespace(prefix string, i int) string { return fmt.Sprintf("%s-%d", prefix, i%namespaces) }

func (b *bench) createNamespaces(ctx context.Context, prefix string) error {
	return each(ctx, namespaces, func(ctx context.Context, i int) error {
		return b.kube.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace(prefix, i)}})
	})
}

func service(prefix string, i int, annotations map[string]string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace(prefix, i), Name: fmt.Sprintf("web-%d", i), Annotations: annotations},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}},
	}
}

func asks(i int) map[string]string {
	return map[string]string{v1alpha1.AnnotationSecretName: fmt.Sprintf("web-%d-tls", i)}
}

func (b *bench) createServices(ctx context.Context, number int) error {
	if err := b.createNamespaces(ctx, "shop"); err != nil {
		return err
	}
	return each(ctx, number, func(ctx context.Context, i int) error { return b.kube.Create(ctx, service("shop", i, asks(i))) })
}

// floor is how fast the API server takes as many Secrets of the same size.
func (b *bench) floor(ctx context.Context, number int) error {
	if err := b.createNamespaces(ctx, "floor"); err != nil {
		return err
	}
	begin := time.Now()
	err := each(ctx, number, func(ctx context.Context, i int) error {
		return b.kube.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace("floor", i), Name: fmt.Sprintf("web-%d-tls", i)},
			Type:       corev1.SecretTypeTLS,
			Data:       map[string][]byte{corev1.TLSCertKey: bytes.Repeat([]byte("c"), 900), corev1.TLSPrivateKeyKey: bytes.Repeat([]byte("k"), 240)},
		})
	})
	b.perFloor = float64(number) / time.Since(begin).Seconds()
	b.results.add("floor: Secrets created", b.perFloor, "1/s")
	return err
}

// await waits until something is the case.
func await(ctx context.Context, check func(context.Context) (bool, error)) error {
	return wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, 30*time.Minute, true, check)
}

// makeCA lets a manager make the CA, and end before there is anything to serve.
func (b *bench) makeCA(ctx context.Context) error {
	err := errors.Join(
		b.kube.Create(ctx, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default"}}),
		b.kube.Create(ctx, &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: "default"}}),
		b.startManager(ctx),
	)
	if err != nil {
		return err
	}
	defer b.stopManager()
	return await(ctx, func(ctx context.Context) (bool, error) {
		var ca v1alpha1.ServiceCA
		err := b.kube.Get(ctx, client.ObjectKey{Name: "default"}, &ca)
		return err == nil && ca.Status.Active != nil, err
	})
}

// issue serves all Services that are there. The time counts from the first certificate on.
func (b *bench) issue(ctx context.Context, number int) error {
	before, err := b.writes(ctx)
	if err != nil {
		return err
	}
	issued, err := b.typed.CoreV1().Secrets("").Watch(ctx, metav1.ListOptions{LabelSelector: v1alpha1.LabelService})
	if err != nil {
		return err
	}
	defer issued.Stop()
	if err := b.startManager(ctx); err != nil {
		return err
	}
	var begin time.Time
	for range number {
		select {
		case <-issued.ResultChan():
		case <-ctx.Done():
			return ctx.Err()
		}
		if begin.IsZero() {
			begin = time.Now()
		}
	}
	perSecond := float64(number-1) / time.Since(begin).Seconds()
	b.results.add("certificates issued (ECDSA P-256)", perSecond, "1/s")
	b.results.add("… of the floor", perSecond/b.perFloor, "")
	return b.costs(ctx, number, before)
}

// costs are what the certificates have cost when all is quiet again.
func (b *bench) costs(ctx context.Context, number int, before map[string]float64) error {
	if _, err := b.settle(ctx); err != nil {
		return err
	}
	after, err := b.writes(ctx)
	spent, err2 := b.cpu()
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	made := since(before, after)
	for _, what := range slices.Sorted(maps.Keys(made)) {
		b.results.add("… "+what+" per certificate", made[what]/float64(number), "")
	}
	b.results.add("… time on the cores per certificate", spent.Seconds()/float64(number)*1000, "ms")
	return b.remember("after issuance")
}

func (b *bench) remember(when string) error {
	now, err := b.memory("VmRSS")
	most, err2 := b.memory("VmHWM")
	b.results.add("memory "+when, now, "MiB")
	b.results.add("memory "+when+", at most", most, "MiB")
	return errors.Join(err, err2)
}

// settle waits until nothing has been written for a while, and tells how long it took until the last write was made.
func (b *bench) settle(ctx context.Context) (time.Duration, error) {
	begin, last := time.Now(), time.Now()
	before, err := b.writes(ctx)
	if err != nil {
		return 0, err
	}
	err = wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, 30*time.Minute, true, func(ctx context.Context) (bool, error) {
		now, err := b.writes(ctx)
		if len(since(before, now)) > 0 {
			before, last = now, time.Now()
		}
		return time.Since(last) > quiet, err
	})
	return last.Sub(begin), err
}

// annotate is what a person waits for.
func (b *bench) annotate(ctx context.Context) error {
	if err := b.createNamespaces(ctx, "late"); err != nil {
		return err
	}
	issued, err := b.typed.CoreV1().Secrets("").Watch(ctx, metav1.ListOptions{LabelSelector: v1alpha1.LabelService})
	if err != nil {
		return err
	}
	defer issued.Stop()
	var waited []time.Duration
	for i := range samples {
		begin := time.Now()
		if err := b.kube.Create(ctx, service("late", i, asks(i))); err != nil {
			return err
		}
		for event := range issued.ResultChan() {
			if secret, ok := event.Object.(*corev1.Secret); ok && secret.Namespace == namespace("late", i) {
				break
			}
		}
		waited = append(waited, time.Since(begin))
	}
	slices.Sort(waited)
	b.results.add("from annotation to Secret, median", waited[samples/2].Seconds()*1000, "ms")
	b.results.add("from annotation to Secret, 99th percentile", waited[samples*99/100].Seconds()*1000, "ms")
	return nil
}

// foreign fills the cluster with what is nobody's business.
func (b *bench) foreign(ctx context.Context, number int) error {
	if err := b.createNamespaces(ctx, "foreign"); err != nil {
		return err
	}
	before, err := b.memory("VmRSS")
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
	after, err := b.memory("VmRSS")
	b.results.add("memory for objects of others", after-before, "MiB")
	return err
}

// restart is what a new version comes to.
func (b *bench) restart(ctx context.Context) error {
	b.stopManager()
	before, err := b.writes(ctx)
	if err != nil {
		return err
	}
	if err := b.startManager(ctx); err != nil {
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
	for what, number := range since(before, after) {
		writes += number
		b.results.add("a new manager: "+what, number, "")
	}
	b.results.add("a new manager writes", writes, "")
	b.results.seconds("a new manager is quiet after", took)
	return b.remember("of a new manager")
}
