package liveinstall_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/servingcert/operator/controllers/internal/testoperator"
	"github.com/servingcert/operator/hack/cluster"
)

// An operator that starts before its CRDs and its RBAC objects reports what is missing, and becomes
// ready once both exist; it becomes unready when the CRDs are deleted. It is alive all the time.
func TestProbes(t *testing.T) {
	bare, err := cluster.Start(t.Context(), cluster.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bare.Stop() })
	kube, err := client.New(bare.Config, client.Options{Scheme: scheme.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	create := func(object client.Object) {
		t.Helper()
		if err := kube.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "early"}})
	create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "early", Namespace: "early"}})
	config, err := bare.ServiceAccount(t.Context(), "early", "early")
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	stop, err := testoperator.StartAs(t.Context(), config, "early", func(_ *rest.Config, options *ctrl.Options) {
		options.HealthProbeBindAddress = address
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	says := func(want ...string) {
		t.Helper()
		eventually(t, func(ctx context.Context) error { return probe(ctx, address, want...) })
	}
	says("[-]crds failed", "[-]caches failed")
	crds, err := testoperator.Path("config", "crd", "bases")
	if err != nil {
		t.Fatal(err)
	}
	options := envtest.CRDInstallOptions{Paths: []string{crds}, ErrorIfPathMissing: true}
	if _, err := envtest.InstallCRDs(bare.Config, options); err != nil {
		t.Fatal(err)
	}
	says("[+]crds ok", "[-]caches failed")
	create(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "early"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "early", Namespace: "early"}},
	})
	says("[+]crds ok", "[+]caches ok")
	if err := envtest.UninstallCRDs(bare.Config, options); err != nil {
		t.Fatal(err)
	}
	says("[-]crds failed")
}

// freeAddress returns an address of this machine on which no process listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// probe sends the kubelet's probes: it checks that the operator is alive, and what its readiness
// reports.
func probe(ctx context.Context, address string, want ...string) error {
	status, message, err := get(ctx, "http://"+address+"/healthz")
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("it is not alive: %d %s", status, message)
	}
	status, message, err = get(ctx, "http://"+address+"/readyz?verbose")
	if err != nil {
		return err
	}
	for _, want := range want {
		if !strings.Contains(message, want) {
			return fmt.Errorf("%q is not in %q", want, message)
		}
	}
	if ready := !strings.Contains(message, "[-]"); ready != (status == http.StatusOK) {
		return fmt.Errorf("status %d, and it says %q", status, message)
	}
	return nil
}

func get(ctx context.Context, url string) (status int, message string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}
