package liverotation_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
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
	// patience is how long the test waits for what should come; nothing is measured by it.
	patience = 90 * time.Second
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
	w.traffic = newTraffic(w.clients, w.servers)
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
	if err := testoperator.Install(w.Context(), w.kube, operatorNamespace); err != nil {
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
		// The ConfigMaps, and each Secret.
		bundle, want := ca.Status.TrustBundle, int32(3+len(w.servers))
		return bundle != nil && bundle.Targets == want && bundle.CurrentTargets == want
	})
	w.start(slices.Concat(w.clients, w.servers))
}

// objects are what people apply.
func (w *world) objects() []client.Object {
	w.ca = &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	w.ca.Spec.Certificate.Duration = "30m"
	w.ca.Spec.Rotation = v1alpha1.CARotation{RotateBefore: "10m", Propagation: v1alpha1.Propagation{Minimum: propagation}}
	policy := &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	policy.Spec.Certificate = v1alpha1.ServingCertificate{Duration: "10m", CABundle: v1alpha1.CABundleInclude}
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

func (w *world) startTraffic() {
	w.Helper()
	w.traffic.start(w.T)
}

// start makes pods and, when all run, begins the processes in them.
func (w *world) start(peers []*peer) {
	w.Helper()
	pods := make([]*corev1.Pod, len(peers))
	for i, p := range peers {
		pods[i] = p.nextPod()
		w.create(pods[i])
	}
	for i, p := range peers {
		folder := w.runs(pods[i])
		if err := p.start(pods[i], folder); err != nil {
			w.Fatalf("%s starts: %v", p, err)
		}
	}
}

// runs waits until a pod is Ready, and returns the folder of its volume.
func (w *world) runs(pod *corev1.Pod) (folder string) {
	w.Helper()
	w.eventually(func(ctx context.Context) error {
		if err := w.kube.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
		if !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}) {
			return fmt.Errorf("pod %s is %s and not ready", pod.Name, pod.Status.Phase)
		}
		var err error
		folder, err = w.cluster.VolumePath(pod, volume)
		return err
	})
	return folder
}

// replace is a rolling update of frozen peers: a new process in a new pod takes over, and then the old pod goes.
func (w *world) replace(peers ...*peer) {
	w.Helper()
	w.Logf("DEBUG %s replace %d", time.Now().Format("15:04:05.000"), len(peers))
	defer func() { w.Logf("DEBUG %s replaced %d", time.Now().Format("15:04:05.000"), len(peers)) }()
	var old []*corev1.Pod
	for _, p := range peers {
		old = append(old, p.pod)
	}
	w.start(peers)
	for _, pod := range old {
		if err := w.kube.Delete(w.Context(), pod); err != nil {
			w.Fatal(err)
		}
	}
	w.meet()
}

func (w *world) frozen() []*peer {
	return slices.DeleteFunc(slices.Concat(w.clients, w.servers), func(p *peer) bool { return !p.frozen })
}

// restarting are the frozen peers that are replaced after each rotation.
func (w *world) restarting() []*peer {
	return slices.DeleteFunc(w.frozen(), func(p *peer) bool { return p.kept })
}

func (w *world) frozenClients() []*peer {
	return slices.DeleteFunc(w.frozen(), func(p *peer) bool { return !slices.Contains(w.clients, p) })
}

// reissued waits until every Secret holds a certificate of the CA that signs, and the kubelet has brought it to every server.
func (w *world) reissued() {
	w.Helper()
	w.eventually(func(ctx context.Context) error {
		var secrets corev1.SecretList
		err := errors.Join(w.look(ctx), w.kube.List(ctx, &secrets, client.InNamespace(shop), client.HasLabels{v1alpha1.LabelService}))
		if err != nil || len(secrets.Items) != len(w.servers) || w.ca.Status.Active == nil {
			return fmt.Errorf("%d Secrets, and %v signs: %w", len(secrets.Items), w.ca.Status.Active, err)
		}
		for i := range secrets.Items {
			if err := signedBy(secrets.Items[i].Data, w.ca.Status.Active); err != nil {
				return fmt.Errorf("Secret %s: %w", secrets.Items[i].Name, err)
			}
		}
		for _, server := range w.servers {
			read, err := mounted(server.folder)
			if err := errors.Join(err, signedBy(read, w.ca.Status.Active)); err != nil {
				return fmt.Errorf("pod %s: %w", server.pod.Name, err)
			}
		}
		return nil
	})
}

func signedBy(data files, ca *v1alpha1.CAGeneration) error {
	leaf, err := pki.ParseLeaf(data[corev1.TLSCertKey])
	if err != nil {
		return err
	}
	if signer := pki.KeyID(leaf.AuthorityKeyId); signer != ca.SubjectKeyID {
		return fmt.Errorf("its certificate is signed by %s (%s) instead of %s", leaf.Issuer.CommonName, signer, ca.SubjectKeyID)
	}
	return nil
}

// bundleIsMounted waits until the kubelet has brought the published bundle to every client's pod, whether its process looks or not.
func (w *world) bundleIsMounted() {
	w.Helper()
	w.eventually(func(ctx context.Context) error {
		var published corev1.ConfigMap
		if err := w.kube.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: w.ca.TrustBundleConfigMapName()}, &published); err != nil {
			return err
		}
		for _, c := range w.clients {
			read, err := mounted(c.folder)
			if bundle := published.Data[w.ca.Spec.TrustBundle.Key]; err != nil || !bytes.Equal(read[c.file], []byte(bundle)) {
				return fmt.Errorf("pod %s finds another bundle, with %d roots instead of %d (%w)", c.pod.Name,
					bytes.Count(read[c.file], []byte("BEGIN")), strings.Count(bundle, "BEGIN"), err)
			}
		}
		return nil
	})
}

// changed is a change of the ServiceCA's spec.
func (w *world) changed(change func(*v1alpha1.ServiceCASpec)) func() {
	return func() {
		w.Helper()
		w.status()
		before := w.ca.DeepCopy()
		change(&w.ca.Spec)
		if err := w.kube.Patch(w.Context(), w.ca, client.MergeFrom(before)); err != nil {
			w.Fatal(err)
		}
	}
}

// look reads the ServiceCA.
func (w *world) look(ctx context.Context) error {
	if err := w.kube.Get(ctx, client.ObjectKeyFromObject(w.ca), w.ca); err != nil {
		return err
	}
	if now := w.ca.Status.Rotation; now != nil {
		if old := w.traffic.phase.Load(); old == nil || *old != now.Phase {
			w.Logf("DEBUG %s %s targets %d/%d", time.Now().Format("15:04:05.000"), now.Phase, w.ca.Status.TrustBundle.CurrentTargets, w.ca.Status.TrustBundle.Targets)
		}
		w.traffic.phase.Store(new(now.Phase))
	}
	return nil
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
