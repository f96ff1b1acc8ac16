// Package ownwrites recognizes the watch events of annotations that a controller has just written, so that what it reports on an
// object does not make it reconcile that object once more, before the time that it waits for.
package ownwrites

import (
	"maps"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Annotations remembers the changes of annotations that were sent and not seen in an event yet. It is forgotten with the process,
// which costs one reconciliation. The zero value is ready to use.
type Annotations struct {
	mu       sync.Mutex
	expected map[types.NamespacedName]map[string]*string
}

// Expect remembers changes that are about to be written to an object; nil removes an annotation. No changes expect nothing.
func (a *Annotations) Expect(key types.NamespacedName, changes map[string]*string) {
	if len(changes) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.expected == nil {
		a.expected = map[types.NamespacedName]map[string]*string{}
	}
	a.expected[key] = changes
}

// Forget expects nothing of an object any more: it is reconciled anew, or the write failed.
func (a *Annotations) Forget(key types.NamespacedName) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.expected, key)
}

// Observed reports whether the metadata of an object differ from those before by the expected changes and nothing else; these are
// expected once.
func (a *Annotations) Observed(before, after metav1.Object) bool {
	key := types.NamespacedName{Namespace: after.GetNamespace(), Name: after.GetName()}
	a.mu.Lock()
	defer a.mu.Unlock()
	changes, ok := a.expected[key]
	if !ok || before.GetUID() != after.GetUID() || !before.GetDeletionTimestamp().Equal(after.GetDeletionTimestamp()) ||
		!maps.Equal(before.GetLabels(), after.GetLabels()) || !maps.Equal(withChanges(before.GetAnnotations(), changes), after.GetAnnotations()) {
		return false
	}
	delete(a.expected, key)
	return true
}

// withChanges returns a copy of annotations with changes.
func withChanges(annotations map[string]string, changes map[string]*string) map[string]string {
	result := map[string]string{}
	maps.Copy(result, annotations)
	for key, value := range changes {
		if value == nil {
			delete(result, key)
			continue
		}
		result[key] = *value
	}
	return result
}
