package issuance_test

import (
	"crypto/x509"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// TestCanReplace checks that a Secret made for a Service of this name, or for one without a claim,
// is replaced, and that any other is left alone.
func TestCanReplace(t *testing.T) {
	ownerKind := func(apiVersion, kind string) func(*corev1.Secret) {
		return func(s *corev1.Secret) {
			s.OwnerReferences = append(s.OwnerReferences, metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: "web", UID: "uid-of-another-web"})
		}
	}
	annotated := func(key, value string) func(*corev1.Secret) {
		return func(s *corev1.Secret) { s.Annotations = map[string]string{key: value} }
	}
	written := func(s *corev1.Secret) {
		s.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "servingcert-certificate"}}
	}
	opaque := func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }
	type edits = []func(*corev1.Secret)
	for _, tc := range []struct {
		name             string
		secret           edits
		own, asOpenShift bool
		owned            bool
	}{
		{"nothing says so", nil, false, false, false},
		{"label and owner", edits{labelled("web"), ownedBy("web", "uid-of-web")}, true, true, true},
		{"the label, without an owner: restored from a backup", edits{labelled("web")}, true, true, false},
		{"the label, owned by the Service before this one", edits{labelled("web"), ownedBy("web", "uid-of-the-web-before")}, true, true, false},
		{"the label, owned by both", edits{labelled("web"), ownedBy("db", "uid-of-db"), ownedBy("web", "uid-of-web")}, true, true, true},
		{"the label, owned by another Service", edits{labelled("web"), ownedBy("db", "uid-of-db")}, false, false, false},
		{"the label, owned by another kind", edits{labelled("web"), ownerKind("v1", "Pod")}, false, false, false},
		{"the label, owned by another API's Service", edits{labelled("web"), ownerKind("serving.knative.dev/v1", "Service")}, false, false, false},
		{"the label, of another type", edits{labelled("web"), opaque}, false, false, false},
		{"the label of one without a claim", edits{labelled("db")}, true, true, false},
		{"label and owner of one without a claim", edits{labelled("db"), ownedBy("db", "uid-of-db")}, true, true, false},
		{"another's label, and this owner", edits{labelled("db"), ownedBy("web", "uid-of-web")}, true, true, true},
		{"written by us, and somebody removed the label", edits{written, ownedBy("web", "uid-of-web")}, true, true, true},
		{"written by us, for whoever it was", edits{written, ownedBy("web", "uid-of-the-web-before")}, false, false, false},
		{"the owner alone", edits{ownedBy("web", "uid-of-web")}, false, false, true},
		{"the origin of OpenShift's beta", edits{annotated(beta+"originating-service-uid", "uid-of-web")}, false, true, false},
		{"the origin of OpenShift's alpha", edits{annotated(alpha+"originating-service-uid", "uid-of-web")}, false, true, false},
		{"the origin, of another type", edits{annotated(beta+"originating-service-uid", "uid-of-web"), opaque}, false, false, false},
		{"another origin", edits{annotated(beta+"originating-service-uid", "uid-of-db")}, false, false, false},
		{"the origin by name alone", edits{annotated(beta+"originating-service-name", "web")}, false, false, false},
		{"the origin, and another's label and owner", edits{
			annotated(beta+"originating-service-uid", "uid-of-web"), labelled("db"), ownedBy("web", "uid-of-the-web-before")}, false, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			secret := secretOf(tc.secret...)
			if got := issuance.IsOwnedBy(secret, newService()); got != tc.owned {
				t.Errorf("HasOwner = %v, want %v", got, tc.owned)
			}
			for _, by := range []struct {
				ask      func(*corev1.Service)
				replaces bool
			}{{ownAnnotation, tc.own}, {betaAnnotation, tc.asOpenShift}, {alphaAnnotation, tc.asOpenShift}} {
				s := newFixture(t, withAnnotation(by.ask), func(s *fixture) { s.secret = secret })
				plan := s.plan()
				if got := plan.Action == issuance.Issue && plan.Problem == nil; got != by.replaces {
					t.Errorf("asked by %s it is replaced: %v, want %v", plan.Desired.Family, got, by.replaces)
				}
				if !by.replaces && (plan.Problem == nil || plan.Problem.Reason != issuance.ReasonSecretNotOurs) {
					t.Errorf("asked by %s: obstacle %v", plan.Desired.Family, plan.Problem)
				}
			}
		})
	}
}

// TestKeepsPrivateKey checks that a key is kept only beside a certificate that this CA, or an
// earlier generation of it, signed for this Service.
func TestKeepsPrivateKey(t *testing.T) {
	keeps := func(s *fixture) {
		s.policy.Spec.Certificate.PrivateKey.RotationPolicy = v1alpha1.RotateNever
	}
	for _, tc := range []struct {
		name  string
		after func(*fixture)
		want  bool
	}{
		{"ours", none, true},
		{"of an expired certificate", func(s *fixture) { s.now = now.Add(100 * day) }, true},
		{"of a generation before", func(s *fixture) {
			before := s.ca.CA.Certificate
			s.ca = newSigner(s.t, now)
			s.ca.Predecessors = []*x509.Certificate{before}
		}, true},
		{"of a generation before, while none signs", func(s *fixture) {
			s.ca.Predecessors, s.ca.CA.Certificate = []*x509.Certificate{s.ca.CA.Certificate}, nil
		}, true},
		{"of a CA that is unknown, or was compromised", func(s *fixture) { s.ca = newSigner(s.t, now) }, false},
		{"of a self-made certificate", func(s *fixture) {
			planted := newIssuedFixture(s.t)
			s.secret.Data = planted.secret.Data
		}, false},
		{"of a self-made certificate in the name of the CA", func(s *fixture) {
			pair, err := pki.GenerateRoot(now, pki.RootSpec{CommonName: "signer", Duration: day, Key: pki.KeySpec{Algorithm: v1alpha1.ECDSA, Size: 256}})
			planted := must(s.t, pair, err)
			s.secret.Data = map[string][]byte{"tls.crt": planted.Certificate, "tls.key": planted.PrivateKey}
		}, false},
		{"of another Service's certificate", func(s *fixture) {
			other := newIssuedFixture(s.t, func(o *fixture) { o.ca, o.service.Name = s.ca, "other" })
			s.secret.Data = other.secret.Data
		}, false},
		{"by default", func(s *fixture) { s.policy = newPolicy() }, false},
		{"where the policy wants a new one", func(s *fixture) {
			s.policy.Spec.Certificate.PrivateKey.RotationPolicy = v1alpha1.RotateAlways
		}, false},
		{"of the Service before this one", func(s *fixture) { s.service.UID = "uid-of-the-next" }, false},
		{"without an owner", func(s *fixture) { s.secret.OwnerReferences = nil }, false},
		{"somebody else's key", func(s *fixture) { s.secret.Data["tls.key"] = newIssuedFixture(s.t).secret.Data["tls.key"] }, false},
		{"beside a corrupt certificate", data("tls.crt", []byte("garbage")), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newIssuedFixture(t, keeps)
			tc.after(s)
			if got := s.desired().KeepsPrivateKey(s.digest(), &s.ca.CA); got != tc.want {
				t.Errorf("KeepsKey = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestSecret(t *testing.T) {
	expiry := now.Add(90 * day).Truncate(time.Second).Format(time.RFC3339)
	labels := map[string]string{v1alpha1.LabelService: "web", v1alpha1.LabelServiceCA: "default"}
	const described = "The serving certificate and its key for web.shop.svc, which Service web asks for by "
	for _, tc := range []struct {
		name        string
		ask         func(*corev1.Service)
		annotations map[string]string
	}{
		{"own", ownAnnotation, nil},
		{"beta", betaAnnotation, map[string]string{
			beta + "originating-service-uid": "uid-of-web", beta + "originating-service-name": "web", beta + "expiry": expiry, alpha + "expiry": expiry,
			"openshift.io/owning-component": "service-ca", "openshift.io/description": described + beta + "serving-cert-secret-name."}},
		{"alpha", alphaAnnotation, map[string]string{
			alpha + "originating-service-uid": "uid-of-web", alpha + "originating-service-name": "web", beta + "expiry": expiry, alpha + "expiry": expiry,
			"openshift.io/owning-component": "service-ca", "openshift.io/description": described + alpha + "serving-cert-secret-name."}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newIssuedFixture(t, withAnnotation(tc.ask))
			want := corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: "shop", Name: "web-cert", UID: "uid-of-secret", Labels: labels, Annotations: tc.annotations, ManagedFields: ownManagedFields,
					OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: "web", UID: "uid-of-web"}},
				},
				Type: corev1.SecretTypeTLS,
				Data: s.secret.Data,
			}
			if diff := cmp.Diff(&want, s.secret, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestPatch checks that a patch applies to the exact version of a Secret only, keeps what others
// put there, and removes what was ours.
func TestPatch(t *testing.T) {
	s := newIssuedFixture(t, withAnnotation(betaAnnotation))
	s.secret.ResourceVersion, s.secret.UID = "42", "uid-of-secret"
	patch, err := s.desired().Patch(s.pair(), "", &s.ca.CA, s.digest())
	must(t, patch, err)
	var version struct {
		Metadata struct{ UID, ResourceVersion string }
	}
	if err := json.Unmarshal(patch, &version); err != nil || version.Metadata.UID != "uid-of-secret" || version.Metadata.ResourceVersion != "42" {
		t.Errorf("it is of %+v: %v", version, err)
	}
	theirs := metav1.OwnerReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: "uid-of-deployment"}
	s.secret.OwnerReferences = append(s.secret.OwnerReferences, theirs,
		metav1.OwnerReference{APIVersion: "v1", Kind: "Service", Name: "web", UID: "uid-of-one-before"})
	s.secret.Labels["app"], s.secret.Annotations["note"] = "web", "theirs"
	s.secret.Data["ca.crt"], s.secret.Data["keystore.p12"], s.secret.Data["theirs"] = []byte("ours"), []byte("theirs"), []byte("theirs")
	s.secret.Annotations[v1alpha1.AnnotationCABundleHash] = pki.Hash([]byte("ours"))
	s.secret.Annotations[v1alpha1.AnnotationKeystoreHash] = pki.Hash([]byte("ours")) + "/version"
	before := s.secret.DeepCopy()
	ownAnnotation(s.service)
	s.write(s.pair())

	want := before
	want.OwnerReferences = []metav1.OwnerReference{theirs, {APIVersion: "v1", Kind: "Service", Name: "web", UID: "uid-of-web"}}
	want.Annotations = map[string]string{"note": "theirs"}
	for _, openShifts := range []string{"openshift.io/owning-component", "openshift.io/description"} {
		// A digest does not say who wrote them.
		want.Annotations[openShifts] = s.secret.Annotations[openShifts]
	}
	delete(want.Data, "ca.crt")
	if diff := cmp.Diff(want, s.secret); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, err := range map[string]error{
		"made":    second(s.desired().Secret(pki.Pair{}, "", &s.ca.CA)),
		"patched": second(s.desired().Patch(pki.Pair{}, "", &s.ca.CA, s.digest())),
	} {
		if err == nil {
			t.Errorf("a Secret without a certificate was %s", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestUnexpectedKeys checks that keys are unexpected only for OpenShift's annotations, which
// promise exactly two.
func TestUnexpectedKeys(t *testing.T) {
	for _, tc := range []struct {
		name string
		ask  func(*corev1.Service)
		want []string
	}{
		{"own", ownAnnotation, nil},
		{"beta", betaAnnotation, []string{"ca.crt", "keystore.jks"}},
		{"alpha", alphaAnnotation, []string{"ca.crt", "keystore.jks"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newIssuedFixture(t, withAnnotation(tc.ask))
			if got := s.desired().UnexpectedKeys(s.digest()); got != nil {
				t.Errorf("at first: %v, want none", got)
			}
			s.secret.Data["keystore.jks"], s.secret.Data["ca.crt"] = []byte("x"), nil
			if diff := cmp.Diff(tc.want, s.desired().UnexpectedKeys(s.digest())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			s.expect(issuance.Keep)
		})
	}
}

// TestNotAfter checks that NotAfter is the certificate's own for any certificate with its key, no
// matter which CA signed it, and zero otherwise.
func TestNotAfter(t *testing.T) {
	s := newIssuedFixture(t)
	if notAfter := issuance.NotAfter(s.digest()); !notAfter.Equal(s.leaf().NotAfter) {
		t.Errorf("End = %s, want %s", notAfter, s.leaf().NotAfter)
	}
	for _, tc := range []struct {
		name  string
		after func(*fixture)
	}{
		{"no Secret", func(s *fixture) { s.secret = nil }},
		{"no data", func(s *fixture) { s.secret.Data = nil }},
		{"no key", func(s *fixture) { delete(s.secret.Data, "tls.key") }},
		{"a corrupt certificate", data("tls.crt", []byte("garbage"))},
		{"another's key", func(s *fixture) { s.secret.Data["tls.key"] = newIssuedFixture(s.t).secret.Data["tls.key"] }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newIssuedFixture(t)
			tc.after(s)
			if notAfter := issuance.NotAfter(s.digest()); !notAfter.IsZero() {
				t.Errorf("End = %s, want none", notAfter)
			}
		})
	}
}
