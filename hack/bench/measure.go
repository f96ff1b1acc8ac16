package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
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
	// writers is how many plain writers measure the floor.
	writers = 32
	// namespaces is how many namespaces have the Services.
	namespaces = 20
	// samples is how many Services are annotated, one after the other.
	samples = 200
)

// each calls do for each number below number, with up to writers calls at a time.
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

func secretNameAnnotation(i int) map[string]string {
	return map[string]string{v1alpha1.AnnotationSecretName: fmt.Sprintf("web-%d-tls", i)}
}

func (b *bench) createServices(ctx context.Context) error {
	if err := b.createNamespaces(ctx, "shop"); err != nil {
		return err
	}
	return each(ctx, b.services, func(ctx context.Context, i int) error {
		return b.kube.Create(ctx, service("shop", i, secretNameAnnotation(i)))
	})
}

// floor measures how fast the API server creates as many ready-made TLS Secrets. It validates them
// like any others.
func (b *bench) floor(ctx context.Context) error {
	if err := b.createNamespaces(ctx, "floor"); err != nil {
		return err
	}
	certificate, privateKey, err := readyMade()
	if err != nil {
		return err
	}
	start := time.Now()
	err = each(ctx, b.services, func(ctx context.Context, i int) error {
		return b.kube.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace("floor", i), Name: fmt.Sprintf("web-%d-tls", i)},
			Type:       corev1.SecretTypeTLS,
			Data:       map[string][]byte{corev1.TLSCertKey: certificate, corev1.TLSPrivateKeyKey: privateKey},
		})
	})
	b.floorRate = float64(b.services) / time.Since(start).Seconds()
	b.rows.add("floor: Secrets created", b.floorRate, "/s")
	// Deleted, so that the manager does not see them.
	return errors.Join(err, each(ctx, namespaces, func(ctx context.Context, i int) error {
		return b.kube.DeleteAllOf(ctx, &corev1.Secret{}, client.InNamespace(namespace("floor", i)))
	}))
}

// readyMade returns a certificate like those that the operator issues, and its key.
func readyMade() (certificate, privateKey []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web-1.floor-1.svc"}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"web-1.floor-1.svc", "web-1.floor-1.svc.cluster.local"}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), err
}

// await polls until check returns true.
func await(ctx context.Context, check func(context.Context) (bool, error)) error {
	return wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, 30*time.Minute, true, check)
}

// makeCA runs a manager until it has created the CA, and stops it before there are Services.
func (b *bench) makeCA(ctx context.Context) error {
	err := errors.Join(
		b.kube.Create(ctx, &v1alpha1.ServiceCA{
			ObjectMeta: metav1.ObjectMeta{Name: "default"},
			Spec:       v1alpha1.ServiceCASpec{Rotation: v1alpha1.CARotation{Propagation: v1alpha1.Propagation{Minimum: "1s"}}},
		}),
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

// issue measures how fast certificates are issued for all Services.
func (b *bench) issue(ctx context.Context) error {
	before, err := b.writes(ctx)
	there, err2 := b.count(ctx, "Secret")
	if err := errors.Join(err, err2, b.startManager(ctx)); err != nil {
		return err
	}
	perSecond, err := b.arrivals(ctx, "Secret", there, there+b.services, time.Duration(float64(b.services)/b.floorRate*float64(time.Second)))
	if err != nil {
		return err
	}
	b.rows.add("certificates issued, ECDSA P-256", perSecond, "/s")
	b.rows.add("… of the floor", perSecond/b.floorRate, "")
	return b.costs(ctx, before)
}

// arrivals returns how many objects of a kind are created per second, from when there are more than
// before until there are almost enough. A negative before starts at once; about is the expected
// duration. The objects are counted and not watched, because a watch would add a cost to the API
// server that the floor does not have.
func (b *bench) arrivals(ctx context.Context, kind string, before, enough int, about time.Duration) (perSecond float64, err error) {
	var start time.Time
	first := before
	// Counting takes the API server milliseconds.
	err = wait.PollUntilContextTimeout(ctx, about/30, 30*time.Minute, true, func(ctx context.Context) (bool, error) {
		now, err := b.count(ctx, kind)
		if first == before {
			first, start = now, time.Now()
		}
		if now < enough || perSecond == 0 {
			// The last objects were created some unknown time before this count.
			perSecond = float64(now-first) / time.Since(start).Seconds()
		}
		return now >= enough, err
	})
	return perSecond, err
}

// count returns how many objects of a kind there are.
func (b *bench) count(ctx context.Context, kind string) (int, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind + "List"))
	err := b.kube.List(ctx, list, client.Limit(1))
	count := len(list.Items)
	if list.RemainingItemCount != nil {
		count += int(*list.RemainingItemCount)
	}
	return count, err
}

// costs measures the writes and the CPU time per certificate, once the manager is at rest.
func (b *bench) costs(ctx context.Context, before map[string]float64) error {
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
		b.rows.add("… "+what+" per certificate", made[what]/float64(b.services), "")
	}
	b.rows.growing("… time on the cores per certificate", spent.Seconds()/float64(b.services)*1000, "ms")
	return b.recordMemory(ctx, "after issuance")
}

// annotate measures the latency for a user when the manager is at rest.
func (b *bench) annotate(ctx context.Context) error {
	return b.latency(ctx, "late", "from annotation to Secret", 20*time.Millisecond, func(done int) bool { return done == samples })
}

// latency creates one Service after the other at a fixed rate, measures the time until its Secret
// exists, and removes them all.
func (b *bench) latency(ctx context.Context, prefix, what string, pause time.Duration, enough func(done int) bool) error {
	if err := b.createNamespaces(ctx, prefix); err != nil {
		return err
	}
	arrive, err := b.watch(ctx, "Secret", prefix)
	if err != nil {
		return err
	}
	var waited []time.Duration
	for i := 0; !enough(i); i++ {
		start := time.Now()
		if err := b.kube.Create(ctx, service(prefix, i, secretNameAnnotation(i))); err != nil {
			return err
		}
		if _, err := arrive(1); err != nil {
			return err
		}
		waited = append(waited, time.Since(start))
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	slices.Sort(waited)
	b.rows.growing(what+", median", waited[len(waited)/2].Seconds()*1000, "ms")
	b.rows.growing(what+", 99th percentile", waited[len(waited)*99/100].Seconds()*1000, "ms")
	return b.remove(ctx, prefix)
}

// openShift measures the writes per certificate that is requested by OpenShift's annotation.
func (b *bench) openShift(ctx context.Context) error {
	const prefix = "openshift"
	if err := b.createNamespaces(ctx, prefix); err != nil {
		return err
	}
	arrive, err := b.watch(ctx, "Secret", prefix)
	before, err2 := b.writes(ctx)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	err = each(ctx, samples, func(ctx context.Context, i int) error {
		return b.kube.Create(ctx, service(prefix, i, map[string]string{
			"service.beta.openshift.io/serving-cert-secret-name": fmt.Sprintf("web-%d-tls", i),
		}))
	})
	if err != nil {
		return err
	}
	if _, err := arrive(samples); err != nil {
		return err
	}
	if _, err := b.settle(ctx); err != nil {
		return err
	}
	after, err := b.writes(ctx)
	made := since(before, after)
	for _, what := range []string{"POST secrets", "PATCH secrets", "APPLY services", "PATCH services"} {
		if made[what] > 0 {
			b.rows.add("OpenShift's annotation: "+what+" per certificate", made[what]/samples, "")
		}
	}
	return errors.Join(err, b.remove(ctx, prefix))
}

// remove deletes Services and their Secrets.
func (b *bench) remove(ctx context.Context, prefix string) error {
	return each(ctx, namespaces, func(ctx context.Context, i int) error {
		return errors.Join(
			b.kube.DeleteAllOf(ctx, &corev1.Service{}, client.InNamespace(namespace(prefix, i))),
			b.kube.DeleteAllOf(ctx, &corev1.Secret{}, client.InNamespace(namespace(prefix, i))),
		)
	})
}

// inject measures how fast the bundle is injected into as many ConfigMaps as there are Services.
func (b *bench) inject(ctx context.Context) error {
	b.stopManager()
	if err := b.createNamespaces(ctx, "trust"); err != nil {
		return err
	}
	err := each(ctx, b.services, func(ctx context.Context, i int) error {
		return b.kube.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace("trust", i), Name: fmt.Sprintf("trust-%d", i),
			Annotations: map[string]string{v1alpha1.AnnotationInjectCABundle: "default"},
		}})
	})
	if err != nil {
		return err
	}
	arrive, err := b.watch(ctx, "ConfigMap", "trust")
	if err != nil {
		return err
	}
	if err := b.startManager(ctx); err != nil {
		return err
	}
	perSecond, err := arrive(b.services)
	b.rows.add("ConfigMaps given the bundle", perSecond, "/s")
	b.rows.add("… ConfigMaps of the floor", perSecond/b.floorRate, "")
	return err
}
