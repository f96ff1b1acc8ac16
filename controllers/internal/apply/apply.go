// Package apply writes what the controllers decided, under field managers that are part of the API: a GitOps tool that ignores
// them sees none of our writes as drift.
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

// The field managers.
const (
	// ServiceCA writes signing-key Secrets, trust-bundle ConfigMaps and the status of ServiceCAs.
	ServiceCA = client.FieldOwner("servingcert-serviceca")
	// ServingCert writes the Secrets of Services, and what it reports on them.
	ServingCert = client.FieldOwner("servingcert-certificate")
	// Policy writes the status of ServingCertPolicies.
	Policy = client.FieldOwner("servingcert-policy")
	// Trust writes the bundle into what asks for it.
	Trust = client.FieldOwner("servingcert-trust")
	// Publish writes the ConfigMaps that a ServiceCA publishes in other namespaces.
	Publish = client.FieldOwner("servingcert-publish")
	// Signer writes the status of requests for certificates.
	Signer = client.FieldOwner("servingcert-signer")
	// Restart stamps the pod templates of workloads.
	Restart = client.FieldOwner("servingcert-restart")
)

// Status applies a status where it differs from the one before. configuration is an empty apply configuration of the object.
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

// Annotations changes annotations by one merge patch; nil removes one. No change, no patch.
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

// IsRejected reports whether the API server refused a write for good, until somebody changes something: and not because of a conflict,
// a passing fault, a right that the operator lacks, or because the namespace is going away. A webhook that gives no code denies by a bad request.
func IsRejected(err error) bool {
	if err == nil || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || IsNotPermitted(err) {
		return false
	}
	// etcd's own limit comes as an internal error.
	tooLarge := apierrors.IsRequestEntityTooLargeError(err) || strings.Contains(err.Error(), "request is too large")
	// A webhook may deny with any code, such as that of a conflict, or of a fault of the API server.
	denied := strings.Contains(err.Error(), "denied the request")
	return tooLarge || denied || apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err)
}

// IsNotPermitted reports whether the operator lacks the right to a request. No tenant causes that, and no owner of an object can end it.
func IsNotPermitted(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), `is forbidden: User "`) && !strings.Contains(err.Error(), "denied the request")
}

// IsServerFailure reports whether the API server answered that it could not carry out a request, as it does while an admission webhook cannot be
// called, or while the operator lacks the right to it. It is false for what is the client's to put right (see Refused), and where no API
// server answered: that is about every object.
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

// IsConflict reports whether another client changed an object since it was read. A webhook may deny a write with the same code: that is
// no conflict, but a refusal.
func IsConflict(err error) bool {
	return apierrors.IsConflict(err) && !IsRejected(err) //nolint:forbidigo // here a denial is told apart
}

// IgnoreGone returns nil for the error that an object is gone, and any other error as it is: a webhook may deny a write with that code, too.
func IgnoreGone(err error) error {
	if apierrors.IsNotFound(err) && !IsRejected(err) {
		return nil
	}
	return err
}

// IsGone reports whether an object, or the namespace around it, is on its way out.
func IsGone(err error) bool {
	return (apierrors.IsNotFound(err) && !IsRejected(err)) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// IsManagedBy reports whether a field manager of ours wrote the object; a copy that somebody made of it bears other managers.
func IsManagedBy(object metav1.Object, owner client.FieldOwner) bool {
	return slices.ContainsFunc(object.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == string(owner)
	})
}

// OwnedKeys returns the names of the fields directly below one of an object, such as the keys of "data", that an entry of its managedFields has.
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

// OtherWriter names for a person who has last written one of the fields besides the owner. Somebody who only removes fields is in no managedFields: then it is
// perhaps the last one who has written anything. Empty where nobody has.
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

// PreconditionsFor guards a deletion: it takes effect on that very version only.
func PreconditionsFor(object metav1.Object) client.Preconditions {
	uid, version := object.GetUID(), object.GetResourceVersion()
	return client.Preconditions{UID: &uid, ResourceVersion: &version}
}
