package servingcert

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/controllers/internal/conflict"
)

// A Service whose owner keeps the operator from writing its annotations is unresolvable until they
// can be written. A reconciliation that had nothing to write does not change that.
func TestHandleReportError(t *testing.T) {
	t.Parallel()
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	full := apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, "web", nil)
	r := &Reconciler{View: View{Conflicts: &conflict.Tracker{}}}
	for _, step := range []struct {
		name         string
		keepReport   bool
		err          error
		unresolvable bool
	}{
		{"told", false, nil, false}, {"kept from it", false, full, true}, {"nothing to say", true, nil, true}, {"told again", false, nil, false},
	} {
		if err := r.handleReportError(service, &reconcileResult{keepReport: step.keepReport}, step.err); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		if got := r.View.Conflicts.Unresolvable(client.ObjectKeyFromObject(service), time.Time{}); got != step.unresolvable {
			t.Errorf("%s: hopeless %t, want %t", step.name, got, step.unresolvable)
		}
	}
}
