package serviceca

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// other returns another ServiceCA than the one of the fixture.
func other(name, source, signingKey string) v1alpha1.ServiceCA {
	ca := v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: name}}
	ca.Spec.SigningKey.SecretName = signingKey
	if source != "" {
		ca.Spec.Source.Secret = &v1alpha1.SecretSource{Name: source}
	}
	return ca
}

// TestSecretIsSourceAndSigningKey checks that a Secret that is both a source and a signing key, of
// one ServiceCA or of two, is neither read nor written, and that no remedy in a message makes that
// worse.
func TestSecretIsSourceAndSigningKey(t *testing.T) {
	t.Parallel()
	const label = "servingcert.dev/serviceca=default"
	for name, tc := range map[string]struct {
		source, signingKey string
		labels             map[string]string
		others             []v1alpha1.ServiceCA
		reason, message    string
	}{
		"its own": {"corp", "corp", nil, nil, reasonSourceInvalid, "spec.source.secret and spec.signingKey are the same Secret corp"},
		"its own, labelled as was advised": {"corp", "corp", map[string]string{v1alpha1.LabelServiceCA: "default"}, nil, reasonSourceInvalid,
			"bring the CA in a Secret of another name"},
		"its own by default": {"default-signing-key", "", nil, nil, reasonSourceInvalid, "are the same Secret default-signing-key"},
		"another's signing key": {"corp", "", nil, []v1alpha1.ServiceCA{other("two", "", "corp")}, reasonSourceInvalid,
			"Secret corp is the signing key of ServiceCA two"},
		"another's signing key by default": {"two-signing-key", "", nil, []v1alpha1.ServiceCA{other("two", "", "")}, reasonSourceInvalid,
			"Secret two-signing-key is the signing key of ServiceCA two"},
		"another's signing key under a former name": {"corp", "", map[string]string{v1alpha1.LabelServiceCA: "former"},
			[]v1alpha1.ServiceCA{other("former", "", "moved")}, reasonSourceInvalid, "Secret corp is the signing key of ServiceCA former"},
		"another's source": {"", "corp", nil, []v1alpha1.ServiceCA{other("two", "corp", "")}, reasonSigningKeyNotOur,
			"Secret corp is left alone, because ServiceCA two takes its CA from it"},
		"another's source, labelled": {"", "corp", map[string]string{v1alpha1.LabelServiceCA: "default"},
			[]v1alpha1.ServiceCA{other("two", "corp", "")}, reasonSigningKeyNotOur, "because ServiceCA two takes its CA from it"},
		"another's signing key as its own": {"", "corp", map[string]string{v1alpha1.LabelServiceCA: "two"},
			[]v1alpha1.ServiceCA{other("two", "", "corp")}, reasonSigningKeyNotOur, "because it belongs to ServiceCA two: set spec.signingKey.secretName"},
		"that of one that is gone": {"", "corp", map[string]string{v1alpha1.LabelServiceCA: "two"}, nil, reasonSigningKeyNotOur, label},
		"nobody's":                 {"", "corp", nil, []v1alpha1.ServiceCA{other("two", "", "")}, reasonSigningKeyNotOur, label},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFixture(t, tc.source)
			s.serviceCA.Spec.SigningKey.SecretName = tc.signingKey
			s.serviceCAs = slices.Concat(tc.others, []v1alpha1.ServiceCA{*s.serviceCA})
			shared := sourceSecret(t, nil, generateCA(t, "Shared", nil))
			shared.Labels = tc.labels
			if tc.source != "" {
				shared.Name, s.sourceSecret = tc.source, shared
			}
			if tc.labels[v1alpha1.LabelServiceCA] == "former" {
				shared.Data[rotation.RecordKey] = []byte("{}")
			}
			if name := s.serviceCA.SigningKeySecretName(); tc.source == "" || tc.source == name {
				shared.Name, s.secret = name, shared
			}
			plan := s.plan()
			if plan.secret != nil || plan.problem == nil || plan.problem.reason != tc.reason || !strings.Contains(plan.problem.message, tc.message) {
				t.Fatalf("%+v", plan.problem)
			}
			if strings.Contains(plan.problem.message, label) != (tc.message == label) {
				t.Errorf("it advises to label the Secret: %s", plan.problem.message)
			}
		})
	}
}

// TestSigningKeyBecomesASource checks that a ServiceCA keeps its signing key when another one
// refers to the same Secret.
func TestSigningKeyBecomesASource(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	first := s.settle()
	s.serviceCAs = []v1alpha1.ServiceCA{other("two", s.secret.Name, "")}
	if state := s.settle(); state.Active.Fingerprint() != first.Active.Fingerprint() {
		t.Error("another CA signs, because another ServiceCA names its key as a source")
	}
	s.serviceCA.Spec.Source.Secret, s.sourceSecret = &v1alpha1.SecretSource{Name: s.secret.Name}, s.secret
	plan := s.takesPlace()
	if plan.state == nil || plan.state.Active.Fingerprint() != first.Active.Fingerprint() || plan.problem.reason != reasonSourceInvalid {
		t.Errorf("%+v", plan.problem)
	}
}

// TestBundleOfAnother checks that two ServiceCAs with the same ConfigMap name are not advised to
// take it from each other.
func TestBundleOfAnother(t *testing.T) {
	t.Parallel()
	s := newFixture(t, "")
	two := other("two", "", "")
	two.Spec.TrustBundle.ConfigMapName = "default-trust-bundle"
	s.serviceCAs = []v1alpha1.ServiceCA{two}
	theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "default-trust-bundle", Labels: map[string]string{v1alpha1.LabelServiceCA: "two"}}}
	if says := s.bundleNotOurs(theirs).message; !strings.Contains(says, "belongs to ServiceCA two") || strings.Contains(says, "label") {
		t.Error(says)
	}
}
