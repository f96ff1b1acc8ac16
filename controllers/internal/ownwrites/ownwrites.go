// Package ownwrites recognizes the watch events of annotations that a controller has just written,
// so that reporting on an object does not cause another reconciliation of that object before it is
// due.
package ownwrites

import (
	"maps"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Annotations holds annotation changes that were written and whose watch events have not arrived
// yet. They are lost when the process ends, which costs one reconciliation each. The zero value is
// ready to use.
type Annotations struct {
	mu       sync.Mutex
	expected map[types.NamespacedName]map[string]*string
}

// Expect records changes that are about to be written to an object; a nil value removes an
// annotation. Empty changes are ignored.
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

// Forget clears the expected changes of an object, because it is reconciled again or the write
// failed.
func (a *Annotations) Forget(key types.NamespacedName) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.expected, key)
}

// Observed reports whether the metadata of an object changed by the expected annotation changes and
// nothing else, and clears the expectation if so.
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

// withChanges returns a copy of annotations with the changes applied.
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
