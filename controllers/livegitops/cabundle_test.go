package livegitops_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
)

// committed is a webhook configuration whose manifest has a caBundle, and the ServiceCA whose
// bundle it asks for.
type committed struct {
	*testing.T
	name     string
	manifest *unstructured.Unstructured
	apply    func(*testing.T, []*unstructured.Unstructured) []string
}

func newCommitted(t *testing.T) *committed {
	t.Helper()
	c := &committed{T: t, name: strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")), apply: argoServerSide.apply}
	ca := &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: c.name}}
	ca.Spec.Rotation.Propagation.Minimum = "5s"
	if err := env.kube.Create(t.Context(), ca); err != nil {
		t.Fatal(err)
	}
	remove(t, ca)
	c.manifest = decode(t, strings.ReplaceAll(string(read(t, "controllers", "livegitops", "testdata", "withoutcabundle", "webhook.yaml")), "REALM", c.name))
	remove(t, c.manifest)
	c.sync(c.manifest)
	c.filled()
	return c
}

func (c *committed) sync(manifest *unstructured.Unstructured) (changed bool) {
	c.Helper()
	return len(c.apply(c.T, []*unstructured.Unstructured{manifest})) > 0
}

func (c *committed) live() *admissionregistrationv1.ValidatingWebhookConfiguration {
	c.Helper()
	return get(c.T, "", c.name, &admissionregistrationv1.ValidatingWebhookConfiguration{})
}

// filled waits until the webhook has the bundle that its ServiceCA publishes, owned by no field
// manager.
func (c *committed) filled() {
	c.Helper()
	eventually(c.T, func(context.Context) string {
		ca := get(c.T, "", c.name, &v1alpha1.ServiceCA{})
		if ca.Status.TrustBundle == nil {
			return "the ServiceCA is not ready"
		}
		bundle := get(c.T, operatorNamespace, c.name+"-trust-bundle", &corev1.ConfigMap{}).Data["ca-bundle.crt"]
		if live := c.live(); string(live.Webhooks[0].ClientConfig.CABundle) != bundle || len(owners(live)) > 0 {
			return fmt.Sprintf("the caBundle is %q of %v", live.Webhooks[0].ClientConfig.CABundle, owners(live))
		}
		return ""
	})
}

// owners returns the field managers that own a caBundle.
func owners(live *admissionregistrationv1.ValidatingWebhookConfiguration) (managers []string) {
	for _, entry := range live.ManagedFields {
		if strings.Contains(string(entry.FieldsV1.GetRawBytes()), "f:caBundle") {
			managers = append(managers, entry.Manager)
		}
	}
	return managers
}

// A committed caBundle comes back with each sync, and the operator restores its own.
func TestCommittedCABundleConflicts(t *testing.T) {
	t.Parallel()
	c := newCommitted(t)
	if !c.sync(c.manifest) {
		t.Fatal("a caBundle that is committed changes nothing")
	}
	c.filled()
}

// A committed empty caBundle comes back with each sync too, however it is applied.
func TestCommittedEmptyCABundle(t *testing.T) {
	t.Parallel()
	for _, by := range []applier{flux, argoCD, argoServerSide} {
		t.Run(strings.ReplaceAll(by.name, "-", ""), func(t *testing.T) {
			t.Parallel()
			c := newCommitted(t)
			c.setCABundle("")
			c.apply = by.apply
			c.sync(c.manifest)
			c.filled()
			if !c.sync(c.manifest) {
				t.Error("an empty caBundle that is committed changes nothing")
			}
			c.filled()
		})
	}
}

// setCABundle changes the committed caBundle.
func (c *committed) setCABundle(value string) {
	c.Helper()
	webhooks, _, _ := unstructured.NestedSlice(c.manifest.Object, "webhooks")
	webhooks[0].(map[string]any)["clientConfig"].(map[string]any)["caBundle"] = value
	c.manifest.Object["webhooks"] = webhooks
}

// Argo CD with `ignoreDifferences` and `RespectIgnoreDifferences=true` applies for each ignored
// field its live value. It then owns the caBundle; the operator still writes the next bundle, and
// nothing else changes the generation. An exception for the fields of the operator's manager would
// match nothing: no field manager owns a caBundle that the operator wrote.
func TestIgnoredCABundle(t *testing.T) {
	t.Parallel()
	c := newCommitted(t)
	respected := func() *unstructured.Unstructured {
		manifest := c.manifest.DeepCopy()
		webhooks, _, _ := unstructured.NestedSlice(manifest.Object, "webhooks")
		webhooks[0].(map[string]any)["clientConfig"].(map[string]any)["caBundle"] = base64.StdEncoding.EncodeToString(c.live().Webhooks[0].ClientConfig.CABundle)
		manifest.Object["webhooks"] = webhooks
		return manifest
	}
	generation := c.live().Generation
	c.sync(respected())
	if c.sync(respected()) {
		t.Error("to apply what is there changed it")
	}
	live := c.live()
	if live.Generation != generation || !slices.Equal(owners(live), []string{"argocd-controller"}) {
		t.Errorf("the generation went from %d to %d, and the caBundle is of %v", generation, live.Generation, owners(live))
	}
	before := live.Webhooks[0].ClientConfig.CABundle
	ca := get(t, "", c.name, &v1alpha1.ServiceCA{})
	patch := ca.DeepCopy()
	patch.Spec.Rotation.Trigger = "now"
	if err := env.kube.Patch(t.Context(), patch, client.MergeFrom(ca)); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(context.Context) string {
		if roots := get(t, "", c.name, &v1alpha1.ServiceCA{}).Status.TrustBundle.Certificates; roots != 2 {
			return fmt.Sprintf("the bundle has %d roots", roots)
		}
		return ""
	})
	c.filled()
	if live := c.live(); slices.Equal(before, live.Webhooks[0].ClientConfig.CABundle) || live.Generation != generation+1 {
		t.Errorf("a new bundle took the generation from %d to %d", generation, live.Generation)
	}
	c.sync(respected())
	if live := c.live(); live.Generation != generation+1 {
		t.Errorf("to apply what is there made it generation %d", live.Generation)
	}
}

// A patch removes the field before anything is applied, for every tool that runs kustomize. It is
// the patch in docs/gitops.md.
func TestPatchedOutCABundle(t *testing.T) {
	t.Parallel()
	c := newCommitted(t)
	_, patch, _ := strings.Cut(string(read(t, "controllers", "livegitops", "testdata", "withoutcabundle", "kustomization.yaml")), "\npatches:\n")
	if patch == "" || !strings.Contains(string(read(t, "docs", "gitops.md")), "\npatches:\n"+patch) {
		t.Errorf("docs/gitops.md has another patch than\n%s", patch)
	}
	folder, err := testoperator.Path("controllers", "livegitops", "testdata", "withoutcabundle")
	if err != nil {
		t.Fatal(err)
	}
	patched := decode(t, strings.ReplaceAll(kubectl(t, "kustomize", folder), "REALM", c.name))
	c.sync(patched) // gives up what the unpatched manifest owned
	c.filled()
	for range 3 {
		if c.sync(patched) {
			t.Fatal("to apply what is there changed it")
		}
	}
}
