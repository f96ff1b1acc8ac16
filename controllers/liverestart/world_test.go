// Package liverestart_test restarts real workloads: the controllers of Kubernetes roll them out,
// and kubelets run their pods.
package liverestart_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
	"github.com/servingcert/operator/hack/cluster"
)

const (
	operatorNamespace = "servingcert"
	// timeout is how long a test waits for an expected state; nothing is measured by it.
	timeout = 4 * time.Minute
)

// env is the cluster that all tests share, with the operator in it.
var env struct {
	cluster *cluster.Cluster
	kube    client.Client
	manager manager
}

func TestMain(m *testing.M) { testoperator.Main(m, 20, run) }

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	crds, err := testoperator.Path("config", "crd", "bases")
	if err != nil {
		return 1, err
	}
	// Up to 250 pods run at once; a kubelet takes 110.
	env.cluster, err = cluster.Start(ctx, cluster.Options{Controllers: true, Nodes: 4, CRDs: []string{crds}})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, env.manager.stop(), env.cluster.Err(), env.cluster.Stop()) }()
	clientScheme := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(clientScheme), v1alpha1.AddToScheme(clientScheme)); err != nil {
		return 1, err
	}
	if env.kube, err = client.New(env.cluster.Config, client.Options{Scheme: clientScheme}); err != nil {
		return 1, err
	}
	err = errors.Join(
		testoperator.Install(ctx, env.kube, operatorNamespace),
		env.kube.Create(ctx, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default"}}),
		env.manager.start(),
	)
	if err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// manager is the operator, which may die and be started again.
type manager struct {
	mutex  sync.Mutex
	ends   func() error
	writes []string
	// mortal: the manager dies at its next write to a workload, before or after the API server has
	// processed it; dies is closed then.
	mortal bool
	dies   chan struct{}
	deaths int
}

func (m *manager) start() error {
	dies := make(chan struct{})
	m.mutex.Lock()
	m.dies = dies
	m.mutex.Unlock()
	stop, err := testoperator.Start(context.Background(), env.cluster, operatorNamespace, func(config *rest.Config, _ *ctrl.Options) {
		config.Wrap(func(next http.RoundTripper) http.RoundTripper { return counted{next, m, dies} })
	})
	m.ends = stop
	return err
}

func (m *manager) stop() error {
	if m.ends == nil {
		return nil
	}
	return m.ends()
}

// replace stops the manager and starts another, as an upgrade or the failure of a node would.
func (m *manager) replace(t *testing.T) {
	t.Helper()
	if err := errors.Join(m.stop(), m.start()); err != nil {
		t.Fatal(err)
	}
}

// setMortal sets whether the manager dies at its next write to a workload.
func (m *manager) setMortal(mortal bool) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.mortal = mortal
}

// succeed starts another manager if this one is dead.
func (m *manager) succeed(t *testing.T) {
	t.Helper()
	select {
	case <-m.dies:
		m.replace(t)
	default:
	}
}

// written returns the writes whose path has the suffix.
func (m *manager) written(suffix string) (names []string) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	for _, write := range m.writes {
		if strings.HasSuffix(write, suffix) {
			names = append(names, write)
		}
	}
	return names
}

// counted records every write.
type counted struct {
	http.RoundTripper
	*manager
	dead <-chan struct{}
}

func (c counted) RoundTrip(request *http.Request) (*http.Response, error) {
	switch c.note(request) {
	case lives:
	case dead:
		return nil, errDead
	case diesAfter:
		if response, err := c.RoundTripper.RoundTrip(request); err == nil {
			response.Body.Close()
		}
		return nil, errDead
	}
	return c.RoundTripper.RoundTrip(request)
}

var errDead = errors.New("the manager is dead")

// fate is what happens to a request.
type fate int

const (
	lives fate = iota
	dead
	diesAfter
)

// note records a write, and returns whether the manager survives it. Alternately, the manager dies
// before and after the API server has processed the write.
func (c counted) note(request *http.Request) fate {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	select {
	case <-c.dead:
		return dead
	default:
	}
	if request.Method == http.MethodGet {
		return lives
	}
	c.writes = append(c.writes, request.Method+" "+request.URL.Path)
	ofWorkload := strings.HasPrefix(request.URL.Path, "/apis/apps/") || strings.HasSuffix(request.URL.Path, "/eviction")
	if !c.mortal || !ofWorkload {
		return lives
	}
	close(c.dies)
	c.deaths++
	return dead + fate(c.deaths%2)
}

// realm is a namespace with its own policy, and one Service whose certificate its workloads read.
type realm struct {
	*testing.T
	name    string
	policy  *v1alpha1.ServingCertPolicy
	renewed int
}

// secretName is the name of the Secret of each realm's Service.
const secretName = "web-tls"

// newRealm creates a realm, named after the test and, if a test has several, after more.
func newRealm(t *testing.T, restart v1alpha1.Restart, more ...string) *realm {
	t.Helper()
	r := &realm{T: t, name: strings.ToLower(strings.Join(append([]string{t.Name()}, more...), "-"))}
	r.policy = &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: r.name}, Spec: v1alpha1.ServingCertPolicySpec{
		NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: r.name}}, Restart: restart,
	}}
	r.create(r.policy)
	r.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.name}})
	r.create(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "web", Annotations: map[string]string{v1alpha1.AnnotationSecretName: secretName}},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443, TargetPort: intstr.FromInt32(8443)}}},
	})
	return r
}

// rolling restarts up to that many workloads at once.
func rolling(atOnce int32) v1alpha1.Restart {
	return v1alpha1.Restart{Strategy: v1alpha1.RollingRestart, MaxConcurrent: atOnce}
}

// create creates an object and deletes it, including a policy, after the test. A new namespace has
// no ServiceAccount for a moment, and accepts no pod until then.
func (r *realm) create(object client.Object) {
	r.Helper()
	if err := env.kube.Create(r.Context(), object); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := client.IgnoreNotFound(env.kube.Delete(context.Background(), object)); err != nil {
			r.Error(err)
		}
	})
}

// edit changes an object, and retries on a conflict.
func edit[T client.Object](t *testing.T, object T, change func(T)) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		if err := env.kube.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		change(object)
		err := env.kube.Update(ctx, object)
		if err != nil && !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
		return err
	})
}

// renew renews the certificate, and returns when that is done.
func (r *realm) renew() {
	r.Helper()
	var before, after corev1.Secret
	key := client.ObjectKey{Namespace: r.name, Name: secretName}
	eventually(r.T, func(ctx context.Context) error {
		// Within a second of the creation, the write could pass for that of the first certificate.
		if err := env.kube.Get(ctx, key, &before); err != nil || time.Since(before.CreationTimestamp.Time) < 3*time.Second {
			return fmt.Errorf("the first certificate is fresh (%w)", err)
		}
		return nil
	})
	r.renewed++
	edit(r.T, r.policy, func(p *v1alpha1.ServingCertPolicy) {
		p.Spec.Certificate.ExtraDNSNames = []string{fmt.Sprintf("$(service).$(namespace).v%d.example.org", r.renewed)}
	})
	eventually(r.T, func(ctx context.Context) error {
		err := env.kube.Get(ctx, key, &after)
		if err == nil && bytes.Equal(after.Data[corev1.TLSCertKey], before.Data[corev1.TLSCertKey]) {
			return errors.New("the certificate is not renewed")
		}
		return err
	})
}

// expectMessage waits until the policy reports the expected status of its restarts.
func (r *realm) expectMessage(what string, check func(v1alpha1.RestartCounts, metav1.Condition) bool) {
	r.Helper()
	eventually(r.T, func(ctx context.Context) error {
		if err := env.kube.Get(ctx, client.ObjectKeyFromObject(r.policy), r.policy); err != nil {
			return err
		}
		status := r.policy.Status
		for _, condition := range status.Conditions {
			if condition.Type == v1alpha1.ConditionRestartHalted && status.Restarts != nil && check(*status.Restarts, condition) {
				return nil
			}
		}
		return fmt.Errorf("the policy does not say %s: %+v %+v", what, status.Restarts, status.Conditions)
	})
}

// done waits until no workload of the realm is outdated.
func (r *realm) done() {
	r.Helper()
	r.expectMessage("that all is current", func(counts v1alpha1.RestartCounts, condition metav1.Condition) bool {
		return counts.Pending+counts.InProgress+counts.Failed == 0 && counts.LastCompletedAt != nil && condition.Reason == "AllCurrent"
	})
}

// eventually waits until check returns no error.
func eventually(t *testing.T, check func(context.Context) error) {
	t.Helper()
	testoperator.Eventually(t, timeout, check)
}
