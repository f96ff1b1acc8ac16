// Package keyring returns the CAs that may sign. The status of a ServiceCA says which key may sign:
// the keyring reads that key from the signing-key Secret when it is first needed, and drops it when
// the status names another.
package keyring

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// ErrNotReady means that a ServiceCA cannot sign now. When it can, its status changes.
var ErrNotReady = errors.New("is not ready")

// failureTTL is how long the keyring does not read a signing key again that it could not use,
// however many Services need it.
const failureTTL = 5 * time.Second

// keyTTL is how long a key is used before it is read again: an operator process that was suspended
// must not sign with a key that was destroyed in the meantime. rotation.SigningSlack allows for it.
const keyTTL = time.Minute

// CA is a ServiceCA whose bundle is published.
type CA struct {
	issuance.CA
	// Authority signs. It is nil while no CA may sign, because the key was lost and its successor
	// is not trusted everywhere yet.
	Authority *pki.Authority
	// Path is the path from Authority to the roots; nil if Authority is nil.
	Path *pki.Path
	// LongestDuration is the longest lifetime of a certificate that the CA may sign.
	LongestDuration time.Duration

	// Compromised is true from when an administrator triggers a rotation with the reason Compromise
	// until the next CA signs.
	Compromised bool

	// resourceVersion is that of the Secret that the CA was read from.
	resourceVersion string
}

// Keyring caches the CAs in memory. It is safe for concurrent use.
type Keyring struct {
	// reader reads from the API server: no cache holds a signing key.
	reader     client.Reader
	namespace  string
	clock      clock.PassiveClock
	signatures *pki.Signatures

	mu sync.Mutex
	// entries has the entry of each ServiceCA by its name.
	entries map[string]*lockedEntry
}

// lockedEntry is the entry of one ServiceCA. Its lock is held while the key is read, so that a slow
// read delays only those that need the same ServiceCA.
type lockedEntry struct {
	mu sync.Mutex
	cacheEntry
}

// lock returns the entry of a ServiceCA, locked.
func (k *Keyring) lock(name string) *lockedEntry {
	k.mu.Lock()
	entry := k.entries[name]
	if entry == nil {
		entry = &lockedEntry{}
		k.entries[name] = entry
	}
	k.mu.Unlock()
	entry.mu.Lock()
	return entry
}

// identity is what a ServiceCA says about the key that may sign, and about the bundle to verify
// with.
type identity struct {
	uid                 types.UID
	fingerprint, bundle string
	// longestSeconds is CA.LongestDuration in seconds.
	longestSeconds int64
	// compromise is true while spec.rotation has a trigger with the reason Compromise that the
	// rotation has not handled yet.
	compromise bool
	// paused holds back the reissue of certificates that predecessors signed.
	paused bool
}

// cacheEntry is what was read for an identity.
type cacheEntry struct {
	identity
	ca *CA
	// err is why there is no CA. It is cached for failureTTL only.
	err    error
	readAt time.Time
	// reissueStart is when this process started to reissue the certificates of predecessors: when
	// it first needed this CA, or when a pause ended.
	reissueStart time.Time
}

// New returns a Keyring of the signing-key Secrets in the operator's namespace.
func New(reader client.Reader, namespace string, passiveClock clock.PassiveClock) *Keyring {
	return &Keyring{reader: reader, namespace: namespace, clock: passiveClock, signatures: pki.NewSignatures(), entries: map[string]*lockedEntry{}}
}

// Get returns the CA that the status of a ServiceCA names. It returns an error that wraps
// ErrNotReady while there is none that can be used.
func (k *Keyring) Get(ctx context.Context, serviceCA *v1alpha1.ServiceCA) (*CA, error) {
	identity := identityOf(serviceCA)
	if identity.bundle == "" {
		return nil, fmt.Errorf("ServiceCA %s %w: it has no bundle yet", serviceCA.Name, ErrNotReady)
	}
	locked := k.lock(serviceCA.Name)
	defer locked.mu.Unlock()
	// Round(0) drops the monotonic clock reading, which stands still while the machine is
	// suspended.
	now, entry := k.clock.Now().Round(0), locked.cacheEntry
	ttl := keyTTL
	if entry.err != nil {
		ttl = failureTTL
	}
	if entry.identity == identity && now.Sub(entry.readAt).Abs() < ttl {
		return entry.ca, entry.err
	}
	reissueStart := entry.reissueStart
	if entry.uid != identity.uid || (entry.paused && !identity.paused) {
		// Reissues that this process missed before it started, or that a pause held back, are
		// spread over the time from now on. Otherwise all of them would be due at once.
		reissueStart = now
	}
	ca, err := k.read(ctx, serviceCA, identity, reissueStart)
	if entry.identity == identity && ca.equals(entry.ca) {
		// Return the same pointer: what callers have cached about the CA stays valid.
		ca = entry.ca
	}
	if err == nil || isKeyError(err) {
		locked.cacheEntry = cacheEntry{identity: identity, ca: ca, err: err, readAt: now, reissueStart: reissueStart}
	}
	return ca, err
}

// isKeyError reports whether an error is only about the signing key, which cannot be read or used.
// Such an error is reported on the ServiceCA, and not on each of the objects that need it.
func isKeyError(err error) bool { return errors.Is(err, ErrNotReady) || apply.IsServerFailure(err) }

func identityOf(serviceCA *v1alpha1.ServiceCA) identity {
	identity := identity{uid: serviceCA.UID, paused: serviceCA.Spec.Rotation.Mode == v1alpha1.RotationPaused}
	spec := serviceCA.Spec.Rotation
	identity.compromise = spec.TriggerReason == v1alpha1.TriggerCompromise && spec.Trigger != "" &&
		(serviceCA.Status.Rotation == nil || serviceCA.Status.Rotation.Trigger != spec.Trigger)
	if active := serviceCA.Status.Active; active != nil {
		identity.fingerprint = active.Fingerprint
		if active.LongestDurationSeconds != nil {
			identity.longestSeconds = *active.LongestDurationSeconds
		}
	}
	if bundle := serviceCA.Status.TrustBundle; bundle != nil {
		identity.bundle = bundle.Hash
	}
	return identity
}

// isCompromised reports whether the key that signs was compromised, and the CA waits for its
// successor.
func (i identity) isCompromised(state *rotation.State) bool {
	return i.compromise || (state.Compromise && state.IsPreparing())
}

// equals reports whether a CA that was read again for the same identity is the one before. Its
// NotAfter may have changed without the Secret: it is that of the path to the root that is valid
// now.
func (c *CA) equals(before *CA) bool {
	return c != nil && before != nil && c.resourceVersion == before.resourceVersion && c.NotAfter.Equal(before.NotAfter) &&
		c.Compromised == before.Compromised
}

func (k *Keyring) read(ctx context.Context, serviceCA *v1alpha1.ServiceCA, identity identity, reissueStart time.Time) (*CA, error) {
	var secret corev1.Secret
	key := client.ObjectKey{Namespace: k.namespace, Name: serviceCA.SigningKeySecretName()}
	switch err := k.reader.Get(ctx, key, &secret); {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("ServiceCA %s %w: %w", serviceCA.Name, ErrNotReady, err)
	case err != nil:
		return nil, fmt.Errorf("read the signing key of ServiceCA %s: %w", serviceCA.Name, err)
	}
	state, err := rotation.Read(k.clock.Now(), &secret)
	if state == nil {
		return nil, fmt.Errorf("ServiceCA %s %w: Secret %s: %w", serviceCA.Name, ErrNotReady, key, err)
	}
	bundle := secret.Data[rotation.BundleKey]
	roots, err := pki.ParseBundle(bundle)
	signs := identity.fingerprint != ""
	other := signs && (state.Active == nil || state.Active.Fingerprint() != identity.fingerprint)
	if err != nil || other || pki.Hash(bundle) != identity.bundle {
		return nil, fmt.Errorf("ServiceCA %s %w: its signing key is changing", serviceCA.Name, ErrNotReady)
	}
	ca := &CA{
		LongestDuration: time.Duration(identity.longestSeconds) * time.Second,
		resourceVersion: secret.ResourceVersion, Compromised: identity.isCompromised(state),
		CA: issuance.CA{
			Bundle: bundle, Roots: roots.Pool(), Predecessors: state.Generations(), Signatures: k.signatures,
			Reissue: issuance.Reissue{StartedAt: reissueStart, Paused: identity.paused},
		},
	}
	if state.IsPreparing() || state.Phase == v1alpha1.PhaseReissuing {
		ca.Reissue.SwitchedAt, ca.Reissue.Spread = state.Since, state.ReissueSpread
	}
	if signs {
		signer := state.Active
		ca.NotAfter = signer.NotAfter()
		ca.Path = pki.NewPath(ca.Roots)
		ca.Authority, ca.Certificate, ca.Chain, ca.CrossSigned = signer.Authority, signer.Certificate(), signer.Chain(), signer.CrossSigned()
	}
	return ca, nil
}

// Find returns the CA of the named ServiceCA. If there is none, it returns a problem that a person
// has to solve, or neither if the CA will become ready without help. A change of the ServiceCA that
// Changed lets through means that Find may return something else.
func (k *Keyring) Find(ctx context.Context, serviceCAs client.Reader, name string) (*CA, *issuance.Problem, error) {
	var serviceCA v1alpha1.ServiceCA
	switch err := serviceCAs.Get(ctx, client.ObjectKey{Name: name}, &serviceCA, client.UnsafeDisableDeepCopy); {
	case apierrors.IsNotFound(err):
		return nil, issuance.NewProblem(issuance.ReasonServiceCANotReady, "there is no ServiceCA %s: create it", name), nil
	case err != nil:
		return nil, nil, err
	}
	ca, err := k.Get(ctx, &serviceCA)
	if !isKeyError(err) {
		return ca, nil, err
	}
	if reason := notReadyReason(&serviceCA); reason != "" {
		return nil, issuance.NewProblem(issuance.ReasonServiceCANotReady, "ServiceCA %s: %s", name, reason), nil
	}
	return nil, nil, nil
}

// notReadyReason returns why a ServiceCA is not ready. It returns "" if it is ready, or has no
// Ready condition yet.
func notReadyReason(serviceCA *v1alpha1.ServiceCA) string {
	ready := meta.FindStatusCondition(serviceCA.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || ready.Status == metav1.ConditionTrue {
		return ""
	}
	return ready.Message
}

// Changed returns a predicate that lets only those updates of a ServiceCA through that may change
// the result of Find.
func Changed() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return findInputs(e.ObjectOld) != findInputs(e.ObjectNew)
	}}
}

// findInputs returns the parts of a ServiceCA that the result of Find depends on.
func findInputs(object client.Object) (inputs struct {
	identity
	notReadyReason string
}) {
	if serviceCA, ok := object.(*v1alpha1.ServiceCA); ok {
		inputs.identity, inputs.notReadyReason = identityOf(serviceCA), notReadyReason(serviceCA)
	}
	return inputs
}

// Forget drops the key of a ServiceCA, because the ServiceCA is gone or has another key. It keeps
// the start of the reissue, which does not depend on the key.
func (k *Keyring) Forget(name string) {
	entry := k.lock(name)
	defer entry.mu.Unlock()
	entry.cacheEntry = cacheEntry{identity: entry.identity, reissueStart: entry.reissueStart}
}
