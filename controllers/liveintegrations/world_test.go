// Package liveintegrations_test distributes trust bundles and certificates by every integration of
// a real Kubernetes: its API server calls webhooks, its kubelets mount pod certificates.
package liveintegrations_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
	"github.com/servingcert/operator/hack/cluster"
)

const (
	operatorNamespace = "servingcert"
	// timeout is how long a test waits for an expected state; it measures nothing.
	timeout = 4 * time.Minute
)

// env is the cluster that all tests share, and the operator in it. cert-manager is installed later.
var env struct {
	cluster *cluster.Cluster
	kube    client.Client
}

func TestMain(m *testing.M) { testoperator.Main(m, 20, run) }

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	crds, err := testoperator.Path("config", "crd", "bases")
	if err != nil {
		return 1, err
	}
	env.cluster, err = cluster.Start(ctx, cluster.Options{Controllers: true, Nodes: 1, HurriedNodes: true, CRDs: []string{crds}})
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, env.cluster.Err(), env.cluster.Stop()) }()
	clientScheme := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(clientScheme), cmapi.AddToScheme(clientScheme), apiextensionsv1.AddToScheme(clientScheme), v1alpha1.AddToScheme(clientScheme)); err != nil {
		return 1, err
	}
	if env.kube, err = client.New(env.cluster.Config, client.Options{Scheme: clientScheme}); err != nil {
		return 1, err
	}
	err = errors.Join(
		testoperator.Install(ctx, env.kube, operatorNamespace),
		testoperator.Allow(ctx, env.kube, operatorNamespace, "cert-manager"),
	)
	if err != nil {
		return 1, err
	}
	stop, err := testoperator.Start(ctx, env.cluster, operatorNamespace)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	return m.Run(), nil
}

// eventually waits until check returns an empty string; what check returned last is the failure
// message.
func eventually(t *testing.T, check func(context.Context) string) {
	t.Helper()
	testoperator.Eventually(t, timeout, testoperator.AsError(check))
}

// create creates an object, and retries while its namespace has no ServiceAccount yet; the object
// is deleted when the test ends.
func create[T client.Object](t *testing.T, object T) T {
	t.Helper()
	eventually(t, func(ctx context.Context) string {
		err := env.kube.Create(ctx, object)
		if err != nil && !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		if err != nil {
			return err.Error()
		}
		return ""
	})
	t.Cleanup(func() {
		if err := client.IgnoreNotFound(env.kube.Delete(context.Background(), object)); err != nil {
			t.Error(err)
		}
	})
	return object
}

// get reads an object until check accepts it by returning an empty string.
func get[T client.Object](t *testing.T, object T, check func(T) string) T {
	t.Helper()
	eventually(t, func(ctx context.Context) string {
		if err := env.kube.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err.Error()
		}
		return check(object)
	})
	return object
}

// update changes an object, and retries after a conflict.
func update[T client.Object](t *testing.T, object T, change func(T)) T {
	t.Helper()
	return get(t, object, func(object T) string {
		change(object)
		err := env.kube.Update(t.Context(), object)
		if err != nil && !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
		if err != nil {
			return err.Error()
		}
		return ""
	})
}

// realm is a namespace for one test, with a ServiceCA and a policy of the same name that select
// only this namespace.
type realm struct {
	*testing.T
	name string
}

func newRealm(t *testing.T, adjust ...func(*v1alpha1.ServiceCA, *v1alpha1.ServingCertPolicy)) realm {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	ca := &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: name}}
	ca.Spec.Rotation.Propagation.Minimum = "5s"
	policy := &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
	policy.Spec.ServiceCAName = name
	policy.Spec.NamespaceSelector.MatchLabels = map[string]string{corev1.LabelMetadataName: name}
	for _, a := range adjust {
		a(ca, policy)
	}
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	create(t, policy)
	create(t, ca)
	r := realm{t, name}
	r.ready()
	return r
}

// ready waits until the CA signs.
func (r realm) ready() *v1alpha1.ServiceCA {
	r.Helper()
	return r.serviceCA(func(ca *v1alpha1.ServiceCA) string {
		if ca.Status.Active == nil || ca.Status.TrustBundle == nil {
			return fmt.Sprintf("ServiceCA %s is not ready: %+v", ca.Name, ca.Status.Conditions)
		}
		return ""
	})
}

func (r realm) serviceCA(check func(*v1alpha1.ServiceCA) string) *v1alpha1.ServiceCA {
	r.Helper()
	return get(r.T, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: r.name}}, check)
}

// bundle returns what the ServiceCA publishes.
func (r realm) bundle() string {
	r.Helper()
	published := get(r.T, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: r.name + "-trust-bundle"}},
		func(*corev1.ConfigMap) string { return "" })
	return published.Data["ca-bundle.crt"]
}

// rotate starts a rotation.
func (r realm) rotate(trigger string) {
	r.Helper()
	update(r.T, &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: r.name}}, func(ca *v1alpha1.ServiceCA) {
		ca.Spec.Rotation.Trigger = trigger
	})
}

// service creates a Service of the realm that selects pods by its name.
func (r realm) service(name string) *corev1.Service {
	r.Helper()
	return create(r.T, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: name},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 443}}},
	})
}
