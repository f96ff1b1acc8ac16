package ownwrites_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/controllers/internal/ownwrites"
)

func TestObserved(t *testing.T) {
	t.Parallel()
	key := client.ObjectKey{Namespace: "shop", Name: "web"}
	changes := map[string]*string{"error": new("new"), "former": nil}
	for name, tc := range map[string]struct {
		changes map[string]*string
		edit    func(*corev1.Service)
		forget  bool
		want    bool
	}{
		"as written":                 {changes: changes, want: true},
		"nothing was written":        {},
		"reconciled anew":            {changes: changes, forget: true},
		"another value":              {changes: changes, edit: func(s *corev1.Service) { s.Annotations["error"] = "other" }},
		"removed at once":            {changes: changes, edit: func(s *corev1.Service) { delete(s.Annotations, "error") }},
		"another annotation, too":    {changes: changes, edit: func(s *corev1.Service) { s.Annotations["theirs"] = "changed" }},
		"the former one is back":     {changes: changes, edit: func(s *corev1.Service) { s.Annotations["former"] = "back" }},
		"a label, too":               {changes: changes, edit: func(s *corev1.Service) { s.Labels = map[string]string{"tier": "web"} }},
		"being deleted, too":         {changes: changes, edit: func(s *corev1.Service) { s.DeletionTimestamp = &metav1.Time{} }},
		"another object of its name": {changes: changes, edit: func(s *corev1.Service) { s.UID = "other" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := &corev1.Service{ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop", Name: "web", UID: "uid", Annotations: map[string]string{"theirs": "stays", "former": "goes", "error": "old"},
			}}
			after := before.DeepCopy()
			after.Annotations = map[string]string{"theirs": "stays", "error": "new"}
			if tc.edit != nil {
				tc.edit(after)
			}
			var annotations ownwrites.Annotations
			annotations.Expect(key, tc.changes)
			if tc.forget {
				annotations.Forget(key)
			}
			if got := annotations.Observed(before, after); got != tc.want {
				t.Errorf("observed: %t, want %t", got, tc.want)
			}
			if annotations.Observed(before, after) {
				t.Error("it is observed twice")
			}
		})
	}
}
