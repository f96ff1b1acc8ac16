package trust

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

// caBundle is the door into what the API server calls: webhook configurations, CRDs with a conversion webhook, APIServices. Once a caBundle is
// written, we own nothing but our mark. Whoever applies such an object could otherwise not take a webhook out of it any more: an entry with nothing but our
// field would be left, which the API server refuses; the mark, unowned, would go with the last annotation of theirs, and we could not tell any
// more what is ours (TestWebhookRemovedByItsOwner).
type caBundle struct {
	live client.Client
	kind Kind
}

func intoCABundle(r *Reconciler) door { return caBundle{r.live, r.kind} }

const field = "caBundle"

func (d caBundle) object() client.Object {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(d.kind.GroupVersionKind)
	return object
}

// clients returns the parts of an object that take a caBundle, to be read and changed in place. A webhook that is called at a URL is one
// of them, under OpenShift's annotation too, as there.
func (d caBundle) clients(object client.Object) []map[string]any {
	read, ok := object.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	content := read.Object
	switch {
	case d.kind.is(apiServices):
		spec, _ := content["spec"].(map[string]any)
		if spec["service"] == nil {
			return nil
		}
		return []map[string]any{spec}
	case d.kind.is(customResourceDefinitions):
		strategy, _, _ := unstructured.NestedString(content, "spec", "conversion", "strategy")
		spec, _ := content["spec"].(map[string]any)
		conversion, _ := spec["conversion"].(map[string]any)
		if strategy != "Webhook" {
			return nil
		}
		return clientOf(conversion["webhook"])
	}
	webhooks, _ := content["webhooks"].([]any)
	var found []map[string]any
	for _, webhook := range webhooks {
		found = append(found, clientOf(webhook)...)
	}
	return found
}

func clientOf(webhook any) []map[string]any {
	fields, _ := webhook.(map[string]any)
	called, _ := fields["clientConfig"].(map[string]any)
	if called == nil {
		return nil
	}
	return []map[string]any{called}
}

func (d caBundle) bundle(object client.Object, _ string) []byte {
	for _, client := range d.clients(object) {
		if encoded, _ := client[field].(string); encoded != "" {
			bundle, _ := base64.StdEncoding.DecodeString(encoded)
			return bundle
		}
	}
	return nil
}

func (d caBundle) holds(object client.Object, wanted *content) bool {
	encoded := base64.StdEncoding.EncodeToString(wanted.bundle())
	lacks := func(client map[string]any) bool { return client[field] != encoded }
	return !slices.ContainsFunc(d.clients(object), lacks) &&
		object.GetAnnotations()[v1alpha1.AnnotationCABundleHash] == wanted.mark() && !d.owned(object)
}

// owned tells whether more than the mark is still ours, after a write that was the last thing we did.
func (d caBundle) owned(object client.Object) bool {
	return slices.ContainsFunc(object.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		_, more := onlyMetadata(entry)
		return more
	})
}

// onlyMetadata is an entry of ours with the fields of metadata alone, and whether it had others.
func onlyMetadata(entry metav1.ManagedFieldsEntry) (metav1.ManagedFieldsEntry, bool) {
	var fields map[string]json.RawMessage
	if entry.Manager != string(apply.Trust) || entry.FieldsV1 == nil || json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) != nil {
		return entry, false
	}
	const metadata = "f:metadata"
	kept, has := fields[metadata]
	if more := len(fields) > 1 || !has; !more {
		return entry, false
	}
	raw := "{}"
	if has {
		raw = fmt.Sprintf("{%q:%s}", metadata, kept)
	}
	entry.FieldsV1 = metav1.NewFieldsV1(raw)
	return entry, true
}

func (d caBundle) write(ctx context.Context, object client.Object, wanted *content) (*issuance.Obstacle, error) {
	if wanted == nil {
		d.clear(object)
	} else {
		d.set(object, wanted)
	}
	// It carries the version that was read.
	if err := d.live.Update(ctx, object, apply.Trust); err != nil {
		return nil, err
	}
	return nil, d.disown(ctx, object)
}

func (d caBundle) set(object client.Object, wanted *content) {
	encoded := base64.StdEncoding.EncodeToString(wanted.bundle())
	for _, client := range d.clients(object) {
		client[field] = encoded
	}
	annotations := object.GetAnnotations()
	annotations[v1alpha1.AnnotationCABundleHash] = wanted.mark()
	object.SetAnnotations(annotations)
}

// clear takes out what we put in, and not what somebody put in its place.
func (d caBundle) clear(object client.Object) {
	mark, _ := readMark(object)
	for _, client := range d.clients(object) {
		encoded, _ := client[field].(string)
		if bundle, err := base64.StdEncoding.DecodeString(encoded); err == nil && pki.Hash(bundle) == mark.hash {
			delete(client, field)
		}
	}
	annotations := object.GetAnnotations()
	delete(annotations, v1alpha1.AnnotationCABundleHash)
	delete(annotations, v1alpha1.AnnotationError)
	object.SetAnnotations(annotations)
}

// disown gives the ownership of what we wrote, but for the mark, to nobody.
func (d caBundle) disown(ctx context.Context, object client.Object) error {
	if !d.owned(object) {
		return nil
	}
	entries := object.GetManagedFields()
	for i := range entries {
		entries[i], _ = onlyMetadata(entries[i])
	}
	object.SetManagedFields(entries)
	return d.live.Update(ctx, object, apply.Trust)
}
