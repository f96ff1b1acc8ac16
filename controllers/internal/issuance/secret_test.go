package issuance_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
)

func TestDigest(t *testing.T) {
	s := servedScene(t, certificateEdit(func(c *v1alpha1.ServingCertificate) { c.CABundle = v1alpha1.CABundleInclude }))
	s.secret.Data["password"] = []byte("hunter2")
	s.secret.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "servingcert"}}
	digest := s.digest()
	if diff := cmp.Diff(map[string][]byte{"tls.crt": s.secret.Data["tls.crt"]}, digest.Data); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
	want := map[string]string{"tls.key": "sound", "ca.crt": pki.Hash(s.ca.Bundle), "password": ""}
	if diff := cmp.Diff(want, digest.StringData); diff != "" {
		t.Errorf("stringData (-want +got):\n%s", diff)
	}
	if digest.ManagedFields != nil {
		t.Error("the managed fields are kept")
	}
	if diff := cmp.Diff(s.secret.Labels, digest.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(s.secret.OwnerReferences, digest.OwnerReferences); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
}

// However many keys a tenant writes, a digest is small; and what OpenShift's annotation does not allow is removed all the same, by and by.
func TestDigestOfManyKeys(t *testing.T) {
	t.Parallel()
	const many = 1000
	secret := secretOf(labelled("web"), func(s *corev1.Secret) { s.Data = map[string][]byte{} })
	for i := range many {
		secret.Data[strconv.Itoa(i)] = nil
	}
	want := issuance.Want{Family: issuance.OpenShift}
	for rounds := 0; len(secret.Data) > 0; rounds++ {
		digest := secret.DeepCopy()
		issuance.Digest(digest)
		surplus := want.Surplus(digest)
		if len(digest.StringData) > 50 || len(surplus) == 0 || rounds == many {
			t.Fatalf("of %d keys the digest holds %d, of which %d are to be removed", len(secret.Data), len(digest.StringData), len(surplus))
		}
		for _, key := range surplus {
			delete(secret.Data, key)
		}
	}
}

// TestDigestKeepsNoKey: wherever a Secret holds a private key, its digest does not; and a digest stays what it is.
func TestDigestKeepsNoKey(t *testing.T) {
	s := servedScene(t)
	sound, other := s.pair(), servedScene(t).pair()
	values := map[string][]byte{
		"nothing": nil, "empty": {}, "garbage": []byte("garbage"), "certificate": sound.Certificate, "key": sound.PrivateKey,
		"another key": other.PrivateKey, "half a key": sound.PrivateKey[:120],
		"certificate and key":       slices.Concat(sound.Certificate, sound.PrivateKey),
		"key and certificate":       slices.Concat(sound.PrivateKey, sound.Certificate),
		"key in half a certificate": slices.Concat(sound.PrivateKey, sound.Certificate[:100]),
	}
	value := rapid.SampledFrom(slices.Sorted(maps.Keys(values)))
	rapid.Check(t, func(t *rapid.T) {
		secret := secretOf(labelled("web"), func(s *corev1.Secret) { s.Data = map[string][]byte{} })
		for key, name := range rapid.MapOfN(rapid.SampledFrom([]string{"tls.crt", "tls.key", "ca.crt", "key.pem"}), value, 0, 4).Draw(t, "data") {
			secret.Data[key] = values[name]
		}
		if rapid.Bool().Draw(t, "applied by kubectl") {
			encoded, err := json.Marshal(secret)
			secret.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: string(must(t, encoded, err)), "note": "kept"}
		}
		given := secret.DeepCopy()
		issuance.Digest(secret)
		for _, key := range [][]byte{sound.PrivateKey, other.PrivateKey} {
			if holds := whereIs(key, secret); holds != "" {
				t.Errorf("%s of the digest holds a private key", holds)
			}
		}
		if note := secret.Annotations["note"]; note != given.Annotations["note"] {
			t.Errorf("the annotation of others is %q", note)
		}
		before := leafOf(given)
		if after := leafOf(secret); after != before {
			t.Errorf("the certificate in the digest is %q, and in the Secret %q", after, before)
		}
		again := secret.DeepCopy()
		issuance.Digest(again)
		if diff := cmp.Diff(secret, again); diff != "" {
			t.Errorf("digested twice (-once +twice):\n%s", diff)
		}
	})
}

// whereIs tells where in a Secret a piece of a key in PEM stands, as it is or in base64.
func whereIs(key []byte, secret *corev1.Secret) string {
	lines := strings.Split(string(key), "\n")
	places := map[string]string{}
	for name, value := range secret.Data {
		places["data."+name] = string(value)
	}
	for name, value := range secret.StringData {
		places["stringData."+name] = value
	}
	for name, value := range secret.Annotations {
		places["annotation "+name] = value
	}
	for name, value := range places {
		if strings.Contains(value, lines[1][:40]) {
			return name
		}
		for candidate := range strings.FieldsFuncSeq(value, func(r rune) bool { return strings.ContainsRune(`"{}:,`, r) }) {
			if decoded, err := base64.StdEncoding.DecodeString(candidate); err == nil && strings.Contains(string(decoded), lines[1][:40]) {
				return name
			}
		}
	}
	return ""
}

// leafOf says what a plan reads of a Secret's certificate.
func leafOf(secret *corev1.Secret) string {
	leaf, err := pki.ParseLeaf(secret.Data["tls.crt"])
	if err != nil {
		return "unreadable"
	}
	return leaf.SerialNumber.String()
}

// TestWhoseSecret: what was made for a Service of this name, or for one without a claim, is replaced; the rest is left alone.
func TestWhoseSecret(t *testing.T) {
	ownerKind := func(apiVersion, kind string) func(*corev1.Secret) {
		return func(s *corev1.Secret) {
			s.OwnerReferences = append(s.OwnerReferences, metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: "web", UID: "uid-of-another-web"})
		}
	}
	annotated := func(key, value string) func(*corev1.Secret) {
		return func(s *corev1.Secret) { s.Annotations = map[string]string{key: value} }
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
			if got := issuance.HasOwner(secret, newService()); got != tc.owned {
				t.Errorf("HasOwner = %v, want %v", got, tc.owned)
			}
			for _, by := range []struct {
				ask      func(*corev1.Service)
				replaces bool
			}{{asksOwn, tc.own}, {asksBeta, tc.asOpenShift}, {asksAlpha, tc.asOpenShift}} {
				s := newScene(t, asking(by.ask), func(s *scene) { s.secret = secret })
				plan := s.plan()
				if got := plan.Action == issuance.Issue && plan.Obstacle == nil; got != by.replaces {
					t.Errorf("asked by %s it is replaced: %v, want %v", plan.Want.Family, got, by.replaces)
				}
				if !by.replaces && (plan.Obstacle == nil || plan.Obstacle.Reason != issuance.ReasonSecretNotOurs) {
					t.Errorf("asked by %s: obstacle %v", plan.Want.Family, plan.Obstacle)
				}
			}
		})
	}
}

// TestKeepableKey: a key is kept only where it is known to be ours.
func TestKeepableKey(t *testing.T) {
	for _, tc := range []struct {
		name  string
		after func(*scene)
		want  bool
	}{
		{"ours", none, true},
		{"of a certificate of another CA", func(s *scene) { s.ca = newSigner(s.t, now) }, true},
		{"of the Service before this one", func(s *scene) { s.service.UID = "uid-of-the-next" }, false},
		{"without an owner", func(s *scene) { s.secret.OwnerReferences = nil }, false},
		{"somebody else's key", func(s *scene) { s.secret.Data["tls.key"] = servedScene(s.t).secret.Data["tls.key"] }, false},
		{"beside a corrupt certificate", data("tls.crt", []byte("garbage")), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := servedScene(t)
			tc.after(s)
			if got := issuance.KeepableKey(s.digest(), s.service); got != tc.want {
				t.Errorf("KeepableKey = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestSecret(t *testing.T) {
	expiry := now.Add(90 * day).Truncate(time.Second).Format(time.RFC3339)
	labels := map[string]string{v1alpha1.LabelService: "web", v1alpha1.LabelServiceCA: "default"}
	for _, tc := range []struct {
		name        string
		ask         func(*corev1.Service)
		annotations map[string]string
	}{
		{"own", asksOwn, nil},
		{"beta", asksBeta, map[string]string{
			beta + "originating-service-uid": "uid-of-web", beta + "originating-service-name": "web", beta + "expiry": expiry, alpha + "expiry": expiry}},
		{"alpha", asksAlpha, map[string]string{
			alpha + "originating-service-uid": "uid-of-web", alpha + "originating-service-name": "web", beta + "expiry": expiry, alpha + "expiry": expiry}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := servedScene(t, asking(tc.ask))
			want := corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: "shop", Name: "web-cert", UID: "uid-of-secret", Labels: labels, Annotations: tc.annotations,
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

// TestPatch: a write over a Secret takes effect on that very version only, keeps what others put there, and removes what was ours.
func TestPatch(t *testing.T) {
	s := servedScene(t, asking(asksBeta))
	s.secret.ResourceVersion, s.secret.UID = "42", "uid-of-secret"
	patch, err := s.want().Patch(s.pair(), "", &s.ca.CA, s.digest())
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
	s.secret.Annotations[v1alpha1.AnnotationCABundleHash] = "marks ca.crt"
	before := s.secret.DeepCopy()
	asksOwn(s.service)
	s.write(s.pair())

	want := before
	want.OwnerReferences = []metav1.OwnerReference{theirs, {APIVersion: "v1", Kind: "Service", Name: "web", UID: "uid-of-web"}}
	want.Annotations = map[string]string{"note": "theirs"}
	delete(want.Data, "ca.crt")
	if diff := cmp.Diff(want, s.secret); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, err := range map[string]error{
		"made":    second(s.want().Secret(pki.Pair{}, "", &s.ca.CA)),
		"patched": second(s.want().Patch(pki.Pair{}, "", &s.ca.CA, s.digest())),
	} {
		if err == nil {
			t.Errorf("a Secret without a certificate was %s", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestSurplus: OpenShift's annotation promises two keys and no more; nobody else minds.
func TestSurplus(t *testing.T) {
	for _, tc := range []struct {
		name string
		ask  func(*corev1.Service)
		want []string
	}{
		{"own", asksOwn, nil},
		{"beta", asksBeta, []string{"ca.crt", "keystore.jks"}},
		{"alpha", asksAlpha, []string{"ca.crt", "keystore.jks"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := servedScene(t, asking(tc.ask))
			if got := s.want().Surplus(s.digest()); got != nil {
				t.Errorf("at first: %v, want none", got)
			}
			s.secret.Data["keystore.jks"], s.secret.Data["ca.crt"] = []byte("x"), nil
			if diff := cmp.Diff(tc.want, s.want().Surplus(s.digest())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			s.expect(issuance.Keep)
		})
	}
}

// TestEnd: a certificate that could serve ends when it says, whoever signed it; anything else ends at no time.
func TestEnd(t *testing.T) {
	s := servedScene(t)
	if end := issuance.End(s.digest()); !end.Equal(s.leaf().NotAfter) {
		t.Errorf("End = %s, want %s", end, s.leaf().NotAfter)
	}
	for _, tc := range []struct {
		name  string
		after func(*scene)
	}{
		{"no Secret", func(s *scene) { s.secret = nil }},
		{"no data", func(s *scene) { s.secret.Data = nil }},
		{"no key", func(s *scene) { delete(s.secret.Data, "tls.key") }},
		{"a corrupt certificate", data("tls.crt", []byte("garbage"))},
		{"another's key", func(s *scene) { s.secret.Data["tls.key"] = servedScene(s.t).secret.Data["tls.key"] }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := servedScene(t)
			tc.after(s)
			if end := issuance.End(s.digest()); !end.IsZero() {
				t.Errorf("End = %s, want none", end)
			}
		})
	}
}
