package issuance_test

import (
	"encoding/json"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// now is far in the future and between two seconds, so that a stray time.Now() or a forgotten
// truncation makes a test fail.
var now = time.Date(2071, time.March, 14, 15, 9, 26, 535897932, time.UTC)

const (
	day   = 24 * time.Hour
	beta  = "service.beta.openshift.io/"
	alpha = "service.alpha.openshift.io/"
)

var resolver = issuance.Resolver{ClusterDomain: "cluster.local", OpenShiftAnnotations: true}

func must[T any](t rapid.TB, value T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// newService returns Service web in namespace shop, which requests nothing.
func newService(edits ...func(*corev1.Service)) *corev1.Service {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web", UID: "uid-of-web", CreationTimestamp: metav1.NewTime(now.Add(-day)),
			Annotations: map[string]string{},
		},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.0.0.1"},
	}
	for _, edit := range edits {
		edit(service)
	}
	return service
}

func annotated(key, value string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Annotations[key] = value }
}

var (
	ownAnnotation   = annotated(v1alpha1.AnnotationSecretName, "web-cert")
	betaAnnotation  = annotated(beta+"serving-cert-secret-name", "web-cert")
	alphaAnnotation = annotated(alpha+"serving-cert-secret-name", "web-cert")
)

func headless(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }

// newPolicy returns a policy with the defaults of the API.
func newPolicy(edits ...func(*v1alpha1.ServingCertPolicySpec)) *v1alpha1.ServingCertPolicy {
	policy := &v1alpha1.ServingCertPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "default"},
		Spec: v1alpha1.ServingCertPolicySpec{
			ServiceCAName: "default", Issuance: v1alpha1.IssueAnnotated, SecretNameSuffix: "-tls",
			Certificate: v1alpha1.ServingCertificate{
				Duration:   "2160h",
				PrivateKey: v1alpha1.ServingPrivateKey{PrivateKey: v1alpha1.PrivateKey{Algorithm: v1alpha1.ECDSA}, RotationPolicy: v1alpha1.RotateAlways},
				Usages:     []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth},
				CABundle:   v1alpha1.CABundleOmit,
			},
		},
	}
	for _, edit := range edits {
		edit(&policy.Spec)
	}
	return policy
}

// signer is a CA with its key and its public part.
type signer struct {
	*pki.Authority
	issuance.CA
}

func newSigner(t rapid.TB, at time.Time, edits ...func(*pki.RootSpec)) *signer {
	t.Helper()
	spec := pki.RootSpec{CommonName: "signer", Duration: 790 * day, Key: pki.KeySpec{Algorithm: v1alpha1.ECDSA, Size: 256}}
	for _, edit := range edits {
		edit(&spec)
	}
	pair, err := pki.GenerateRoot(at, spec)
	return loadSigner(t, must(t, pair, err))
}

func loadSigner(t rapid.TB, pair pki.Pair) *signer {
	t.Helper()
	authority, err := pki.LoadAuthority(pair)
	must(t, authority, err)
	return &signer{authority, issuance.CA{
		Certificate: authority.Certificate(), NotAfter: authority.NotAfter(), Chain: authority.Chain(), Bundle: pki.NewBundle(authority.Certificate()).Encode(),
	}}
}

// fixture is one Service and everything that its plan depends on.
type fixture struct {
	t       rapid.TB
	now     time.Time
	service *corev1.Service
	policy  *v1alpha1.ServingCertPolicy
	ca      *signer
	// secret is the Secret as the API server has it, with its key; nil when there is none.
	secret      *corev1.Secret
	competitors []*corev1.Service
}

// newFixture returns a fixture whose Service requests a Secret that does not exist yet.
func newFixture(t rapid.TB, edits ...func(*fixture)) *fixture {
	t.Helper()
	s := &fixture{t: t, now: now, service: newService(ownAnnotation), policy: newPolicy(), ca: newSigner(t, now)}
	for _, edit := range edits {
		edit(s)
	}
	return s
}

// newIssuedFixture returns a fixture whose Secret has just been created.
func newIssuedFixture(t rapid.TB, edits ...func(*fixture)) *fixture {
	t.Helper()
	s := newFixture(t, edits...)
	s.execute(s.plan())
	return s
}

func (f *fixture) desired() issuance.Desired {
	f.t.Helper()
	desired, ok := resolver.Desired(f.service, f.policy)
	if !ok {
		f.t.Fatal("the policy gives the Service nothing")
	}
	return desired
}

// digest returns the Secret as the caches hold it.
func (f *fixture) digest() *corev1.Secret {
	if f.secret == nil {
		return nil
	}
	digest := f.secret.DeepCopy()
	issuance.Digest(digest)
	return digest
}

func (f *fixture) plan() issuance.Plan {
	f.t.Helper()
	return f.desired().Plan(f.now, &f.ca.CA, f.digest(), f.competitors)
}

// execute carries out a plan, as the controller does.
func (f *fixture) execute(plan issuance.Plan) {
	f.t.Helper()
	switch plan.Action {
	case issuance.Issue:
		var previous *pki.Key
		if plan.Desired.KeepsPrivateKey(f.digest(), &f.ca.CA) {
			previous = pki.ReadKey(f.secret.Data["tls.key"])
		}
		pair, err := f.ca.Issue(f.now, plan.Desired.Leaf, plan.Desired.Duration, previous)
		f.write(must(f.t, pair, err))
	case issuance.Repair:
		pair := f.pair()
		key, err := pki.EncodeKey(pair.PrivateKey, plan.Desired.Leaf.Encoding)
		pair.PrivateKey = must(f.t, key, err)
		f.write(pair)
	case issuance.Keep, issuance.Refuse:
	}
}

// write does what the API server does with a new Secret, or with a patch of the existing one.
func (f *fixture) write(pair pki.Pair) {
	f.t.Helper()
	if f.secret == nil {
		made, err := f.desired().Secret(pair, "", &f.ca.CA)
		f.secret = must(f.t, made, err)
		f.secret.UID, f.secret.ManagedFields = "uid-of-secret", ownManagedFields
		return
	}
	patch, err := f.desired().Patch(pair, "", &f.ca.CA, f.digest())
	before, err2 := json.Marshal(f.secret)
	after, err3 := jsonpatch.MergePatch(must(f.t, before, err2), must(f.t, patch, err))
	var patched corev1.Secret
	if err := json.Unmarshal(must(f.t, after, err3), &patched); err != nil {
		f.t.Fatal(err)
	}
	patched.ManagedFields = ownManagedFields
	f.secret = &patched
}

// ownManagedFields is what the API server records for a write of the operator.
var ownManagedFields = []metav1.ManagedFieldsEntry{{Manager: "servingcert-certificate"}}

func (f *fixture) pair() pki.Pair {
	return pki.Pair{Certificate: f.secret.Data["tls.crt"], PrivateKey: f.secret.Data["tls.key"]}
}

func (f *fixture) leaf() *pki.Leaf {
	f.t.Helper()
	leaf, err := pki.ParseLeaf(f.secret.Data["tls.crt"])
	return must(f.t, leaf, err)
}

// expect fails the test unless the plan has this action and no problem.
func (f *fixture) expect(action issuance.Action) issuance.Plan {
	f.t.Helper()
	plan := f.plan()
	if plan.Action != action || plan.Problem != nil {
		f.t.Errorf("at %s: the plan is %s because %q, obstacle %v; want %s", f.now, plan.Action, plan.IssueReason, plan.Problem, action)
	}
	return plan
}

func secretOf(edits ...func(*corev1.Secret)) *corev1.Secret {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-cert", UID: "uid-of-secret"}, Type: corev1.SecretTypeTLS,
	}
	for _, edit := range edits {
		edit(secret)
	}
	return secret
}

func ownedBy(name, uid string) func(*corev1.Secret) {
	return func(s *corev1.Secret) {
		s.OwnerReferences = append(s.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Service", Name: name, UID: types.UID(uid)})
	}
}

func labelled(service string) func(*corev1.Secret) {
	return func(s *corev1.Secret) { s.Labels = map[string]string{v1alpha1.LabelService: service} }
}
