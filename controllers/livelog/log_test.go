// Package livelog_test checks everything that the manager prints.
package livelog_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
	"github.com/servingcert/operator/hack/cluster"
)

// timeout is how long the test waits for an expected state; it measures nothing.
const timeout = 4 * time.Minute

// password stands for what users keep in Secrets besides keys.
const password = "correct-horse-battery-staple"

func TestMain(m *testing.M) {
	testoperator.Main(m, 0, func(m *testing.M) (int, error) { return m.Run(), nil })
}

// The manager logs no part of a private key and no other content of a Secret, at any level,
// although client-go logs the bodies of all requests and responses: while it issues a certificate,
// keeps its key, writes a keystore, injects a bundle into a Secret and rotates the CA.
func TestNoLevelLogsSecrets(t *testing.T) {
	crds, err := testoperator.Path("config", "crd", "bases")
	if err != nil {
		t.Fatal(err)
	}
	running, err := cluster.Start(t.Context(), cluster.Options{CRDs: []string{crds}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = running.Stop() })
	kube, err := testoperator.Client(running)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects() {
		if err := kube.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	log := startManager(t, running.Kubeconfig)
	private := map[string]string{"a password": password}
	first := certificate(t, kube, private, nil)
	trigger := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"rotation":{"trigger":"now"}}}`))
	if err := kube.Patch(t.Context(), &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, trigger); err != nil {
		t.Fatal(err)
	}
	certificate(t, kube, private, first)

	printed, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if len(private) < 4 || !bytes.Contains(printed, []byte(`"level":"Level(-`)) {
		t.Fatalf("%d private values are looked for, in a log of %d bytes: want the password, the keys of two CAs and of a Service, and "+
			"more than debug messages", len(private), len(printed))
	}
	for name, value := range private {
		encoded := base64.StdEncoding.EncodeToString([]byte(value))
		if shown := anyPart(string(printed), value, encoded); shown != "" {
			t.Errorf("the log shows %s: %.400s", name, shown)
		}
	}
}

// objects returns a ServiceCA that rotates quickly, a Service with a keystore, and a Secret that
// asks for the bundle.
func objects() []client.Object {
	in := func(namespace, name string, annotations ...string) metav1.ObjectMeta {
		meta := metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{}}
		for i := 0; i < len(annotations); i += 2 {
			meta.Annotations[annotations[i]] = annotations[i+1]
		}
		return meta
	}
	passwords := &corev1.Secret{ObjectMeta: in("shop", "passwords"), Data: map[string][]byte{"password": []byte(password)}}
	passwords.Labels = map[string]string{"servingcert.dev/keystore-password": ""}
	return []client.Object{
		&corev1.Namespace{ObjectMeta: in("", "servingcert-system")},
		&corev1.Namespace{ObjectMeta: in("", "shop")},
		passwords,
		&corev1.Secret{ObjectMeta: in("shop", "trust", v1alpha1.AnnotationInjectCABundle, "default"), Data: passwords.Data},
		&v1alpha1.ServiceCA{ObjectMeta: in("", "default"), Spec: v1alpha1.ServiceCASpec{
			Rotation: v1alpha1.CARotation{Propagation: v1alpha1.Propagation{Minimum: "1s"}},
		}},
		&v1alpha1.ServingCertPolicy{ObjectMeta: in("", "default"), Spec: v1alpha1.ServingCertPolicySpec{
			Certificate: v1alpha1.ServingCertificate{PrivateKey: v1alpha1.ServingPrivateKey{RotationPolicy: v1alpha1.RotateNever}},
		}},
		&corev1.Service{
			ObjectMeta: in("shop", "web", v1alpha1.AnnotationSecretName, "web-tls", v1alpha1.AnnotationKeystore, "pkcs12",
				v1alpha1.AnnotationKeystorePassword, "passwords"),
			Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}},
		},
	}
}

// startManager runs the manager, and returns the path of the file with everything that it prints.
func startManager(t *testing.T, kubeconfig string) string {
	t.Helper()
	folder := t.TempDir()
	binary, printed := filepath.Join(folder, "manager"), filepath.Join(folder, "log")
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/servingcert/operator").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	file, err := os.Create(printed)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	// In development mode, whole objects are logged where otherwise only their names are.
	manager := exec.CommandContext(ctx, binary, "--kubeconfig="+kubeconfig, "--zap-log-level=127", "--zap-devel", "--zap-encoder=json",
		"--health-probe-bind-address=0")
	manager.Stdout, manager.Stderr = file, file
	if err := manager.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = manager.Wait()
		file.Close()
	})
	return printed
}

// certificate waits until the Service has another certificate than before, with its keystore, and
// the Secret has the bundle. It collects all private keys that it reads meanwhile.
func certificate(t *testing.T, kube client.Client, private map[string]string, before []byte) (found []byte) {
	t.Helper()
	testoperator.Eventually(t, timeout, testoperator.AsError(func(ctx context.Context) string {
		var secrets corev1.SecretList
		if err := kube.List(ctx, &secrets); err != nil {
			return err.Error()
		}
		seen := map[string][]byte{}
		for i := range secrets.Items {
			for key, value := range secrets.Items[i].Data {
				seen[secrets.Items[i].Name+"/"+key] = value
			}
		}
		maps.Copy(private, keys(seen))
		found = seen["web-tls/tls.crt"]
		if found == nil || bytes.Equal(found, before) || seen["web-tls/keystore.p12"] == nil || seen["trust/service-ca.crt"] == nil {
			return fmt.Sprintf("of all that the manager makes there is %v", seen)
		}
		return ""
	}))
	return found
}

// keys returns the private keys in data, by their key in data and their hash.
func keys(data map[string][]byte) map[string]string {
	values := map[string]string{}
	for name, value := range data {
		if block, _ := pem.Decode(value); block != nil && strings.Contains(block.Type, "PRIVATE KEY") {
			values[fmt.Sprintf("%s %x", name, sha256.Sum256(value))] = string(value)
		}
	}
	return values
}

// anyPart returns the line of a log that contains 16 consecutive characters of a line of these
// texts, as a hexadecimal dump would, and an empty string if none does.
func anyPart(log string, texts ...string) string {
	const window = 16
	for line := range strings.SplitSeq(strings.Join(texts, "\n"), "\n") {
		for from := 0; from+window <= len(line) && !strings.HasPrefix(line, "-----"); from++ {
			if index := strings.Index(log, line[from:from+window]); index >= 0 {
				begin := strings.LastIndexByte(log[:index], '\n') + 1
				end, _, _ := strings.Cut(log[begin:], "\n")
				return end
			}
		}
	}
	return ""
}
