package livemetrics_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
)

// The operator serves its metrics with its own certificate, only to clients that may read them, and
// they contain nothing secret.
func TestMetrics(t *testing.T) {
	mounted := pods(t)
	first := start(t, &mounted[0])
	other, prometheus := serviceAccount(t, "stranger"), serviceAccount(t, "prometheus")
	bind(t, "prometheus")
	var shown answer
	eventually(t, func(context.Context) string {
		shown = first.get(t, prometheus)
		return shown.lacks(`servingcert_policy_services{policy="default",state="issued"} 1`)
	})
	t.Run("its probes succeed", func(t *testing.T) { probed(t, first) })
	t.Run("they are what the statuses say", func(t *testing.T) { check(t, shown) })
	t.Run("nobody else reads them", func(t *testing.T) {
		for name, tc := range map[string]struct {
			token string
			want  int
		}{
			"without a token": {"", http.StatusUnauthorized}, "without the right": {other, http.StatusForbidden},
			"with a wrong token": {"none", http.StatusUnauthorized},
		} {
			if got := first.get(t, tc.token); got.code != tc.want || strings.Contains(got.text, "servingcert_") {
				t.Errorf("%s: %d, want %d: %s", name, got.code, tc.want, got.text)
			}
		}
	})
	keys := privateKeys(t)
	t.Run("a new certificate is served at once", func(t *testing.T) { renewed(t, first, prometheus, shown.serial) })
	second := start(t, &mounted[1])
	t.Run("one that waits shows no statuses", func(t *testing.T) { waits(t, second, prometheus) })
	t.Run("the probes of one that waits succeed", func(t *testing.T) { probed(t, second) })
	t.Run("no private key is told", func(t *testing.T) {
		reported(t, append(keys, privateKeys(t)...), map[string]string{"metrics": first.get(t, prometheus).text, "log": read(t, first.log), "events": events(t)})
	})
}

// bind lets a ServiceAccount read the metrics, as docs/metrics.md describes.
func bind(t *testing.T, name string) {
	t.Helper()
	binding := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": map[string]any{"name": "metrics"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "servingcert-metrics-reader"},
		"subjects": []any{map[string]any{"kind": "ServiceAccount", "namespace": name, "name": name}},
	}}
	if err := env.kube.Create(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
}

// answer is the result of a scrape.
type answer struct {
	code         int
	text, serial string
	err          error
}

// lacks returns which of these lines a scrape does not have, and an empty string if it has all.
func (a answer) lacks(lines ...string) string {
	if a.err != nil {
		return a.err.Error()
	}
	for _, line := range lines {
		if !strings.Contains(a.text, line+"\n") {
			return fmt.Sprintf("%d: there is no %s in\n%s", a.code, line, a.text)
		}
	}
	return ""
}

// get scrapes a replica over a new connection, as the ServiceMonitor specifies: with that server
// name, and trusting the bundle in that ConfigMap.
func (r replica) get(t *testing.T, token string) answer {
	t.Helper()
	config, err := trusting(t.Context())
	if err != nil {
		return answer{err: err}
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+r.address+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return answer{err: err}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, string(text), response.TLS.PeerCertificates[0].SerialNumber.String(), err}
}

// trusting returns the TLS configuration by which the ServiceMonitor makes Prometheus verify.
func trusting(ctx context.Context) (*tls.Config, error) {
	endpoints, _, err := unstructured.NestedSlice(env.monitor.Object, "spec", "endpoints")
	if err != nil {
		return nil, err
	}
	config := endpoints[0].(map[string]any)["tlsConfig"].(map[string]any)
	from := config["ca"].(map[string]any)["configMap"].(map[string]any)
	var bundle corev1.ConfigMap
	if err := env.kube.Get(ctx, client.ObjectKey{Namespace: env.monitor.GetNamespace(), Name: from["name"].(string)}, &bundle); err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(bundle.Data[from["key"].(string)])) {
		return nil, fmt.Errorf("ConfigMap %s has no bundle yet", bundle.Name)
	}
	return &tls.Config{ServerName: config["serverName"].(string), RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

// check compares the metrics with the statuses.
func check(t *testing.T, shown answer) {
	t.Helper()
	var ca v1alpha1.ServiceCA
	var policy v1alpha1.ServingCertPolicy
	for _, object := range []client.Object{&ca, &policy} {
		if err := env.kube.Get(t.Context(), client.ObjectKey{Name: "default"}, object); err != nil {
			t.Fatal(err)
		}
	}
	problem := shown.lacks(
		fmt.Sprintf(`servingcert_serviceca_not_after_timestamp_seconds{serviceca="default"} %g`, float64(ca.Status.Active.NotAfter.Unix())),
		fmt.Sprintf(`servingcert_policy_earliest_expiry_timestamp_seconds{policy="default"} %g`, float64(policy.Status.EarliestExpiry.Unix())),
		`servingcert_serviceca_phase{phase="Stable",serviceca="default"} 1`,
		`servingcert_serviceca_condition{condition="Ready",serviceca="default"} 1`,
		`servingcert_policy_services{policy="default",state="failed"} 0`,
		`servingcert_certificates_signed_total{controller="servingcert",policy="default",reason="Issued"} 1`,
		`servingcert_signing_duration_seconds_count{controller="servingcert"} 1`,
		`leader_election_master_status{name="servingcert-operator"} 1`,
	)
	if problem != "" {
		t.Error(problem)
	}
	// The metrics of controller-runtime that docs/metrics.md names, and with it the dashboard and
	// the alerts.
	path, err := testoperator.Path("docs", "metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile("`((?:controller_runtime|leader_election|rest_client|workqueue)_\\w+)`").FindAllStringSubmatch(read(t, path), -1) {
		if !strings.Contains(shown.text, "# TYPE "+name[1]+" ") {
			t.Errorf("docs/metrics.md names %s, which is none", name[1])
		}
	}
}

// renewed deletes the certificate, and expects another one.
func renewed(t *testing.T, first replica, token, before string) {
	t.Helper()
	if err := env.kube.Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: operatorNamespace, Name: "servingcert-metrics-tls"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(context.Context) string {
		shown := first.get(t, token)
		if shown.err == nil && shown.serial == before {
			return "the certificate before is served"
		}
		return shown.lacks(`servingcert_certificates_signed_total{controller="servingcert",policy="default",reason="Issued"} 2`)
	})
}

// waits expects that a replica that is not the leader says so, and exposes nothing of the statuses.
func waits(t *testing.T, second replica, token string) {
	t.Helper()
	eventually(t, func(context.Context) string {
		shown := second.get(t, token)
		if strings.Contains(shown.text, "servingcert_serviceca_") {
			t.Error("it shows ServiceCAs")
		}
		return shown.lacks(`leader_election_master_status{name="servingcert-operator"} 0`)
	})
}

// probed probes a replica as the kubelet does by the probes of the Deployment, which name the port
// in the manager's arguments.
func probed(t *testing.T, r replica) {
	t.Helper()
	for name, probe := range map[string]*corev1.Probe{"liveness": env.container.LivenessProbe, "readiness": env.container.ReadinessProbe} {
		port := slices.IndexFunc(env.container.Ports, func(p corev1.ContainerPort) bool { return p.Name == probe.HTTPGet.Port.StrVal })
		if port < 0 {
			t.Fatalf("%s: the container has no port %s", name, probe.HTTPGet.Port.String())
		}
		reported := fmt.Sprintf("--health-probe-bind-address=:%d", env.container.Ports[port].ContainerPort)
		if !slices.Contains(env.container.Args, reported) {
			t.Errorf("%s: the manager is not told %s, but %v", name, reported, env.container.Args)
		}
		eventually(t, func(ctx context.Context) string {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.probes+probe.HTTPGet.Path, http.NoBody)
			if err != nil {
				return err.Error()
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				return err.Error()
			}
			defer response.Body.Close()
			if response.StatusCode != http.StatusOK {
				return fmt.Sprintf("%s: %s", name, response.Status)
			}
			return ""
		})
	}
}

// privateKeys returns the private keys in all Secrets.
func privateKeys(t *testing.T) []string {
	t.Helper()
	var secrets corev1.SecretList
	if err := env.kube.List(t.Context(), &secrets); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, secret := range secrets.Items {
		for name, value := range secret.Data {
			if strings.HasSuffix(name, ".key") {
				keys = append(keys, string(value))
			}
		}
	}
	return keys
}

// reported expects that no text contains a line of a private key, or the beginning of one.
func reported(t *testing.T, keys []string, where map[string]string) {
	t.Helper()
	if len(keys) < 4 {
		t.Errorf("there are %d keys: two Secrets have one each, and the certificate had another", len(keys))
	}
	for name, text := range where {
		if text == "" {
			t.Errorf("there are no %s to look at", name)
		}
		for _, key := range append(keys, "PRIVATE KEY") {
			for line := range strings.Lines(key) {
				if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-----") && strings.Contains(text, line) {
					t.Errorf("%s tell of a private key", name)
				}
			}
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// events returns the text of all Events.
func events(t *testing.T) string {
	t.Helper()
	var list eventsv1.EventList
	if err := env.kube.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for i := range list.Items {
		fmt.Fprintf(&text, "%+v\n", list.Items[i])
	}
	return text.String()
}
