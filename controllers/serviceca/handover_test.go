package serviceca

import (
	"testing"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// TestHandedOver checks that a signing-key Secret that an administrator hands over by its label,
// without any data of the operator, continues to sign as if the operator had created it: a rotation
// starts only for the same reasons as for the operator's own CA. Docs: operations.md, openshift.md,
// serviceca.md, rotation.md.
func TestHandedOver(t *testing.T) {
	t.Parallel()
	root := generateCA(t, "openshift-service-serving-signer@1700000000", nil)
	rsa := v1alpha1.PrivateKey{Algorithm: v1alpha1.RSA, Size: 2048}
	for name, tc := range map[string]struct {
		chain  []*testCA
		change func(*fixture)
		want   v1alpha1.RotationReason
	}{
		"a root":                         {[]*testCA{root}, func(*fixture) {}, ""},
		"a root of another kind of key":  {[]*testCA{root}, func(s *fixture) { s.serviceCA.Spec.Certificate.PrivateKey = rsa }, v1alpha1.RotationSpecChanged},
		"a root past its threshold":      {[]*testCA{root}, func(s *fixture) { s.later(600 * time.Hour) }, v1alpha1.RotationThresholdPassed},
		"an intermediate":                {[]*testCA{generateCA(t, "issuing", root), root}, func(*fixture) {}, v1alpha1.RotationSourceChanged},
		"a root, and another is brought": {[]*testCA{root}, func(s *fixture) { s.brings(generateCA(t, "corp", nil)) }, v1alpha1.RotationSourceChanged},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t, "")
			s.secret = sourceSecret(t, nil, tc.chain...)
			s.secret.Name, s.secret.Labels = s.serviceCA.SigningKeySecretName(), map[string]string{v1alpha1.LabelServiceCA: "default"}
			tc.change(s)
			state := s.settle()
			if state.Reason != tc.want || !state.Active.Certificate().Equal(tc.chain[0].Certificate) || (state.Next != nil) != (tc.want != "") {
				t.Errorf("reason %q, want %q; %s signs, next is %v", state.Reason, tc.want, state.Active.Name(), state.Next)
			}
			if tc.want == "" && s.secret.Annotations[v1alpha1.AnnotationSource] != rotation.SelfSigned {
				t.Errorf("it came from %q", s.secret.Annotations[v1alpha1.AnnotationSource])
			}
			if made := s.rotated(); made.Active.Certificate().Equal(tc.chain[0].Certificate) != (tc.want == "") {
				t.Errorf("%s signs in the end", made.Active.Name())
			}
		})
	}
}

// brings sets source.secret to a Secret with this CA.
func (f *fixture) brings(ca *testCA) {
	f.serviceCA.Spec.Source.Secret, f.sourceSecret = &v1alpha1.SecretSource{Name: "corp"}, sourceSecret(f.T, nil, ca)
}
