package controllers_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// restoreTool is the field manager of a tool that restores objects from backups without
// managedFields.
const restoreTool = client.FieldOwner("restore-tool")

// restored creates a ConfigMap or a Secret as if restored from a backup: with these annotations and
// data, all owned by the restore tool.
func (r realm) restored(kind string, annotations, data map[string]string) client.Object {
	r.Helper()
	var object client.Object = &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "restored", Annotations: annotations}, Data: data,
	}
	if kind == "Secret" {
		object = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: r.name, Name: "restored", Annotations: annotations}, StringData: data,
		}
	}
	if err := kube.Create(r.Context(), object, restoreTool); err != nil {
		r.Fatal(err)
	}
	return object
}

// dataOf returns the data of a ConfigMap or a Secret.
func dataOf(object client.Object) map[string]string {
	data := map[string]string{}
	binary := map[string][]byte{}
	switch held := object.(type) {
	case *corev1.ConfigMap:
		maps.Copy(data, held.Data)
		binary = held.BinaryData
	case *corev1.Secret:
		binary = held.Data
	}
	for key, value := range binary {
		data[key] = string(value)
	}
	return data
}

// becomes waits until an object holds these data and no others, with the operator's marker or, if
// the operator released it, without any annotation of the operator's.
func becomes(t *testing.T, object client.Object, marked bool, want map[string]string) {
	t.Helper()
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err.Error()
		}
		annotations := object.GetAnnotations()
		_, carries := annotations[v1alpha1.AnnotationCABundleHash]
		if data := dataOf(object); !maps.Equal(data, want) || carries != marked || annotations[v1alpha1.AnnotationError] != "" {
			return fmt.Sprintf("it holds %.200q with %q, want %.200q", data, annotations, want)
		}
		return ""
	})
}

// A restored object has lost its managedFields. The operator renames its key, adds a truststore,
// and releases it as if it had not been restored, both where it knew the object before and where
// the object first appears after the restore.
func TestRestoredObjectsAreOurs(t *testing.T) {
	const key, renamed = v1alpha1.DefaultCABundleKey, "ca.crt"
	mine := map[string]string{"mode": "fast"}
	under := func(key, bundle string) map[string]string { return map[string]string{"mode": "fast", key: bundle} }
	for _, kind := range []string{"ConfigMap", "Secret"} {
		for name, tc := range map[string]struct {
			// bundle and mark are the bundle and its hash in the backup, if they differ from what
			// is published; change holds annotations that are added later.
			bundle, mark string
			change       map[string]string
			want         func(bundle string) map[string]string
		}{
			"renamed":                {change: map[string]string{v1alpha1.AnnotationCABundleKey: renamed}, want: func(b string) map[string]string { return under(renamed, b) }},
			"given up":               {change: map[string]string{v1alpha1.AnnotationInjectCABundle: ""}, want: func(string) map[string]string { return mine }},
			"unchanged":              {want: func(b string) map[string]string { return under(key, b) }},
			"from an old backup":     {bundle: "an old bundle", want: func(b string) map[string]string { return under(key, b) }},
			"with a mark of nothing": {bundle: "old", mark: "0000", want: func(b string) map[string]string { return under(key, b) }},
		} {
			for _, seen := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, %s, seen: %t", kind, name, seen), func(t *testing.T) {
					r := newRealm(t)
					bundle := r.published()
					held := cmp.Or(tc.bundle, bundle)
					annotations := r.injects(v1alpha1.AnnotationCABundleHash, cmp.Or(tc.mark, pki.Hash([]byte(held))))
					if !seen {
						maps.Copy(annotations, tc.change)
					}
					object := r.restored(kind, annotations, under(key, held))
					if seen {
						becomes(t, object, true, under(key, bundle))
						eventuallyAdopted(t, object)
						update(t, object, func(o client.Object) {
							changed := o.GetAnnotations()
							maps.Copy(changed, tc.change)
							o.SetAnnotations(changed)
						})
					}
					want := tc.want(bundle)
					becomes(t, object, len(want) > len(mine), want)
				})
			}
		}
	}
}

// eventuallyAdopted waits until the operator owns fields of an object.
func eventuallyAdopted(t *testing.T, object client.Object) {
	t.Helper()
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err.Error()
		}
		if len(ownedBy(t, object, trustManager)) == 0 {
			return "the operator owns nothing of it"
		}
		return ""
	})
}

// The operator adds a truststore to a restored object, and removes it again, also after another
// restore.
func TestRestoredObjectsGetTruststores(t *testing.T) {
	for _, kind := range []string{"ConfigMap", "Secret"} {
		t.Run(kind, func(t *testing.T) {
			r := newRealm(t)
			bundle := r.published()
			annotations := r.injects(v1alpha1.AnnotationCABundleHash, pki.Hash([]byte(bundle)), v1alpha1.AnnotationTruststore, "pkcs12")
			object := r.restored(kind, annotations, map[string]string{v1alpha1.DefaultCABundleKey: bundle})
			eventually(t, func(ctx context.Context) string {
				if err := kube.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
					return err.Error()
				}
				if dataOf(object)[v1alpha1.TruststoreKey] == "" {
					return "there is no truststore: " + object.GetAnnotations()[v1alpha1.AnnotationError]
				}
				return ""
			})
			again := object.DeepCopyObject().(client.Object)
			if err := kube.Delete(t.Context(), object); err != nil {
				t.Fatal(err)
			}
			again.SetManagedFields(nil)
			again.SetResourceVersion("")
			again.SetUID("")
			delete(again.GetAnnotations(), v1alpha1.AnnotationTruststore)
			if err := kube.Create(t.Context(), again, restoreTool); err != nil {
				t.Fatal(err)
			}
			becomes(t, again, true, map[string]string{v1alpha1.DefaultCABundleKey: bundle})
		})
	}
}

// Restored or not, a marker gives the operator no key of another field manager: the operator
// neither removes it nor, without a marker for it, overwrites it.
func TestForgedMarkersGiveNoKeysOfOthers(t *testing.T) {
	r := newRealm(t)
	bundle := r.published()
	theirs := map[string]string{"theirs": "somebody else's", v1alpha1.TruststoreKey: "somebody else's, too"}
	annotations := r.injects(v1alpha1.AnnotationCABundleHash, pki.Hash([]byte(bundle))+"/theirs+pkcs12:"+pki.Hash([]byte(bundle)))
	object := r.restored("Secret", annotations, theirs)
	want := maps.Clone(theirs)
	want[v1alpha1.DefaultCABundleKey] = bundle
	becomes(t, object, true, want)
	update(t, object, func(o client.Object) { o.SetAnnotations(nil) })
	becomes(t, object, false, theirs)

	foreign := r.configMap("foreign", r.injects(), map[string]string{v1alpha1.DefaultCABundleKey: "somebody else's"})
	errorOn(t, foreign, "KeyNotOurs: ", v1alpha1.DefaultCABundleKey)
}

// A Secret of a Service that was restored without managedFields keeps its certificate, and is
// deleted when the Service asks for another Secret.
func TestRestoredServingSecretIsOurs(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	service := r.service("web", withSecretName("former"))
	former := r.secret("former", r.issued("web."+r.name+".svc"))
	serial := leaf(t, former).SerialNumber
	update(t, former, func(s *corev1.Secret) { s.ManagedFields = []metav1.ManagedFieldsEntry{{}} })
	eventually(t, func(ctx context.Context) string {
		if err := kube.Get(ctx, client.ObjectKeyFromObject(former), former); err != nil {
			return err.Error()
		}
		if len(ownedBy(t, former, "servingcert-certificate")) == 0 {
			return "the operator owns nothing of it"
		}
		return ""
	})
	if leaf(t, former).SerialNumber.Cmp(serial) != 0 {
		t.Error("the certificate was made anew")
	}
	update(t, service, func(s *corev1.Service) { s.Annotations[v1alpha1.AnnotationSecretName] = "renamed" })
	r.secret("renamed", r.issued("web."+r.name+".svc"))
	r.without("former")
}

// OpenShift's bundle stays when its annotation is removed, also on a restored object. It becomes
// the operator's when the object gets the operator's annotation after that, and is removed with
// that annotation.
func TestOpenShiftBundleIsOursLater(t *testing.T) {
	for _, restored := range []bool{false, true} {
		t.Run(fmt.Sprintf("restored: %t", restored), func(t *testing.T) {
			r := newOpenShift(t)
			const theirs = beta + "inject-cabundle"
			var object client.Object = r.configMap("trust", map[string]string{theirs: "true"}, nil)
			bundle := r.exactly()
			becomes(t, object, true, bundle)
			if restored {
				object = r.restored("ConfigMap", object.GetAnnotations(), bundle)
				becomes(t, object, true, bundle)
			}
			for _, step := range []struct {
				annotations map[string]string
				marked      bool
				want        map[string]string
			}{{nil, false, bundle}, {r.injects(), true, bundle}, {nil, false, nil}} {
				update(t, object, func(o client.Object) {
					changed := o.GetAnnotations()
					delete(changed, theirs)
					delete(changed, v1alpha1.AnnotationInjectCABundle)
					maps.Copy(changed, step.annotations)
				})
				becomes(t, object, step.marked, step.want)
			}
		})
	}
}
