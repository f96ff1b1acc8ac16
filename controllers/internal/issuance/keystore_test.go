package issuance_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// What a Service says of its keystore is answered by an obstacle where it cannot be, and never for OpenShift's annotations.
func TestKeystoreCheck(t *testing.T) {
	for _, tc := range []struct {
		name, format, password string
		ask                    func(*corev1.Service)
		reason                 string
	}{
		{"no password", "pkcs12", "", asksOwn, ""},
		{"a Secret", "pkcs12", "pass.word", asksOwn, ""},
		{"a Secret and its key", "pkcs12", "password/my_key", asksOwn, ""},
		{"another format", "jks", "", asksOwn, issuance.ReasonInvalidKeystore},
		{"no name of a Secret", "pkcs12", "..", asksOwn, issuance.ReasonNoPassword},
		{"no key of one", "pkcs12", "password/..", asksOwn, issuance.ReasonNoPassword},
		{"a path", "pkcs12", "password/a/b", asksOwn, issuance.ReasonNoPassword},
		{"by OpenShift's annotation", "jks", "..", asksBeta, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newScene(t, asking(tc.ask), func(s *scene) {
				s.service.Annotations[v1alpha1.AnnotationKeystore] = tc.format
				s.service.Annotations[v1alpha1.AnnotationKeystorePassword] = tc.password
			})
			plan := s.plan()
			switch {
			case tc.reason == "" && plan.Obstacle != nil:
				t.Errorf("it is told %v", plan.Obstacle)
			case tc.reason != "" && (plan.Obstacle == nil || plan.Obstacle.Reason != tc.reason || !strings.Contains(plan.Obstacle.Message, "annotation")):
				t.Errorf("it is told %v, want %s with the annotation", plan.Obstacle, tc.reason)
			}
		})
	}
}
