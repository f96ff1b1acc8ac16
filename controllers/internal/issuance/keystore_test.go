package issuance_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// TestKeystoreCheck checks that an impossible keystore request is reported as a problem, and that
// OpenShift's annotations never get a keystore.
func TestKeystoreCheck(t *testing.T) {
	for _, tc := range []struct {
		name, format, password string
		ask                    func(*corev1.Service)
		reason                 string
	}{
		{"no password", "pkcs12", "", ownAnnotation, ""},
		{"a Secret", "pkcs12", "pass.word", ownAnnotation, ""},
		{"a Secret and its key", "pkcs12", "password/my_key", ownAnnotation, ""},
		{"another format", "jks", "", ownAnnotation, issuance.ReasonInvalidKeystore},
		{"no name of a Secret", "pkcs12", "..", ownAnnotation, issuance.ReasonNoPassword},
		{"no key of one", "pkcs12", "password/..", ownAnnotation, issuance.ReasonNoPassword},
		{"a path", "pkcs12", "password/a/b", ownAnnotation, issuance.ReasonNoPassword},
		{"by OpenShift's annotation", "jks", "..", betaAnnotation, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newFixture(t, withAnnotation(tc.ask), func(s *fixture) {
				s.service.Annotations[v1alpha1.AnnotationKeystore] = tc.format
				s.service.Annotations[v1alpha1.AnnotationKeystorePassword] = tc.password
			})
			plan := s.plan()
			switch {
			case tc.reason == "" && plan.Problem != nil:
				t.Errorf("it is told %v", plan.Problem)
			case tc.reason != "" && (plan.Problem == nil || plan.Problem.Reason != tc.reason || !strings.Contains(plan.Problem.Message, "annotation")):
				t.Errorf("it is told %v, want %s with the annotation", plan.Problem, tc.reason)
			}
		})
	}
}
