package injector

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// caBundleWriter injects bundles into objects whose endpoints the API server calls: webhook
// configurations, CRDs with a conversion webhook, and APIServices. After writing a caBundle, the
// operator gives up the ownership of all fields except its marker annotation. If it kept the
// caBundle, a client that applies such an object could not remove a webhook from it: an entry with
// only our field would remain, which the API server rejects. If it gave up the marker too, the
// marker would be removed with the last annotation of the client, and the operator could no longer
// identify what it wrote (TestWebhookRemovedByItsOwner).
type caBundleWriter struct {
	live client.Client
	kind Kind
}

func newCABundleWriter(r *Reconciler) bundleWriter { return caBundleWriter{r.live, r.kind} }

const caBundleField = "caBundle"

func (w caBundleWriter) object() client.Object {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(w.kind.GroupVersionKind)
	return object
}

// clientConfigs returns the parts of an object that have a caBundle; they can be changed in place.
// A webhook that the API server calls at a URL is included, also under OpenShift's annotation, as
// on OpenShift.
func (w caBundleWriter) clientConfigs(object client.Object) []map[string]any {
	unstructuredObject, ok := object.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	content := unstructuredObject.Object
	switch {
	case w.kind.is(apiServices):
		spec, _ := content["spec"].(map[string]any)
		if spec["service"] == nil {
			return nil
		}
		return []map[string]any{spec}
	case w.kind.is(customResourceDefinitions):
		strategy, _, _ := unstructured.NestedString(content, "spec", "conversion", "strategy")
		spec, _ := content["spec"].(map[string]any)
		conversion, _ := spec["conversion"].(map[string]any)
		if strategy != "Webhook" {
			return nil
		}
		return clientConfigOf(conversion["webhook"])
	}
	webhooks, _ := content["webhooks"].([]any)
	var configs []map[string]any
	for _, webhook := range webhooks {
		configs = append(configs, clientConfigOf(webhook)...)
	}
	return configs
}

func clientConfigOf(webhook any) []map[string]any {
	fields, _ := webhook.(map[string]any)
	clientConfig, _ := fields["clientConfig"].(map[string]any)
	if clientConfig == nil {
		return nil
	}
	return []map[string]any{clientConfig}
}

func (w caBundleWriter) bundle(object client.Object, _ string) []byte {
	for _, client := range w.clientConfigs(object) {
		if encoded, _ := client[caBundleField].(string); encoded != "" {
			bundle, _ := base64.StdEncoding.DecodeString(encoded)
			return bundle
		}
	}
	return nil
}

func (w caBundleWriter) holds(object client.Object, wanted *desiredContent) bool {
	encoded := base64.StdEncoding.EncodeToString(wanted.bundle())
	lacks := func(client map[string]any) bool { return client[caBundleField] != encoded }
	return !slices.ContainsFunc(w.clientConfigs(object), lacks) &&
		object.GetAnnotations()[v1alpha1.AnnotationCABundleHash] == wanted.marker() && !w.ownsMore(object)
}

// ownsMore reports whether the operator still owns more than the marker, because it stopped between
// writing the bundle and giving up the ownership.
func (w caBundleWriter) ownsMore(object client.Object) bool {
	return slices.ContainsFunc(object.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		_, more := onlyMetadata(entry)
		return more
	})
}

// onlyMetadata returns an entry of the operator reduced to the fields of metadata, and reports
// whether it had others. It returns the entry of another manager as it is.
func onlyMetadata(entry metav1.ManagedFieldsEntry) (metav1.ManagedFieldsEntry, bool) {
	var fields map[string]json.RawMessage
	if entry.Manager != string(apply.Trust) || entry.FieldsV1 == nil || json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) != nil {
		return entry, false
	}
	const metadata = "f:metadata"
	metadataFields, has := fields[metadata]
	if more := len(fields) > 1 || !has; !more {
		return entry, false
	}
	raw := "{}"
	if has {
		raw = fmt.Sprintf("{%q:%s}", metadata, metadataFields)
	}
	entry.FieldsV1 = metav1.NewFieldsV1(raw)
	return entry, true
}

func (w caBundleWriter) write(ctx context.Context, object client.Object, wanted *desiredContent) (*issuance.Problem, error) {
	if wanted == nil {
		w.clear(object)
	} else {
		w.set(object, wanted)
	}
	// The object contains the resourceVersion that was read.
	if err := w.live.Update(ctx, object, apply.Trust); err != nil {
		return nil, err
	}
	return nil, w.releaseOwnership(ctx, object)
}

func (w caBundleWriter) set(object client.Object, wanted *desiredContent) {
	encoded := base64.StdEncoding.EncodeToString(wanted.bundle())
	for _, client := range w.clientConfigs(object) {
		client[caBundleField] = encoded
	}
	annotations := object.GetAnnotations()
	annotations[v1alpha1.AnnotationCABundleHash] = wanted.marker()
	object.SetAnnotations(annotations)
}

// clear removes the caBundles that the operator wrote, but not those that another client wrote in
// their place.
func (w caBundleWriter) clear(object client.Object) {
	marker, _ := readMarker(object)
	for _, client := range w.clientConfigs(object) {
		encoded, _ := client[caBundleField].(string)
		if bundle, err := base64.StdEncoding.DecodeString(encoded); err == nil && pki.Hash(bundle) == marker.hash {
			delete(client, caBundleField)
		}
	}
	annotations := object.GetAnnotations()
	delete(annotations, v1alpha1.AnnotationCABundleHash)
	delete(annotations, v1alpha1.AnnotationError)
	object.SetAnnotations(annotations)
}

// releaseOwnership gives up the ownership of all fields that the operator wrote, except the marker.
func (w caBundleWriter) releaseOwnership(ctx context.Context, object client.Object) error {
	if !w.ownsMore(object) {
		return nil
	}
	entries := object.GetManagedFields()
	for i := range entries {
		entries[i], _ = onlyMetadata(entries[i])
	}
	object.SetManagedFields(entries)
	return w.live.Update(ctx, object, apply.Trust)
}
