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

// bound is how old a file may be that a server or a client reads: a slow kubelet. It is what propagation.minimum says.
const bound = 10 * time.Minute

// world is a cluster with one ServiceCA, in which everything is simulated but the decisions, the signatures and the verification.
type world struct {
	t   *testing.T
	rng *rand.Rand
	// now is the time, and that of the API server; the manager's clock goes wrong by clockError.
	now        time.Time
	clockError time.Duration

	ca      *v1alpha1.ServiceCA
	policy  *v1alpha1.ServingCertPolicy
	brought *corev1.Secret
	secret  *corev1.Secret
	version int
	backups []*corev1.Secret

	published *file
	targets   []*file
	services  []*service
	keys      *keyring.Keyring
	clock     *clocktesting.FakePassiveClock
	// signers are the CAs that have signed, by key identifier; compromised are the roots that are to be distrusted, by fingerprint.
	signers, compromised map[string]bool
	// rootOf is the fingerprint of the root that a CA leads to, by its key identifier.
	rootOf map[string]string
	// bridged are the roots that lead to a CA by its cross-signed certificate, by the key identifier of that CA.
	bridged map[string]bridge

	restarter  restarter
	mutant     mutant
	handshakes int
	// verified is until when the result of a meeting cannot change.
	verified map[meeting]time.Time
	// stands is for how many steps the phase that began then has not come on, though nothing holds it.
	stands      int
	standsSince metav1.Time
	log         []string
	failure     error
}

// bridge is what certificates made since then carry.
type bridge struct {
	root  *x509.Certificate
	since time.Time
	// long is one of more than one certificate, which is not sent where certificates may outlive the trust in its root.
	long bool
}

// file is what clients read a bundle from: a ConfigMap, as the kubelet mounts it.
type file struct {
	// content is what the ConfigMap holds; nil when it is deleted.
	content []byte
	made    time.Time
	// versions are the bundles that clients may still hold; the last is the one that was written last by us.
	versions []version
}

type version struct {
	content []byte
	roots   pki.Bundle
	// until is when the next one was written; zero for the last.
	until time.Time
}

// service is a Service, with every certificate that a server of it may still hold.
type service struct {
	*corev1.Service
	secret *corev1.Secret
	leaves []leaf
}

type leaf struct {
	*pki.Leaf
	// sent is what a server sends: the certificate, and what follows it.
	sent pki.Bundle
	// until is when another one replaced it in the Secret; zero for the last.
	until time.Time
}

func newWorld(t *testing.T, seed uint64, broken mutant) *world {
	t.Helper()
	w := &world{
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
		published: &file{}, signers: map[string]bool{}, compromised: map[string]bool{}, rootOf: map[string]string{}, bridged: map[string]bridge{}, verified: map[meeting]time.Time{},
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

// restartManager forgets what is only in memory.
func (w *world) restartManager() {
	w.restarter.looked = time.Time{}
	w.clock = clocktesting.NewFakePassiveClock(w.now)
	w.keys = keyring.New(shelf{w: w}, "system", w.clock)
}

// shelf is how the keyring reads the signing-key Secret.
type shelf struct {
	client.Reader
	w *world
}

func (s shelf) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	if secret, ok := into.(*corev1.Secret); ok && s.w.secret != nil {
		s.w.secret.DeepCopyInto(secret)
		secret.ResourceVersion = strconv.Itoa(s.w.version)
		return nil
	}
	return apierrors.NewNotFound(corev1.Resource("secrets"), key.Name)
}

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *world) note(format string, arguments ...any) {
	w.log = append(w.log, w.now.Format(time.DateTime)+" "+fmt.Sprintf(format, arguments...))
}

func (w *world) fail(format string, arguments ...any) {
	if w.failure == nil {
		w.failure = fmt.Errorf("%s: %s", w.now.Format(time.DateTime), fmt.Sprintf(format, arguments...))
	}
}

// write is one that we do; what was there may be held for the bound.
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

// remove deletes the ConfigMap, by somebody who takes its clients with it.
func (f *file) remove(now time.Time) {
	f.content = nil
	if last := len(f.versions) - 1; last >= 0 {
		f.versions[last].until = now
	}
}

// forget drops what nobody can hold any more.
func (f *file) forget(now time.Time) {
	f.versions = slices.DeleteFunc(f.versions, func(v version) bool { return !v.until.IsZero() && now.Sub(v.until) > bound })
}

// trustController brings the bundle that the status names to the targets, some time.
func (w *world) trustController() {
	ca, err := w.keys.Get(context.Background(), w.ca)
	if err != nil {
		return
	}
	for _, target := range w.targets {
		if target.content != nil && !bytes.Equal(target.content, ca.Bundle) && w.chance(60) {
			if err := target.write(w.now, ca.Bundle); err != nil {
				w.fail("%v", err)
			}
		}
	}
}

// servingCertController gives each Service its certificate, some time.
func (w *world) servingCertController() {
	ca, err := w.keys.Get(context.Background(), w.ca)
	if err != nil {
		return
	}
	for _, s := range w.services {
		want, _ := issuance.Rules{ClusterDomain: "cluster.local"}.Want(s.Service, w.policy)
		if (ca.Authority != nil && ca.Longest < want.Duration) || w.chance(30) {
			continue
		}
		var digest *corev1.Secret
		if s.secret != nil {
			digest = s.secret.DeepCopy()
			issuance.Digest(digest)
		}
		if plan := want.Plan(w.now, &ca.CA, digest, nil); plan.Action == issuance.Issue {
			if err := w.issue(s, want, ca); err != nil {
				w.fail("issue: %v", err)
			}
		}
	}
}

func (w *world) issue(s *service, want issuance.Want, ca *keyring.CA) error {
	pair, err := ca.Authority.Issue(w.now, want.Leaf, want.Duration, nil)
	if err != nil {
		return err
	}
	made, err := pki.ParseLeaf(pair.Certificate)
	// As the controller does, it writes nothing that the bundle does not verify.
	if err != nil || made.VerifiesBy(ca.Roots, w.now) != nil {
		return err
	}
	w.signers[pki.KeyID(made.AuthorityKeyId)] = true
	s.secret = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: want.SecretName, Labels: map[string]string{v1alpha1.LabelService: s.Name, v1alpha1.LabelServiceCA: "default"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: s.Name, UID: s.UID}},
		},
		Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.PrivateKey},
	}
	if last := len(s.leaves) - 1; last >= 0 {
		s.leaves[last].until = w.now
	}
	sent, err := pki.ParseBundle(pair.Certificate)
	s.leaves = append(s.leaves, leaf{Leaf: made, sent: sent})
	return err
}

// evidence is what the cluster shows of a state.
func (w *world) evidence(given found) evidence {
	seen := evidence{certificates: map[string]int32{}}
	if given.state == nil {
		return seen
	}
	encoded := given.state.Bundle().Encode()
	seen.targets.Count(bytes.Equal(w.published.content, encoded), false, "the ConfigMap")
	for _, target := range w.targets {
		if target.content != nil && (len(target.versions) > 0 || !target.made.After(given.state.Since)) {
			seen.targets.Count(bytes.Equal(target.content, encoded), false, "a target")
		}
	}
	for _, s := range w.services {
		if s.secret == nil {
			continue
		}
		parsed, err := pki.ParseLeaf(s.secret.Data[corev1.TLSCertKey])
		if err != nil || !w.now.Before(parsed.NotAfter) {
			continue
		}
		signer := pki.KeyID(parsed.AuthorityKeyId)
		seen.certificates[signer]++
		if given.state.Active != nil && signer != pki.KeyID(given.state.Active.Certificate().SubjectKeyId) {
			seen.Outstanding++
		}
	}
	seen.Behind, seen.Restarts = seen.targets.Behind, w.restarter.awaited(given.state.TrustChangedAt)
	seen.reissueOver = time.Duration(w.rng.IntN(600)) * time.Second
	return seen
}

// backup keeps what the signing-key Secret holds.
func (w *world) backup() {
	if w.secret != nil {
		w.backups = append(w.backups, w.secret.DeepCopy())
	}
}

// spoil replaces a value of the signing-key Secret.
func (w *world) spoil(key string, value []byte) {
	if w.secret != nil {
		w.secret = w.secret.DeepCopy()
		w.secret.Data = maps.Clone(w.secret.Data)
		w.secret.Data[key] = value
		w.version++
	}
}
