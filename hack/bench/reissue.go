package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// maxRSA is how many certificates with RSA keys are issued at most, with five per Service. A key
// takes a tenth of a second, and the time varies from half to twice of that, so a small number
// would not be meaningful.
const maxRSA = 5000

// reissue rotates the CA twice: first all certificates are reissued at once, then at the usual
// rate. Services are annotated meanwhile.
func (b *bench) reissue(ctx context.Context) error {
	for _, pace := range []struct {
		name, prefix string
		arguments    []string
	}{{"at once", "hasty", []string{"--reissue-rate=0"}}, {"at the usual pace", "calm", nil}} {
		b.stopManager()
		if err := b.startManager(ctx, pace.arguments...); err != nil {
			return err
		}
		if _, err := b.settle(ctx); err != nil {
			return err
		}
		if err := b.rotate(ctx, pace.name, pace.prefix); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) rotate(ctx context.Context, name, prefix string) error {
	arrive, err := b.watch(ctx, "Secret", "shop")
	if err != nil {
		return err
	}
	spent, err := b.cpu()
	before, err2 := b.writes(ctx)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	var ca v1alpha1.ServiceCA
	if err := b.kube.Get(ctx, client.ObjectKey{Name: "default"}, &ca); err != nil {
		return err
	}
	untouched := ca.DeepCopy()
	ca.Spec.Rotation.Trigger = name
	if err := b.kube.Patch(ctx, &ca, client.MergeFrom(untouched)); err != nil {
		return err
	}
	if _, err := arrive(1); err != nil {
		return err
	}
	// From the first certificate to the last, a Service is annotated five times per second.
	var over atomic.Bool
	extra := 0
	var waiting errgroup.Group
	waiting.Go(func() error {
		return b.latency(ctx, prefix, "from annotation to Secret while all is reissued "+name, 200*time.Millisecond, func(done int) bool {
			extra = done
			return over.Load()
		})
	})
	perSecond, err := arrive(b.services - 1)
	over.Store(true)
	if err := errors.Join(err, waiting.Wait()); err != nil {
		return err
	}
	b.rows.add("certificates reissued "+name, perSecond, "/s")
	after, err := b.cpu()
	made := float64(b.services + extra)
	b.rows.add("… time on the cores per certificate reissued "+name, (after-spent).Seconds()/made*1000, "ms")
	if _, err := b.settle(ctx); err != nil {
		return err
	}
	now, err2 := b.writes(ctx)
	writes := since(before, now)
	for _, what := range slices.Sorted(maps.Keys(writes)) {
		// The other writes are for the Services that are annotated meanwhile, and for the bundle.
		if strings.HasSuffix(what, "/status") || what == "PATCH secrets" || what == "POST events" {
			b.rows.add("… "+what+" per certificate reissued "+name, writes[what]/made, "")
		}
	}
	return errors.Join(err, err2)
}

// issueRSA issues certificates with RSA keys for Services, all at once: their namespaces get the
// label that a policy selects. It compares the rate with that at which the cores generate keys
// while the manager is at rest, before and after, because their speed varies over time.
func (b *bench) issueRSA(ctx context.Context) error {
	const prefix = "rsa"
	slow := &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: prefix}, Spec: v1alpha1.ServingCertPolicySpec{
		Priority: 1, Issuance: v1alpha1.IssueAll, NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{"keys": "rsa"}},
	}}
	slow.Spec.Certificate.PrivateKey.Algorithm = v1alpha1.RSA
	if err := errors.Join(b.kube.Create(ctx, slow), b.createNamespaces(ctx, prefix)); err != nil {
		return err
	}
	number := min(5*b.services, maxRSA)
	err := each(ctx, number, func(ctx context.Context, i int) error { return b.kube.Create(ctx, service(prefix, i, nil)) })
	if err != nil {
		return err
	}
	if _, err := b.settle(ctx); err != nil {
		return err
	}
	before, err := makeKeys(number / 2)
	there, err2 := b.count(ctx, "Secret")
	err3 := each(ctx, namespaces, func(ctx context.Context, i int) error {
		return b.kube.Patch(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace(prefix, i)}},
			client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"keys":"rsa"}}}`)))
	})
	if err := errors.Join(err, err2, err3); err != nil {
		return err
	}
	perSecond, err := b.arrivals(ctx, "Secret", -1, there+number, 2*before)
	if err != nil {
		return err
	}
	if _, err := b.settle(ctx); err != nil {
		return err
	}
	after, err := makeKeys(number / 2)
	keys := float64(number/2*2) / (before + after).Seconds()
	b.rows.add("RSA-2048 keys made", keys, "/s")
	b.rows.add("certificates issued, RSA-2048", perSecond, "/s")
	b.rows.add("… of the keys", perSecond/keys, "")
	most, err2 := b.memory("VmHWM")
	b.rows.add("memory of the manager until then, at most", most, "MiB")
	if err := errors.Join(err, err2, b.beside(ctx, slow)); err != nil {
		return err
	}
	// Without a manager: while keys are generated, the API server has no CPU time left to delete many
	// objects within a minute.
	b.stopManager()
	return errors.Join(b.remove(ctx, prefix), b.startManager(ctx))
}

// beside measures the latency for a Service whose key is fast to generate, while a policy requires
// longer RSA keys for all of its Services.
func (b *bench) beside(ctx context.Context, slow *v1alpha1.ServingCertPolicy) error {
	longer := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"certificate":{"privateKey":{"size":3072}}}}`))
	if err := b.kube.Patch(ctx, slow, longer); err != nil {
		return err
	}
	return b.latency(ctx, "beside", "from annotation to Secret while RSA keys are made", 20*time.Millisecond, func(done int) bool {
		return done == samples
	})
}

// makeKeys generates RSA keys on all cores, and returns how long that took.
func makeKeys(number int) (time.Duration, error) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // almost all of the work is key generation
	start := time.Now()
	var making errgroup.Group
	making.SetLimit(runtime.GOMAXPROCS(0))
	for range number {
		making.Go(func() error {
			_, err := rsa.GenerateKey(rand.Reader, 2048)
			return err
		})
	}
	err := making.Wait()
	return time.Since(start), err
}
