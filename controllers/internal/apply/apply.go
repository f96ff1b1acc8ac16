// Package apply writes what the controllers decide, under field managers that are part of the
// operator's API: a GitOps tool that ignores these field managers sees no drift in what the
// operator writes.
package apply

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Field managers.
const (
	// ServiceCA writes signing-key Secrets, trust-bundle ConfigMaps and the status of ServiceCAs.
	ServiceCA = client.FieldOwner("servingcert-serviceca")
	// ServingCert writes the Secrets of Services, and the annotations that report on them.
	ServingCert = client.FieldOwner("servingcert-certificate")
	// Policy writes the status of ServingCertPolicies.
	Policy = client.FieldOwner("servingcert-policy")
	// Trust writes the bundle into the objects that request it.
	Trust = client.FieldOwner("servingcert-trust")
	// Publish writes the ConfigMaps that a ServiceCA publishes in other namespaces.
	Publish = client.FieldOwner("servingcert-publish")
	// Signer writes the status of certificate requests.
	Signer = client.FieldOwner("servingcert-signer")
	// Restart annotates the pod templates of workloads.
	Restart = client.FieldOwner("servingcert-restart")
)

// Status applies a status by server-side apply, unless it equals the one before. configuration is
// an empty apply configuration of the object.
func Status[S any](
	ctx context.Context, c client.Client, owner client.FieldOwner, before, after S, configuration runtime.ApplyConfiguration,
) error {
	if equality.Semantic.DeepEqual(before, after) {
		return nil
	}
	encoded, err := json.Marshal(map[string]any{"status": after})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(encoded, configuration); err != nil {
		return err
	}
	return c.Status().Apply(ctx, configuration, owner, client.ForceOwnership)
}

// Annotations changes annotations by one merge patch; a nil value removes one. Without changes it
// does not write.
func Annotations(ctx context.Context, c client.Client, owner client.FieldOwner, object client.Object, changes map[string]*string) error {
	if len(changes) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": changes, "uid": object.GetUID()}})
	if err != nil {
		return err
	}
	return c.Patch(ctx, object, client.RawPatch(types.MergePatchType, patch), owner)
}

// IsRejected reports whether the API server rejected a write for a reason that lasts until someone
// changes the object, an admission webhook or a limit. It is false for a conflict, a transient
// failure, a missing permission of the operator, and a namespace that is being deleted. A webhook
// that sets no code denies with 400 Bad Request.
func IsRejected(err error) bool {
	if err == nil || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || IsNotPermitted(err) {
		return false
	}
	// etcd's own limit is reported as an internal error.
	tooLarge := apierrors.IsRequestEntityTooLargeError(err) || strings.Contains(err.Error(), "request is too large")
	// A webhook may deny with any code, also with that of a conflict or of an API server failure.
	denied := strings.Contains(err.Error(), "denied the request")
	return tooLarge || denied || apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err)
}

// IsNotPermitted reports whether the operator lacks the permission for a request. No tenant causes
// that, and no owner of an object can correct it.
func IsNotPermitted(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), `is forbidden: User "`) && !strings.Contains(err.Error(), "denied the request")
}

// IsServerFailure reports whether the API server answered that it could not process a request, as
// it does while it cannot call an admission webhook, or while the operator lacks the permission. It
// is false for errors that the owner of the object has to correct (see IsRejected), and if no API
// server answered, which affects every object.
func IsServerFailure(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || IsRejected(err) {
		return false
	}
	if IsNotPermitted(err) {
		return true
	}
	code := status.Status().Code
	return code >= http.StatusInternalServerError && code != http.StatusBadGateway && code != http.StatusServiceUnavailable
}

// IsConflict reports whether another client changed an object after it was read. It is false if a
// webhook denied the write with the same code.
func IsConflict(err error) bool {
	return apierrors.IsConflict(err) && !IsRejected(err) //nolint:forbidigo // a webhook's denial is excluded here
}

// IgnoreGone returns nil if the error is that an object does not exist, and any other error
// unchanged, also the denial of a webhook with the same code.
func IgnoreGone(err error) error {
	if apierrors.IsNotFound(err) && !IsRejected(err) {
		return nil
	}
	return err
}

// IsGone reports whether the error is that an object does not exist, or that its namespace is being
// deleted.
func IsGone(err error) bool {
	return (apierrors.IsNotFound(err) && !IsRejected(err)) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// IsManagedBy reports whether this field manager of the operator wrote the object. A copy of an
// object that another client created has other field managers.
func IsManagedBy(object metav1.Object, owner client.FieldOwner) bool {
	return slices.ContainsFunc(object.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == string(owner)
	})
}

// OwnedKeys returns the names of the fields directly below a field of an object, such as the keys
// of "data", that a managedFields entry owns.
func OwnedKeys(entry metav1.ManagedFieldsEntry, field string) []string {
	var fields map[string]map[string]json.RawMessage
	if entry.FieldsV1 == nil || json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) != nil {
		return nil
	}
	var names []string
	for name := range fields["f:"+field] {
		if name, ok := strings.CutPrefix(name, "f:"); ok {
			names = append(names, name)
		}
	}
	return names
}

// OtherWriter returns, for messages, the client other than owner that last wrote one of the fields.
// A client that only removes fields is not in managedFields: then it returns the client that last
// wrote any field, with "perhaps". It returns "" if there is no other client.
func OtherWriter(object metav1.Object, owner client.FieldOwner, fields ...string) string {
	var writer, fallback metav1.ManagedFieldsEntry
	for _, entry := range object.GetManagedFields() {
		if entry.Manager == string(owner) || entry.Subresource != "" {
			continue
		}
		latest := &fallback
		if slices.ContainsFunc(fields, func(field string) bool {
			return entry.FieldsV1 != nil && bytes.Contains(entry.FieldsV1.GetRawBytes(), []byte(`"f:`+field+`"`))
		}) {
			latest = &writer
		}
		if latest.Manager == "" || latest.Time.Before(entry.Time) {
			*latest = entry
		}
	}
	switch {
	case writer.Manager != "":
		return fmt.Sprintf("field manager %q", writer.Manager)
	case fallback.Manager != "":
		return fmt.Sprintf("a client, perhaps field manager %q,", fallback.Manager)
	}
	return ""
}

// PreconditionsFor returns the preconditions by which a deletion succeeds only for this version of
// the object.
func PreconditionsFor(object metav1.Object) client.Preconditions {
	uid, version := object.GetUID(), object.GetResourceVersion()
	return client.Preconditions{UID: &uid, ResourceVersion: &version}
}
