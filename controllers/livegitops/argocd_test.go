package livegitops_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/controllers/internal/testoperator"
)

// The patch of Argo CD's ConfigMap brings the health scripts as they are, by the command that docs/gitops.md has, and leaves the rest alone.
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
	patch, err := testoperator.Path("config", "argocd")
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, "patch", "configmap", "argocd-cm", "-n", "argocd", "--type=merge", "--patch-file="+file(t, []byte(kubectl(t, "kustomize", patch))))
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
