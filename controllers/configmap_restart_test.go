package controllers_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
	"github.com/servingcert/operator/hack/cluster"
)

// newCluster returns the client of a separate cluster, and a function that starts the operator
// there; the operator runs until stop is called.
func newCluster(t *testing.T) (kube client.Client, start func() (stop func())) {
	t.Helper()
	own, err := cluster.Start(t.Context(), cluster.Options{Controllers: true, CRDs: []string{filepath.Join("..", "config", "crd", "bases")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = own.Stop() })
	if kube, err = testoperator.Client(own); err != nil {
		t.Fatal(err)
	}
	if err := testoperator.Install(t.Context(), kube, operatorNamespace); err != nil {
		t.Fatal(err)
	}
	return kube, func() func() {
		stop, err := testoperator.Start(context.Background(), own, operatorNamespace)
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := stop(); err != nil {
				t.Error(err)
			}
		}
	}
}

// A restart writes nothing, and the operator acts on what changed while it was down.
func TestConfigMapsWhileTheOperatorIsDown(t *testing.T) {
	t.Parallel()
	kube, start := newCluster(t)
	r := newRealmIn(t, kube, "away")
	configMap := func(name string, data map[string]string) *corev1.ConfigMap {
		return createBy(t, kube, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name, Annotations: r.injects()}, Data: data})
	}
	mine := map[string]string{"mine": "stays"}
	kept, left := configMap("kept", mine), configMap("left", mine)
	holds := func(c *corev1.ConfigMap, roots int) {
		t.Helper()
		eventually(t, func(ctx context.Context) string {
			if err := kube.Get(ctx, client.ObjectKeyFromObject(c), c); err != nil {
				return err.Error()
			}
			bundle, err := r.bundle(ctx)
			if err != nil {
				return err.Error()
			}
			if got := c.Data[v1alpha1.DefaultCABundleKey]; bundle == "" || got != bundle || strings.Count(got, "BEGIN CERTIFICATE") != roots {
				return c.Name + " does not hold the bundle"
			}
			return ""
		})
	}
	stop := start()
	holds(kept, 1)
	holds(left, 1)
	r.serviceCA(counts(3, 3))
	stop()

	if err := kube.Get(t.Context(), client.ObjectKeyFromObject(left), left); err != nil {
		t.Fatal(err)
	}
	left.Annotations = nil
	if err := kube.Update(t.Context(), left); err != nil {
		t.Fatal(err)
	}
	stop = start()
	holds(configMap("later", nil), 1)
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(left), left); err != nil {
			return err.Error()
		}
		if len(ownedBy(t, left, trustManager)) > 0 || len(left.Data) != 1 {
			return "what does not ask any more was not given up"
		}
		return ""
	})
	version := kept.ResourceVersion
	holds(kept, 1)
	if kept.ResourceVersion != version {
		t.Error("the restart has written a ConfigMap that was current")
	}
	stop()

	lost := &corev1.Secret{ObjectMeta: inOperatorNamespace(r.ca.SigningKeySecretName())}
	if err := kube.Delete(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	stop = start()
	defer stop()
	holds(kept, 2)
	r.serviceCA(counts(3, 3))
}
