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
	// shop is the namespace of the servers, and of half of the clients.
	shop = "shop"
	// elsewhere is the namespace of the other clients.
	elsewhere = "elsewhere"
	// trustConfigMap is the name of the ConfigMaps that ask for the bundle.
	trustConfigMap = "trust"
	// propagation is many times what the kubelet of a hollow node needs to bring a change to its
	// pods, which is about a second.
	propagation v1alpha1.Duration = "10s"
	// lingering keeps a phase from ending before the test has done in it what an administrator
	// would do.
	lingering v1alpha1.Duration = "15m"
	// timeout is how long the test waits for an expected state, on a busy machine; it measures
	// nothing.
	timeout = 3 * time.Minute
)

// testEnv is a cluster with the operator, and the servers and clients that trust each other in it.
type testEnv struct {
	*testing.T
	cluster          *cluster.Cluster
	kube             client.Client
	ca               *v1alpha1.ServiceCA
	clients, servers []*peer
	traffic          *traffic
}

func newTestEnv(t *testing.T) *testEnv {
	t.Helper()
	crds, err := testoperator.Path("config", "crd", "bases")
	if err != nil {
		t.Fatal(err)
	}
	servers := newServers()
	w := &testEnv{T: t, clients: newClients(servers), servers: servers}
	w.traffic = newTraffic(w.clients, w.servers, w.phase)
	// All pods are on one node: what its kubelet has brought to one pod, a new pod has from the
	// start.
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

// deploy starts the operator, and then all peers.
func (e *testEnv) deploy() {
	e.Helper()
	err := errors.Join(
		testoperator.Install(e.Context(), e.kube, operatorNamespace), testoperator.Allow(e.Context(), e.kube, operatorNamespace, "restarts"))
	if err != nil {
		e.Fatal(err)
	}
	stop, err := testoperator.Start(context.Background(), e.cluster, operatorNamespace)
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		if err := stop(); err != nil {
			e.Error(err)
		}
	})
	e.create(e.objects()...)
	e.await("is published", func(ca *v1alpha1.ServiceCA) bool {
		// The ConfigMaps, the ClusterTrustBundle, and each Secret.
		bundle, want := ca.Status.TrustBundle, int32(4+len(e.servers))
		return bundle != nil && bundle.Targets == want && bundle.CurrentTargets == want
	})
	// The kubelet pulls at most ten images at once, and each only once.
	e.start(e.clients)
	e.start(e.servers)
	e.followAlways()
}

// objects returns what users apply.
func (e *testEnv) objects() []client.Object {
	e.ca = &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	e.ca.Spec.Certificate.Duration = "60m"
	e.ca.Spec.Rotation = v1alpha1.CARotation{RotateBefore: "20m", Propagation: v1alpha1.Propagation{Minimum: propagation}}
	policy := &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	policy.Spec.Certificate = v1alpha1.ServingCertificate{Duration: "20m", CABundle: v1alpha1.CABundleInclude}
	policy.Spec.Restart = v1alpha1.Restart{Strategy: v1alpha1.RollingRestart, Consumers: v1alpha1.RestartFrozenConsumers, MaxConcurrent: 5}
	objects := []client.Object{e.ca, policy}
	for namespace, annotations := range map[string]map[string]string{
		shop:      {v1alpha1.AnnotationInjectCABundle: e.ca.Name},
		elsewhere: {"service.beta.openshift.io/inject-cabundle": "true"},
	} {
		objects = append(objects, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: trustConfigMap, Annotations: annotations}})
	}
	for _, server := range e.servers {
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

// create creates objects. A new namespace has no ServiceAccount at first, and then rejects pods.
func (e *testEnv) create(objects ...client.Object) {
	e.Helper()
	for _, object := range objects {
		e.eventually(func(ctx context.Context) error { return e.kube.Create(ctx, object) })
	}
}

// change changes the ServiceCA's spec.
func (e *testEnv) change(changes ...func(*v1alpha1.ServiceCASpec)) {
	e.Helper()
	e.status()
	before := e.ca.DeepCopy()
	for _, change := range changes {
		change(&e.ca.Spec)
	}
	if err := e.kube.Patch(e.Context(), e.ca, client.MergeFrom(before)); err != nil {
		e.Fatal(err)
	}
}

// observe reads the ServiceCA.
func (e *testEnv) observe(ctx context.Context) error {
	return e.kube.Get(ctx, client.ObjectKeyFromObject(e.ca), e.ca)
}

// phase returns the present phase of the CA, for failure messages.
func (e *testEnv) phase() string {
	ctx, cancel := context.WithTimeout(context.Background(), slowest)
	defer cancel()
	var ca v1alpha1.ServiceCA
	if err := e.kube.Get(ctx, client.ObjectKey{Name: "default"}, &ca); err != nil || ca.Status.Rotation == nil {
		return fmt.Sprintf("in an unknown phase (%v)", err)
	}
	return "in phase " + string(ca.Status.Rotation.Phase)
}

func (e *testEnv) status() v1alpha1.ServiceCAStatus {
	e.Helper()
	if err := e.observe(e.Context()); err != nil {
		e.Fatal(err)
	}
	return e.ca.Status
}

// await waits until the ServiceCA meets check; does describes that state.
func (e *testEnv) await(does string, check func(*v1alpha1.ServiceCA) bool) {
	e.Helper()
	e.eventually(func(ctx context.Context) error {
		if err := e.observe(ctx); err != nil || e.ca.Status.Rotation == nil || !check(e.ca) {
			return fmt.Errorf("the CA never %s (%w); its status is %+v, the rotation %+v", does, err, e.ca.Status, e.ca.Status.Rotation)
		}
		return nil
	})
}

// eventually waits until check returns nil, but not beyond the first failed handshake.
func (e *testEnv) eventually(check func(context.Context) error) {
	e.Helper()
	var last error
	err := wait.PollUntilContextTimeout(e.Context(), 100*time.Millisecond, timeout, true, func(ctx context.Context) (bool, error) {
		e.failOnFailures()
		if err := check(ctx); err == nil || ctx.Err() == nil {
			last = err
		}
		return last == nil, nil
	})
	if err != nil {
		e.Fatal(errors.Join(last, err))
	}
}

func (e *testEnv) failOnFailures() {
	e.Helper()
	if failed, failures := e.traffic.reported(); failed > 0 {
		e.Fatalf("%s:\n%s", e.traffic, strings.Join(failures, "\n"))
	}
}
