package injector

import (
	"bytes"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// This file decides which keys of a ConfigMap or a Secret the operator wrote. The managedFields
// record that, unless the object was restored or copied without them; then the value itself shows
// it. A key that neither of them attributes to the operator belongs to another client.

// fieldOwners holds the owners of an object's keys, read from its managedFields.
type fieldOwners struct {
	// own are the keys that the operator wrote, and applied those of them that it wrote by
	// server-side apply. others are the keys that other clients wrote, and appliedByOthers those of
	// them that the clients wrote by server-side apply.
	own, applied, others, appliedByOthers sets.Set[string]
}

func (w dataWriter) fieldOwners(object client.Object) fieldOwners {
	result := fieldOwners{sets.New[string](), sets.New[string](), sets.New[string](), sets.New[string]()}
	for _, entry := range object.GetManagedFields() {
		all, applied := result.others, result.appliedByOthers
		if entry.Manager == string(apply.Trust) {
			all, applied = result.own, result.applied
		}
		for _, field := range []string{"data", "binaryData"} {
			for _, key := range apply.OwnedKeys(entry, field) {
				if w.field(key) != field {
					continue
				}
				all.Insert(key)
				if entry.Operation == metav1.ManagedFieldsOperationApply {
					applied.Insert(key)
				}
			}
		}
	}
	return result
}

// foreignKeys returns the wanted keys under which the object has a value of another client, sorted.
func (w dataWriter) foreignKeys(object client.Object, wanted *desiredContent) []string {
	owners := w.fieldOwners(object)
	marker, marked := readMarker(object)
	return slices.DeleteFunc(slices.Sorted(maps.Keys(wanted.data)), func(key string) bool {
		value, has := w.value(object, key)
		return !has || owners.own.Has(key) || (marked && marker.namesKey(key)) || wanted.preserves(key, value)
	})
}

// preserves reports whether writing the content loses nothing that the key holds: the value is the
// same, or it consists of certificates that are all in the bundle.
func (c *desiredContent) preserves(key string, value []byte) bool {
	if bytes.Equal(value, c.data[key]) {
		return true
	}
	current, err := pki.ParseBundle(value)
	if key != c.key || err != nil {
		return false
	}
	bundle, err := pki.ParseBundle(c.bundle())
	return err == nil && len(pki.NewBundle(append(bundle, current...)...)) == len(bundle)
}

// staleKeys returns the keys that the operator wrote in formOwn and that are no longer wanted,
// sorted, except those that other clients apply. persistent are those of them that would remain
// after the operator stops applying them.
func (w dataWriter) staleKeys(object client.Object, wanted map[string][]byte) (left, persistent []string) {
	owners := w.fieldOwners(object)
	marker, _ := readMarker(object)
	for _, key := range sets.List(owners.applied.Clone().Insert(marker.key, v1alpha1.TruststoreKey)) {
		value, has := w.value(object, key)
		applied := owners.applied.Has(key)
		ours := applied || marker.matchesHash(key, value)
		if _, keep := wanted[key]; !has || !ours || keep || owners.appliedByOthers.Has(key) {
			continue
		}
		left = append(left, key)
		if !applied || owners.others.Has(key) {
			persistent = append(persistent, key)
		}
	}
	return left, persistent
}
