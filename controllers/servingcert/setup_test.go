package servingcert

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/policy"
)

// Services that want the same Secret are reconciled when the claim of another Service changes, and
// not when the operator reports a problem on it.
func TestClaimChanged(t *testing.T) {
	t.Parallel()
	r := &Reconciler{}
	for name, tc := range map[string]struct {
		change func(*corev1.Service)
		want   bool
	}{
		"nothing":     {func(*corev1.Service) {}, false},
		"told":        {func(s *corev1.Service) { s.Annotations[v1alpha1.AnnotationError] = "it is taken" }, false},
		"another IP":  {func(s *corev1.Service) { s.Spec.ClusterIP = "10.0.0.1" }, false},
		"another one": {func(s *corev1.Service) { s.UID = "other" }, true},
		"going":       {func(s *corev1.Service) { s.DeletionTimestamp = &metav1.Time{} }, true},
		"other name":  {func(s *corev1.Service) { s.Annotations[v1alpha1.AnnotationSecretName] = "other" }, true},
		"asks not":    {func(s *corev1.Service) { delete(s.Annotations, v1alpha1.AnnotationSecretName) }, true},
		"outside":     {func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }, true},
		"a label":     {func(s *corev1.Service) { s.Labels = map[string]string{"tier": "web"} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.AnnotationSecretName: "tls"}}}
			after := before.DeepCopy()
			tc.change(after)
			if got := r.claimChanged().Update(event.UpdateEvent{ObjectOld: before, ObjectNew: after}); got != tc.want {
				t.Errorf("others are looked at: %t, want %t", got, tc.want)
			}
		})
	}
}

// A change of a Service reconciles the others that may want its Secret, and not the Service itself,
// which its own watch reconciles.
func TestCompetitorsOfService(t *testing.T) {
	t.Parallel()
	web := serviceRequesting("web", "web-tls")
	r := &Reconciler{View: View{PolicySets: &policy.SetCache{}, Reader: reading(t, web, serviceRequesting("rival", "web-tls"), serviceRequesting("other", "other-tls"))}}
	if got := r.competitorsOfService(t.Context(), web); len(got) != 1 || got[0].Name != "rival" {
		t.Errorf("reconciled are %v, want the rival", got)
	}
}
