package trust

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

// This file judges which keys of a ConfigMap or a Secret the operator wrote. The managedFields say so, unless the object was restored or copied
// without them: then the value itself says it. A key that neither speaks for is somebody else's.

// owners says who has which keys, by the managedFields of an object.
type owners struct {
	// ours are written by the operator, and applied are those of them that it applies; others are written by others, who apply some.
	ours, applied, others, appliedByOthers sets.Set[string]
}

func (d data) owners(object client.Object) owners {
	of := owners{sets.New[string](), sets.New[string](), sets.New[string](), sets.New[string]()}
	for _, entry := range object.GetManagedFields() {
		all, applied := of.others, of.appliedByOthers
		if entry.Manager == string(apply.Trust) {
			all, applied = of.ours, of.applied
		}
		for _, field := range []string{"data", "binaryData"} {
			for _, key := range apply.Owned(entry, field) {
				if d.field(key) != field {
					continue
				}
				all.Insert(key)
				if entry.Operation == metav1.ManagedFieldsOperationApply {
					applied.Insert(key)
				}
			}
		}
	}
	return of
}

// foreign returns the wanted keys, sorted, under which an object has a value of somebody else's.
func (d data) foreign(object client.Object, wanted *content) []string {
	owners := d.owners(object)
	mark, marked := readMark(object)
	return slices.DeleteFunc(slices.Sorted(maps.Keys(wanted.data)), func(key string) bool {
		value, has := d.value(object, key)
		return !has || owners.ours.Has(key) || (marked && mark.names(key)) || wanted.covers(key, value)
	})
}

// covers reports whether writing the content takes nothing away from what lies under a key: it is the same, or certificates of which each is in
// the bundle.
func (c *content) covers(key string, value []byte) bool {
	if bytes.Equal(value, c.data[key]) {
		return true
	}
	held, err := pki.ParseBundle(value)
	if key != c.key || err != nil {
		return false
	}
	bundle, err := pki.ParseBundle(c.bundle())
	return err == nil && len(pki.NewBundle(append(bundle, held...)...)) == len(bundle)
}

// left returns the keys, sorted, that the operator wrote in its own form and that are not wanted any more, unless others apply them. Those that
// would outlive that the operator applies them no more are among stay.
func (d data) left(object client.Object, wanted map[string][]byte) (left, stay []string) {
	owners := d.owners(object)
	mark, _ := readMark(object)
	for _, key := range sets.List(owners.applied.Clone().Insert(mark.key, v1alpha1.TruststoreKey)) {
		value, has := d.value(object, key)
		applied := owners.applied.Has(key)
		ours := applied || mark.proves(key, value)
		if _, keep := wanted[key]; !has || !ours || keep || owners.appliedByOthers.Has(key) {
			continue
		}
		left = append(left, key)
		if !applied || owners.others.Has(key) {
			stay = append(stay, key)
		}
	}
	return left, stay
}
