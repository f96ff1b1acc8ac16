package serviceca

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
)

// The reasons of the conditions and Events.
const (
	reasonReady            = "Ready"
	reasonCACreated        = "CACreated"
	reasonCAReplaced       = "CAReplaced"
	reasonSigningKeyLost   = "SigningKeyLost"
	reasonCAExpired        = "CAExpired"
	reasonSourceNotThere   = "SourceNotThere"
	reasonSourceInvalid    = "SourceInvalid"
	reasonNotSupported     = "NotSupported"
	reasonSigningKeyNotOur = "SigningKeyNotOurs"
	reasonSigningKeyBroken = "SigningKeyInvalid"
	reasonKeyRefused       = "SigningKeyRefused"
	reasonBundleNotOurs    = "TrustBundleNotOurs"
	reasonBundleRefused    = "TrustBundleRefused"
	reasonNotYetValid      = "NotYetValid"
)

// selfSigned is the source of a CA that the operator generated.
const selfSigned = "selfSigned"

// observed is everything that decides what becomes of a CA.
type observed struct {
	now       time.Time
	serviceCA *v1alpha1.ServiceCA
	// secret is the signing-key Secret, nil when there is none under the wanted name.
	secret *corev1.Secret
	// formerly is the signing-key Secret of this ServiceCA under a former name, nil when there is none.
	formerly *corev1.Secret
	// published is what the trust-bundle ConfigMap holds.
	published []byte
	// brought is the Secret of source.secret, nil when there is none.
	brought *corev1.Secret
}

// state is a CA: what the signing-key Secret holds.
type state struct {
	pair      pki.Pair
	authority *pki.Authority
	source    string
	// bundle is the trust bundle: the root of the active CA, then the roots of those before it.
	bundle pki.Bundle
}

func (s *state) name() string { return pki.NameOf(s.authority.Certificate()) }

// problem is what stands in the way.
type problem struct {
	reason, message string
	// passing tells that it may go without anybody changing what is there.
	passing bool
}

// step is what follows from what was observed.
type step struct {
	// state is what the signing-key Secret should hold; nil when nothing can sign.
	state *state
	// write tells that the Secret does not hold it yet.
	write bool
	// byClock tells that the clock alone makes us give something up.
	byClock bool
	// reason and note are for the Event, when a new CA takes over.
	reason, note string
	problem      *problem
	// retry is when to look again for what no event tells of; zero when events tell of everything.
	retry time.Duration
}

// retryRefused is how often a write that was refused, by a quota perhaps, is tried again.
const retryRefused = 30 * time.Second

// refused makes a write that the API server refused for good a problem that people are told of; any other error comes back.
func (s *step) refused(reason string, err error) error {
	if err == nil || !apply.Refused(err) {
		return err
	}
	*s = step{problem: &problem{reason: reason, message: err.Error()}, retry: retryRefused}
	return nil
}

// plan decides. It never gives up a key that is sound, and replaces none that is not without being told to.
func plan(in observed) step {
	secret := in.secret
	if secret == nil {
		secret = in.formerly
	}
	if secret != nil && secret.Labels[v1alpha1.LabelServiceCA] != in.serviceCA.Name {
		return step{problem: notOurs(in.serviceCA, secret)}
	}
	current, err := readState(in.now, secret)
	if err != nil {
		return step{problem: &problem{reason: reasonSigningKeyBroken, message: fmt.Sprintf(
			"Secret %s: %v. Restore it from a backup, or delete it to begin a new CA; the old root stays trusted", secret.Name, err)}}
	}
	if current != nil && forgetful(in, secret, current) {
		current.bundle = pki.NewBundle(append(current.bundle, recovered(in)...)...)
	}
	next, problem := successor(in, current)
	decided := step{state: current, problem: problem}
	if next != nil {
		decided.state = next
		decided.reason, decided.note = announce(in, current, next)
	}
	if decided.state == nil {
		return decided
	}
	// The active root stays even when it has ended: a bundle is never empty.
	root, before := decided.state.bundle[0], decided.state.bundle[1:]
	unexpired := before.Unexpired(in.now)
	decided.state.bundle = append(pki.Bundle{root}, unexpired...)
	decided.byClock = decided.reason == reasonCAExpired || len(unexpired) < len(before)
	decided.write = next != nil || in.secret == nil || !bytes.Equal(in.secret.Data[keyring.BundleKey], decided.state.bundle.Encode())
	return decided
}

func notOurs(ca *v1alpha1.ServiceCA, secret *corev1.Secret) *problem {
	owner := "this ServiceCA did not make it"
	if other := secret.Labels[v1alpha1.LabelServiceCA]; other != "" {
		owner = "it belongs to ServiceCA " + other
	}
	return &problem{reason: reasonSigningKeyNotOur, message: fmt.Sprintf("Secret %s is left alone, because %s: set spec.signingKey.secretName to another name, "+
		"or label the Secret %s=%s to hand it over", secret.Name, owner, v1alpha1.LabelServiceCA, ca.Name)}
}

// readState reads a signing-key Secret; nil without one.
func readState(now time.Time, secret *corev1.Secret) (*state, error) {
	if secret == nil {
		return nil, nil
	}
	read, err := load(secret, secret.Annotations[v1alpha1.AnnotationSource])
	if err != nil {
		return nil, err
	}
	// The bundle may be missing where another tool made or restored the Secret; the CA's own root is never missing in what follows.
	encoded := secret.Data[keyring.BundleKey]
	root, err := read.authority.Root(now, read.pair.Certificate, encoded)
	if err != nil {
		// It may have ended; when it began, it led to its root.
		root, err = read.authority.Root(read.authority.Certificate().NotBefore, read.pair.Certificate, encoded)
	}
	if err != nil {
		return nil, err
	}
	bundle, _ := pki.ParseBundle(encoded)
	read.bundle = pki.NewBundle(append(pki.Bundle{root}, bundle...)...)
	return read, nil
}

// forgetful tells whether a signing-key Secret may know of fewer roots than clients trust: its bundle is gone, or it holds another
// CA than the one that signed last, from a backup perhaps.
func forgetful(in observed, secret *corev1.Secret, current *state) bool {
	_, err := pki.ParseBundle(secret.Data[keyring.BundleKey])
	active := in.serviceCA.Status.Active
	return err != nil || (active != nil && active.Fingerprint != current.authority.Fingerprint())
}

func load(secret *corev1.Secret, source string) (*state, error) {
	pair := pki.Pair{Certificate: secret.Data[corev1.TLSCertKey], PrivateKey: secret.Data[corev1.TLSPrivateKeyKey]}
	authority, err := pki.LoadAuthority(pair)
	if err != nil {
		return nil, err
	}
	return &state{pair: pair, authority: authority, source: source}, nil
}

// successor is the CA that takes over from the current one, nil when the current one stays.
func successor(in observed, current *state) (*state, *problem) {
	expired := current != nil && !in.now.Before(current.authority.Certificate().NotAfter)
	source := in.serviceCA.Spec.Source
	switch {
	case source.CertManager != nil:
		return nil, &problem{reason: reasonNotSupported, message: "spec.source.certManager is not supported by this version: use selfSigned, or bring the intermediate with source.secret"}
	case source.Secret != nil:
		return broughtSuccessor(in, current)
	case current != nil && in.now.Before(current.authority.Certificate().NotBefore):
		return nil, &problem{reason: reasonNotYetValid, passing: true, message: fmt.Sprintf("%s is not valid before %s: correct the clock of this node, or wait",
			current.name(), current.authority.Certificate().NotBefore.UTC().Format(time.RFC3339))}
	case current != nil && !expired:
		return nil, nil
	}
	pair, err := pki.GenerateRoot(in.now, pki.RootSpecOf(in.serviceCA.Spec.Certificate), trustSoFar(in, current)...)
	if err != nil {
		return nil, &problem{reason: reasonSourceInvalid, message: "spec.certificate: " + err.Error()}
	}
	authority, err := pki.LoadAuthority(pair)
	if err != nil {
		return nil, &problem{reason: reasonSourceInvalid, message: "spec.certificate: " + err.Error()}
	}
	next := &state{pair: pair, authority: authority, source: selfSigned}
	next.bundle = withTrustSoFar(in, current, authority.Certificate())
	return next, nil
}

func broughtSuccessor(in observed, current *state) (*state, *problem) {
	name := in.serviceCA.Spec.Source.Secret.Name
	if in.brought == nil {
		return nil, &problem{reason: reasonSourceNotThere, passing: true, message: fmt.Sprintf(
			"spec.source.secret: there is no Secret %s in the operator's namespace: create it with tls.crt and tls.key", name)}
	}
	next, root, err := checkBrought(in)
	if err != nil {
		return nil, &problem{reason: reasonSourceInvalid, message: fmt.Sprintf("spec.source.secret: Secret %s: %v", name, err)}
	}
	if current != nil && current.same(next, root) {
		return nil, nil
	}
	next.bundle = withTrustSoFar(in, current, root)
	return next, nil
}

// same tells whether another CA would change nothing: its certificate, its chain and its root are those of this one.
func (s *state) same(other *state, root *x509.Certificate) bool {
	return s.authority.Certificate().Equal(other.authority.Certificate()) &&
		slices.EqualFunc(s.authority.Chain(), other.authority.Chain(), (*x509.Certificate).Equal) &&
		slices.ContainsFunc(s.bundle, root.Equal)
}

func checkBrought(in observed) (*state, *x509.Certificate, error) {
	brought, err := load(in.brought, "secret/"+in.brought.Name)
	if err != nil {
		return nil, nil, err
	}
	ca := brought.authority.Certificate()
	switch {
	case !in.now.Before(ca.NotAfter):
		return nil, nil, fmt.Errorf("the CA in tls.crt expired %s", ca.NotAfter.UTC().Format(time.RFC3339))
	case in.now.Before(ca.NotBefore):
		return nil, nil, fmt.Errorf("the CA in tls.crt is not valid before %s", ca.NotBefore.UTC().Format(time.RFC3339))
	}
	root, err := brought.authority.Root(in.now, brought.pair.Certificate, in.brought.Data[corev1.ServiceAccountRootCAKey])
	return brought, root, err
}

// withTrustSoFar is a bundle of a new root and all that clients trust already.
func withTrustSoFar(in observed, current *state, root *x509.Certificate) pki.Bundle {
	return pki.NewBundle(append(pki.Bundle{root}, trustSoFar(in, current)...)...)
}

// trustSoFar is all that clients trust already: the bundle of the current CA or, where its key was lost, what it had published.
func trustSoFar(in observed, current *state) pki.Bundle {
	if current != nil {
		return current.bundle
	}
	return recovered(in)
}

// recovered are the roots in the published bundle that this ServiceCA put there, as far as its status remembers.
func recovered(in observed) pki.Bundle {
	published, err := pki.ParseBundle(in.published)
	if err != nil {
		return nil
	}
	known := in.serviceCA.Status.TrustBundle
	if known == nil || known.Hash == pki.Hash(in.published) {
		return published
	}
	return slices.DeleteFunc(published, func(root *x509.Certificate) bool {
		return !remembers(in.serviceCA, pki.Fingerprint(root))
	})
}

func remembers(ca *v1alpha1.ServiceCA, fingerprint string) bool {
	return (ca.Status.Active != nil && ca.Status.Active.Fingerprint == fingerprint) ||
		slices.ContainsFunc(ca.Status.Previous, func(g v1alpha1.CAGeneration) bool { return g.Fingerprint == fingerprint })
}

func announce(in observed, current, next *state) (reason, note string) {
	subject := next.name()
	before := in.serviceCA.Status.Active
	switch {
	case current != nil && next.source == selfSigned:
		return reasonCAExpired, fmt.Sprintf("%s had expired and %s took over", current.name(), subject)
	case current != nil:
		return reasonCAReplaced, fmt.Sprintf("%s took over; %s stays trusted until it expires",
			subject, current.name())
	case before == nil:
		return reasonCACreated, fmt.Sprintf("%s signs from now on", subject)
	case next.bundle.Contains(before.SubjectKeyID):
		return reasonSigningKeyLost, fmt.Sprintf("the signing key of %s was lost: %s took over; %s stays trusted until it expires",
			before.Subject, subject, before.Subject)
	}
	return reasonSigningKeyLost, fmt.Sprintf("the signing key and the published bundle of %s were lost: %s took over, and clients "+
		"with the new bundle do not trust %s any more", before.Subject, subject, before.Subject)
}
