package livegitops_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/testoperator"
	"github.com/servingcert/operator/hack/gitops"
)

// applier is a tool that applies what is committed.
type applier struct {
	name string
	// mark adds to an object what the tool adds to recognize the objects that it manages.
	mark func(*unstructured.Unstructured)
	// apply applies objects, and returns those that it changed.
	apply func(*testing.T, []*unstructured.Unstructured) (changed []string)
}

// The appliers. Flux applies in one way, and Argo CD in two: with `ServerSideApply=true`, and by
// default like kubectl.
var (
	flux = applier{"flux", func(object *unstructured.Unstructured) {
		object.SetLabels(with(object.GetLabels(), "kustomize.toolkit.fluxcd.io/name", "shop"))
	}, serverSide("kustomize-controller")}
	argoCD         = applier{"argocd", track, clientSide("argocd-controller")}
	argoServerSide = applier{"argocd-server-side", track, serverSide("argocd-controller")}
)

const trackingID = "argocd.argoproj.io/tracking-id"

func track(object *unstructured.Unstructured) {
	object.SetAnnotations(with(object.GetAnnotations(), trackingID, "shop:"+object.GetKind()+":"+object.GetName()))
}

func with(before map[string]string, key, value string) map[string]string {
	if before == nil {
		before = map[string]string{}
	}
	before[key] = value
	return before
}

// serverSide returns a function that applies with force, and returns the objects for which the API
// server wrote anything. Each object is applied to the version that was read, so that a write of
// another client is not taken for a change by the apply.
func serverSide(manager client.FieldOwner) func(*testing.T, []*unstructured.Unstructured) []string {
	return func(t *testing.T, objects []*unstructured.Unstructured) (changed []string) {
		t.Helper()
		for _, object := range objects {
			eventually(t, func(ctx context.Context) string {
				live, applied := object.DeepCopy(), object.DeepCopy()
				if err := env.kube.Get(ctx, client.ObjectKeyFromObject(object), live); client.IgnoreNotFound(err) != nil {
					return err.Error()
				}
				applied.SetResourceVersion(live.GetResourceVersion())
				err := env.kube.Apply(ctx, client.ApplyConfigurationFromUnstructured(applied), manager, client.ForceOwnership)
				if err != nil && !apierrors.IsConflict(err) {
					t.Fatal(err)
				}
				if err != nil {
					return err.Error()
				}
				if applied.GetResourceVersion() != live.GetResourceVersion() {
					if live.GetResourceVersion() != "" {
						t.Log(cmp.Diff(live, applied))
					}
					changed = append(changed, fmt.Sprintf("%s/%s", object.GetKind(), object.GetName()))
				}
				return ""
			})
		}
		return changed
	}
}

// clientSide returns a function that runs `kubectl apply`, which reports what its patch would have
// changed.
func clientSide(manager string) func(*testing.T, []*unstructured.Unstructured) []string {
	return func(t *testing.T, objects []*unstructured.Unstructured) (changed []string) {
		t.Helper()
		printed := kubectl(t, "apply", "--field-manager="+manager, "-f", file(t, encode(t, objects)))
		lines := strings.Split(strings.TrimSpace(printed), "\n")
		if len(lines) != len(objects) {
			t.Fatalf("of %d objects kubectl says\n%s", len(objects), printed)
		}
		for i, line := range lines {
			if !strings.HasSuffix(line, " unchanged") {
				changed = append(changed, fmt.Sprintf("%s/%s", objects[i].GetKind(), objects[i].GetName()))
			}
		}
		return changed
	}
}

func encode(t *testing.T, objects []*unstructured.Unstructured) []byte {
	t.Helper()
	var encoded bytes.Buffer
	for _, object := range objects {
		document, err := object.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		encoded.WriteString("---\n")
		encoded.Write(document)
	}
	return encoded.Bytes()
}

// repository is what is committed for a realm, and the tool that applies it.
type repository struct {
	*testing.T
	applier

	realm   string
	objects []*unstructured.Unstructured
	// wasHealthy is set once all committed objects are healthy: they must stay so.
	wasHealthy bool
}

// newRepository returns a repository with manifests of this project, under the names of a realm.
func newRepository(t *testing.T, by applier, realm string, manifests ...[]string) *repository {
	t.Helper()
	r := &repository{T: t, applier: by, realm: realm}
	for _, path := range manifests {
		r.add(path...)
	}
	for _, object := range r.objects {
		r.adopt(object)
		by.mark(object)
		remove(t, object)
	}
	if created := r.apply(t, r.objects); len(created) != len(r.objects) {
		t.Fatalf("only %v were created", created)
	}
	return r
}

// add adds the manifests of a folder, or of a file.
func (r *repository) add(elements ...string) {
	r.Helper()
	path, err := testoperator.Path(elements...)
	if err != nil {
		r.Fatal(err)
	}
	objects, err := testoperator.Manifests(path)
	if err != nil {
		r.Fatal(err)
	}
	r.objects = append(r.objects, objects...)
}

// adopt changes an object as the realm's overlay would: it sets the realm's names, and a rotation
// short enough for a test.
func (r *repository) adopt(object *unstructured.Unstructured) {
	r.Helper()
	encoded, err := object.MarshalJSON()
	if err != nil {
		r.Fatal(err)
	}
	if err := object.UnmarshalJSON(bytes.ReplaceAll(encoded, []byte("REALM"), []byte(r.realm))); err != nil {
		r.Fatal(err)
	}
	switch object.GetKind() {
	case "ServiceCA":
		object.SetName(r.realm)
		r.set(object, "5s", "spec", "rotation", "propagation", "minimum")
	case "ServingCertPolicy":
		object.SetName(r.realm + "-" + object.GetName())
		r.set(object, r.realm, "spec", "serviceCAName")
		r.set(object, r.realm, "spec", "namespaceSelector", "matchLabels", corev1.LabelMetadataName)
	}
}

func (r *repository) set(object *unstructured.Unstructured, value string, path ...string) {
	r.Helper()
	if err := unstructured.SetNestedField(object.Object, value, path...); err != nil {
		r.Fatal(err)
	}
}

// commit changes the ServiceCA's rotation in Git, and applies it: nothing else may change.
func (r *repository) commit(rotation map[string]string) {
	r.Helper()
	i := slices.IndexFunc(r.objects, func(object *unstructured.Unstructured) bool { return object.GetKind() == "ServiceCA" })
	for key, value := range rotation {
		r.set(r.objects[i], value, "spec", "rotation", key)
	}
	if changed := r.apply(r.T, r.objects); !slices.Equal(changed, []string{"ServiceCA/" + r.realm}) {
		r.Errorf("a commit that concerns the ServiceCA changed %v", changed)
	}
}

// until applies what is committed repeatedly, until check returns an empty string. Applying must
// never change anything, and must not block a sync that waits for health.
func (r *repository) until(check func(context.Context) string) {
	r.Helper()
	eventually(r.T, func(ctx context.Context) string {
		r.changesNothing()
		if problem := r.unhealthy(); problem != "" && r.wasHealthy {
			r.Fatal(problem)
		}
		return check(ctx)
	})
	r.wasHealthy = true
}

// unhealthy returns which object is not healthy after the operator has observed it, and an empty
// string if all are.
func (r *repository) unhealthy() string {
	r.Helper()
	for _, object := range r.objects {
		if object.GroupVersionKind().Group != v1alpha1.GroupName {
			continue
		}
		live := get(r.T, "", object.GetName(), object.DeepCopy())
		script := read(r.T, "config", "argocd", "resource_customizations", v1alpha1.GroupName, object.GetKind(), "health.lua")
		health, err := gitops.ArgoCD(string(script), live.Object)
		if err != nil {
			r.Fatal(err)
		}
		computed, err := status.Compute(live)
		if err != nil {
			r.Fatal(err)
		}
		observed, _, _ := unstructured.NestedInt64(live.Object, "status", "observedGeneration")
		if seen := observed == live.GetGeneration(); seen && (health.Status != "Healthy" || computed.Status != status.CurrentStatus) {
			return fmt.Sprintf("%s %s is %s to Argo CD, and %s to Flux: %s", object.GetKind(), object.GetName(), health.Status, computed.Status, health.Message)
		}
	}
	return ""
}

func (r *repository) changesNothing() {
	r.Helper()
	if changed := r.apply(r.T, r.objects); len(changed) > 0 {
		r.Fatalf("to apply what is there already changed %v", changed)
	}
}

// decode parses a manifest from the output of kustomize.
func decode(t *testing.T, printed string) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{}
	if err := yaml.NewYAMLOrJSONDecoder(strings.NewReader(printed), len(printed)).Decode(object); err != nil {
		t.Fatal(err)
	}
	return object
}

func read(t *testing.T, elements ...string) []byte {
	t.Helper()
	path, err := testoperator.Path(elements...)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
