package serviceca

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// bound is how old a file that a server or client reads may be, because the kubelet is slow. It is
// the value of propagation.minimum.
const bound = 10 * time.Minute

// simulation is a cluster with one ServiceCA. Everything is simulated except the decisions, the
// signatures and the verification.
type simulation struct {
	t   *testing.T
	rng *rand.Rand
	// now is the time of the API server. The clock of the manager is wrong by clockError.
	now        time.Time
	clockError time.Duration

	ca           *v1alpha1.ServiceCA
	policy       *v1alpha1.ServingCertPolicy
	sourceSecret *corev1.Secret
	secret       *corev1.Secret
	version      int
	backups      []*corev1.Secret

	published *file
	targets   []*file
	services  []*service
	keys      *keyring.Keyring
	clock     *clocktesting.FakePassiveClock
	// signers are the CAs that have signed, by key identifier; compromised are the roots that are to
	// be distrusted, by fingerprint.
	signers, compromised map[string]bool
	// rootOf is the fingerprint of the root to which a CA chains, by the key identifier of the CA.
	rootOf map[string]string
	// crossSigned is the path from a CA to the previous root by cross-signed certificates, by the key
	// identifier of the CA.
	crossSigned map[string]crossSignedPath

	restarter  restarter
	mutant     mutant
	handshakes int
	// verified is until when the result of a meeting cannot change.
	verified map[meeting]time.Time
	// stalled is for how many steps the phase that began at stalledSince has not proceeded although
	// nothing blocks it.
	stalled      int
	stalledSince metav1.Time
	log          []string
	failure      error
}

// crossSignedPath is the cross-signed path that certificates issued since then have.
type crossSignedPath struct {
	root  *x509.Certificate
	since time.Time
	// long is set when the path has more than one certificate. Such a path is not sent when leaves may
	// be valid for longer than its root is trusted.
	long bool
}

// file is what clients read a bundle from: a ConfigMap as mounted by the kubelet.
type file struct {
	// content is the data of the ConfigMap; nil when it is deleted.
	content []byte
	made    time.Time
	// versions are the bundles that clients may still have; the last one is what the operator wrote
	// last.
	versions []version
}

type version struct {
	content []byte
	roots   pki.Bundle
	// until is when the next version was written; zero for the last.
	until time.Time
}

// service is a Service with every certificate that a server of it may still use.
type service struct {
	*corev1.Service
	secret *corev1.Secret
	leaves []leaf
}

type leaf struct {
	*pki.Leaf
	// sent is what a server sends: the leaf and its chain.
	sent pki.Bundle
	// until is when another certificate replaced it in the Secret; zero for the last.
	until time.Time
}

func newSimulation(t *testing.T, seed uint64, broken mutant) *simulation {
	t.Helper()
	w := &simulation{
		t: t, rng: rand.New(rand.NewPCG(seed, seed)), now: now.Truncate(time.Second), mutant: broken,
		ca: &v1alpha1.ServiceCA{ObjectMeta: metav1.ObjectMeta{Name: "default", Generation: 1}, Spec: v1alpha1.ServiceCASpec{
			Certificate: v1alpha1.CACertificate{CommonName: "signer", Duration: "18960h", PrivateKey: v1alpha1.PrivateKey{Algorithm: v1alpha1.Ed25519}},
			Rotation:    v1alpha1.CARotation{RotateBefore: "9480h", Propagation: v1alpha1.Propagation{Minimum: v1alpha1.Duration(bound.String())}},
			TrustBundle: v1alpha1.TrustBundleReference{Key: "ca-bundle.crt"},
		}},
		policy: &v1alpha1.ServingCertPolicy{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v1alpha1.ServingCertPolicySpec{
			ServiceCAName: "default",
			Certificate: v1alpha1.ServingCertificate{
				Duration: "2160h", Usages: []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth},
				PrivateKey: v1alpha1.ServingPrivateKey{PrivateKey: v1alpha1.PrivateKey{Algorithm: v1alpha1.Ed25519}},
			},
		}},
		published: &file{}, signers: map[string]bool{}, compromised: map[string]bool{}, rootOf: map[string]string{}, crossSigned: map[string]crossSignedPath{}, verified: map[meeting]time.Time{},
	}
	w.restarter = newRestarter(seed)
	w.restartManager()
	for i := range 3 {
		w.services = append(w.services, &service{Service: &corev1.Service{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web" + strconv.Itoa(i), UID: "uid-of-web",
			Annotations: map[string]string{v1alpha1.AnnotationSecretName: "web-tls"},
		}}})
		w.targets = append(w.targets, &file{content: []byte{}, made: w.now})
	}
	return w
}

// restartManager clears what the operator keeps only in memory.
func (sim *simulation) restartManager() {
	sim.restarter.looked = time.Time{}
	sim.clock = clocktesting.NewFakePassiveClock(sim.now)
	sim.keys = keyring.New(fakeReader{w: sim}, "system", sim.clock)
}

// fakeReader lets the keyring read the simulated signing-key Secret.
type fakeReader struct {
	client.Reader
	w *simulation
}

func (f fakeReader) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	if secret, ok := into.(*corev1.Secret); ok && f.w.secret != nil {
		f.w.secret.DeepCopyInto(secret)
		secret.ResourceVersion = strconv.Itoa(f.w.version)
		return nil
	}
	return apierrors.NewNotFound(corev1.Resource("secrets"), key.Name)
}

func (sim *simulation) chance(percent int) bool { return sim.rng.IntN(100) < percent }

func (sim *simulation) note(format string, arguments ...any) {
	sim.log = append(sim.log, sim.now.Format(time.DateTime)+" "+fmt.Sprintf(format, arguments...))
}

func (sim *simulation) fail(format string, arguments ...any) {
	if sim.failure == nil {
		sim.failure = fmt.Errorf("%s: %s", sim.now.Format(time.DateTime), fmt.Sprintf(format, arguments...))
	}
}

// write is a write by the operator. Clients may have the previous version for up to bound.
func (f *file) write(now time.Time, content []byte) error {
	f.content = content
	if last := len(f.versions) - 1; last >= 0 {
		if bytes.Equal(f.versions[last].content, content) {
			return nil
		}
		f.versions[last].until = now
	}
	bundle, err := pki.ParseBundle(content)
	if err != nil {
		return fmt.Errorf("a bundle is written that clients cannot read: %w", err)
	}
	f.versions = append(f.versions, version{content: content, roots: bundle})
	return nil
}

// remove deletes the ConfigMap, together with its clients.
func (f *file) remove(now time.Time) {
	f.content = nil
	if last := len(f.versions) - 1; last >= 0 {
		f.versions[last].until = now
	}
}

// forget drops the versions that no client can have any more.
func (f *file) forget(now time.Time) {
	f.versions = slices.DeleteFunc(f.versions, func(v version) bool { return !v.until.IsZero() && now.Sub(v.until) > bound })
}

// trustController writes the bundle in the status to the targets, with a random delay.
func (sim *simulation) trustController() {
	ca, err := sim.keys.Get(context.Background(), sim.ca)
	if err != nil {
		return
	}
	for _, target := range sim.targets {
		if target.content != nil && !bytes.Equal(target.content, ca.Bundle) && sim.chance(60) {
			if err := target.write(sim.now, ca.Bundle); err != nil {
				sim.fail("%v", err)
			}
		}
	}
}

// servingCertController issues the certificate of each Service, with a random delay.
func (sim *simulation) servingCertController() {
	ca, err := sim.keys.Get(context.Background(), sim.ca)
	if err != nil {
		return
	}
	for _, s := range sim.services {
		desired, _ := issuance.Resolver{ClusterDomain: "cluster.local"}.Desired(s.Service, sim.policy)
		if (ca.Authority != nil && ca.LongestDuration < desired.Duration) || sim.chance(30) {
			continue
		}
		var digest *corev1.Secret
		if s.secret != nil {
			digest = s.secret.DeepCopy()
			issuance.Digest(digest)
		}
		if plan := desired.Plan(sim.now, &ca.CA, digest, nil); plan.Action == issuance.Issue {
			if err := sim.issue(s, desired, ca); err != nil {
				sim.fail("issue: %v", err)
			}
		}
	}
}

func (sim *simulation) issue(s *service, desired issuance.Desired, ca *keyring.CA) error {
	pair, err := ca.Authority.Issue(sim.now, desired.Leaf, desired.Duration, nil)
	if err != nil {
		return err
	}
	made, err := pki.ParseLeaf(pair.Certificate)
	// Like the controller, it writes nothing that does not verify with the bundle.
	if err != nil || made.VerifyWithRoots(ca.Roots, sim.now) != nil {
		return err
	}
	sim.signers[pki.KeyID(made.AuthorityKeyId)] = true
	s.secret = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: desired.SecretName, Labels: map[string]string{v1alpha1.LabelService: s.Name, v1alpha1.LabelServiceCA: "default"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: s.Name, UID: s.UID}},
		},
		Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.PrivateKey},
	}
	if last := len(s.leaves) - 1; last >= 0 {
		s.leaves[last].until = sim.now
	}
	sent, err := pki.ParseBundle(pair.Certificate)
	s.leaves = append(s.leaves, leaf{Leaf: made, sent: sent})
	return err
}

// collectEvidence returns the evidence in the simulated cluster for a state.
func (sim *simulation) collectEvidence(resolved resolution) clusterEvidence {
	evidence := clusterEvidence{certificates: map[string]int32{}}
	if resolved.state == nil {
		return evidence
	}
	encoded := resolved.state.Bundle().Encode()
	evidence.targets.Count(bytes.Equal(sim.published.content, encoded), false, "the ConfigMap")
	for _, target := range sim.targets {
		if target.content != nil && (len(target.versions) > 0 || !target.made.After(resolved.state.Since)) {
			evidence.targets.Count(bytes.Equal(target.content, encoded), false, "a target")
		}
	}
	for _, s := range sim.services {
		if s.secret == nil {
			continue
		}
		parsed, err := pki.ParseLeaf(s.secret.Data[corev1.TLSCertKey])
		if err != nil || !sim.now.Before(parsed.NotAfter) {
			continue
		}
		signer := pki.KeyID(parsed.AuthorityKeyId)
		evidence.certificates[signer]++
		if resolved.state.Active != nil && signer != pki.KeyID(resolved.state.Active.Certificate().SubjectKeyId) {
			evidence.Outstanding++
		}
	}
	evidence.OutOfDate, evidence.Restarts = evidence.targets.OutOfDate, sim.restarter.awaited(resolved.state.TrustChangedAt)
	evidence.reissueSpread = time.Duration(sim.rng.IntN(600)) * time.Second
	return evidence
}

// backup stores a copy of the signing-key Secret.
func (sim *simulation) backup() {
	if sim.secret != nil {
		sim.backups = append(sim.backups, sim.secret.DeepCopy())
	}
}

// corrupt replaces a value of the signing-key Secret.
func (sim *simulation) corrupt(key string, value []byte) {
	if sim.secret != nil {
		sim.secret = sim.secret.DeepCopy()
		sim.secret.Data = maps.Clone(sim.secret.Data)
		sim.secret.Data[key] = value
		sim.version++
	}
}
