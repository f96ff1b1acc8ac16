package livegitops_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/controllers/internal/testoperator"
)

// patchArgoCD is the command in docs/gitops.md.
const patchArgoCD = "kubectl kustomize config/argocd | kubectl patch configmap argocd-cm -n argocd --type=merge --patch-file=/dev/stdin"

// The patch of Argo CD's ConfigMap adds the health scripts unchanged, and leaves the rest alone.
func TestArgoCDPatch(t *testing.T) {
	t.Parallel()
	kubectl(t, "create", "namespace", "argocd")
	kubectl(t, "apply", "-f", file(t, []byte(`
apiVersion: v1
kind: ConfigMap
metadata:
  namespace: argocd
  name: argocd-cm
  labels: {app.kubernetes.io/name: argocd-cm, app.kubernetes.io/part-of: argocd}
data: {url: https://argocd.example.org}
`)))
	documented := string(read(t, "docs", "gitops.md"))
	if !strings.Contains(documented, "\n"+patchArgoCD+"\n") {
		t.Fatalf("docs/gitops.md does not say %q", patchArgoCD)
	}
	shell(t, patchArgoCD)
	health := func(kind string) string {
		return string(read(t, "config", "argocd", "resource_customizations", "servingcert.dev", kind, "health.lua"))
	}
	want := map[string]string{
		"url": "https://argocd.example.org",
		"resource.customizations.health.servingcert.dev_ServiceCA":         health("ServiceCA"),
		"resource.customizations.health.servingcert.dev_ServingCertPolicy": health("ServingCertPolicy"),
	}
	if diff := cmp.Diff(want, get(t, "argocd", "argocd-cm", &corev1.ConfigMap{}).Data); diff != "" {
		t.Errorf("the ConfigMap is another (- want, + is):\n%s", diff)
	}
}

// shell runs a command as an administrator would, in the folder of the repository.
func shell(t *testing.T, line string) {
	t.Helper()
	root, err := testoperator.Path()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", line)
	command.Dir = root
	command.Env = append(os.Environ(), "KUBECONFIG="+env.cluster.Kubeconfig, "PATH="+filepath.Join(root, "bin", "k8s")+":"+os.Getenv("PATH"))
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, output)
	}
}
