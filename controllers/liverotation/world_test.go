package liverotation_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
	"github.com/servingcert/operator/hack/cluster"
)

const (
	operatorNamespace = "servingcert"
	// shop is where the servers are, and half of the clients.
	shop = "shop"
	// elsewhere is the namespace of the other clients.
	elsewhere = "elsewhere"
	// trustConfigMap is the name of the ConfigMaps that ask for the bundle.
	trustConfigMap = "trust"
	// propagation is many times what the kubelet of a hollow node needs to bring a change to its pods, which is about a second.
	propagation v1alpha1.Duration = "10s"
	// lingering keeps a phase from ending before the test has done in it what people would.
	lingering v1alpha1.Duration = "15m"
	// patience is how long the test waits for what should come, on a machine with much else to do; nothing is measured by it.
	patience = 3 * time.Minute
)

// world is a cluster with the operator, and those who trust each other in it.
type world struct {
	*testing.T
	cluster          *cluster.Cluster
	kube             client.Client
	ca               *v1alpha1.ServiceCA
	clients, servers []*peer
	traffic          *traffic
}

func newWorld(t *testing.T) *world {
	t.Helper()
	crds, err := testoperator.Path("config", "crd", "bases")
	if err != nil {
		t.Fatal(err)
	}
	servers := newServers()
	w := &world{T: t, clients: newClients(servers), servers: servers}
	w.traffic = newTraffic(w.clients, w.servers, w.phase)
	// All on one node: what its kubelet has brought to one pod, it brings to a new one from the beginning.
	if w.cluster, err = cluster.Start(t.Context(), cluster.Options{Controllers: true, Nodes: 1, CRDs: []string{crds}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(w.cluster.Err(), w.cluster.Stop()); err != nil {
			t.Error(err)
		}
	})
	if w.kube, err = testoperator.Client(w.cluster); err != nil {
		t.Fatal(err)
	}
	return w
}

// deploy brings up the operator, and then everybody.
func (w *world) deploy() {
	w.Helper()
	err := errors.Join(
		testoperator.Install(w.Context(), w.kube, operatorNamespace), testoperator.Allow(w.Context(), w.kube, operatorNamespace, "restarts"))
	if err != nil {
		w.Fatal(err)
	}
	stop, err := testoperator.Start(context.Background(), w.cluster, operatorNamespace)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := stop(); err != nil {
			w.Error(err)
		}
	})
	w.create(w.objects()...)
	w.await("is published", func(ca *v1alpha1.ServiceCA) bool {
		// The ConfigMaps, the ClusterTrustBundle, and each Secret.
		bundle, want := ca.Status.TrustBundle, int32(4+len(w.servers))
		return bundle != nil && bundle.Targets == want && bundle.CurrentTargets == want
	})
	// The kubelet pulls no more than ten images at once, and each only once.
	w.start(w.clients)
	w.start(w.servers)
	w.followAlways()
}

// objects are what people apply.
func (w *world) objects() []client.Object {
	w.ca = &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	w.ca.Spec.Certificate.Duration = "60m"
	w.ca.Spec.Rotation = v1alpha1.CARotation{RotateBefore: "20m", Propagation: v1alpha1.Propagation{Minimum: propagation}}
	policy := &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	policy.Spec.Certificate = v1alpha1.ServingCertificate{Duration: "20m", CABundle: v1alpha1.CABundleInclude}
	policy.Spec.Restart = v1alpha1.Restart{Strategy: v1alpha1.RollingRestart, Consumers: v1alpha1.RestartFrozenConsumers, MaxConcurrent: 5}
	objects := []client.Object{w.ca, policy}
	for namespace, annotations := range map[string]map[string]string{
		shop:      {v1alpha1.AnnotationInjectCABundle: w.ca.Name},
		elsewhere: {"service.beta.openshift.io/inject-cabundle": "true"},
	} {
		objects = append(objects, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: trustConfigMap, Annotations: annotations}})
	}
	for _, server := range w.servers {
		objects = append(objects, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: server.namespace, Name: server.name,
				Annotations: map[string]string{v1alpha1.AnnotationSecretName: server.secretName()},
			},
			Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443, TargetPort: intstr.FromInt32(8443)}}},
		})
	}
	return objects
}

// create creates objects. A namespace has no ServiceAccount in its first moments, and then takes no pod.
func (w *world) create(objects ...client.Object) {
	w.Helper()
	for _, object := range objects {
		w.eventually(func(ctx context.Context) error { return w.kube.Create(ctx, object) })
	}
}

// change changes the ServiceCA's spec.
func (w *world) change(changes ...func(*v1alpha1.ServiceCASpec)) {
	w.Helper()
	w.status()
	before := w.ca.DeepCopy()
	for _, change := range changes {
		change(&w.ca.Spec)
	}
	if err := w.kube.Patch(w.Context(), w.ca, client.MergeFrom(before)); err != nil {
		w.Fatal(err)
	}
}

// look reads the ServiceCA.
func (w *world) look(ctx context.Context) error {
	return w.kube.Get(ctx, client.ObjectKeyFromObject(w.ca), w.ca)
}

// phase is that of the CA at this moment, for whoever tells of a failure.
func (w *world) phase() string {
	ctx, cancel := context.WithTimeout(context.Background(), slowest)
	defer cancel()
	var ca v1alpha1.ServiceCA
	if err := w.kube.Get(ctx, client.ObjectKey{Name: "default"}, &ca); err != nil || ca.Status.Rotation == nil {
		return fmt.Sprintf("in an unknown phase (%v)", err)
	}
	return "in phase " + string(ca.Status.Rotation.Phase)
}

func (w *world) status() v1alpha1.ServiceCAStatus {
	w.Helper()
	if err := w.look(w.Context()); err != nil {
		w.Fatal(err)
	}
	return w.ca.Status
}

// await waits until the ServiceCA does something.
func (w *world) await(does string, check func(*v1alpha1.ServiceCA) bool) {
	w.Helper()
	w.eventually(func(ctx context.Context) error {
		if err := w.look(ctx); err != nil || w.ca.Status.Rotation == nil || !check(w.ca) {
			return fmt.Errorf("the CA never %s (%w); its status is %+v, the rotation %+v", does, err, w.ca.Status, w.ca.Status.Rotation)
		}
		return nil
	})
}

// eventually waits until check finds nothing wrong, but not beyond the first failed handshake.
func (w *world) eventually(check func(context.Context) error) {
	w.Helper()
	var last error
	err := wait.PollUntilContextTimeout(w.Context(), 100*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		w.failOnFailures()
		if err := check(ctx); err == nil || ctx.Err() == nil {
			last = err
		}
		return last == nil, nil
	})
	if err != nil {
		w.Fatal(errors.Join(last, err))
	}
}

func (w *world) failOnFailures() {
	w.Helper()
	if failed, failures := w.traffic.told(); failed > 0 {
		w.Fatalf("%s:\n%s", w.traffic, strings.Join(failures, "\n"))
	}
}
