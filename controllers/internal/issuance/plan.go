package issuance

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/controllers/internal/apply"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/text"
)

// The reasons for which a Service has no certificate, or will soon have none.
const (
	ReasonNoPolicy          = "NoPolicy"
	ReasonServiceCANotReady = "ServiceCANotReady"
	ReasonInvalidSecretName = "InvalidSecretName"
	ReasonInvalidDNSName    = "InvalidDNSName"
	ReasonNameNotPermitted  = "NameNotPermitted"
	ReasonUsageNotPermitted = "UsageNotPermitted"
	ReasonSecretNotOurs     = "SecretNotOurs"
	ReasonSecretConflict    = "SecretConflict"
	ReasonSecretRefused     = "SecretRefused"
	// ReasonRequestFailed is of requests that the API server could not carry out; they are tried again, and it may pass by itself.
	ReasonRequestFailed = "RequestFailed"
	// ReasonSecretOverwritten stands beside a certificate that is put back again and again.
	ReasonSecretOverwritten = "SecretOverwritten"
	// ReasonInvalidKeystore and ReasonNoPassword are of keystores and truststores.
	ReasonInvalidKeystore = "InvalidKeystore"
	ReasonNoPassword      = "NoKeystorePassword"
)

var reasons = []string{
	ReasonNoPolicy, ReasonServiceCANotReady, ReasonInvalidSecretName, ReasonInvalidDNSName, ReasonNameNotPermitted, ReasonUsageNotPermitted,
	ReasonSecretNotOurs, ReasonSecretConflict, ReasonSecretRefused, ReasonRequestFailed, ReasonSecretOverwritten, ReasonInvalidKeystore, ReasonNoPassword,
}

// Obstacle is what stands in the way of a certificate, for a person.
type Obstacle struct {
	Reason, Message string
}

// maxMessage bounds what is told in bytes: much of it quotes what tenants write, and goes where space is limited.
const maxMessage = 512

// NewObstacle formats what stands in the way.
func NewObstacle(reason, format string, arguments ...any) *Obstacle {
	return &Obstacle{Reason: reason, Message: text.Printable(fmt.Sprintf(format, arguments...), maxMessage)}
}

// String is the form of the error annotation.
func (o Obstacle) String() string { return o.Reason + ": " + o.Message }

// ParseObstacle reads the error annotation, which anybody may have written who may write the object.
func ParseObstacle(annotation string) Obstacle {
	reason, message, _ := strings.Cut(annotation, ": ")
	if !slices.Contains(reasons, reason) {
		return Obstacle{"Unknown", text.Printable(annotation, maxMessage)}
	}
	return Obstacle{reason, text.Printable(message, maxMessage)}
}

// CA is what anybody may know of a ServiceCA.
type CA struct {
	// Certificate is that of the CA that signs; nil while none may.
	Certificate *x509.Certificate
	// NotAfter is when it ends or, before that, one of those above it.
	NotAfter time.Time
	Chain    []*x509.Certificate
	// Bridge leads to the roots of the generations before, for clients whose bundle is old.
	Bridge []*x509.Certificate
	// Before are the generations before it that signed with a root and were not compromised.
	Before []*x509.Certificate
	// Signatures are those that are known to be of this CA, or of others.
	Signatures *pki.Signatures
	// Bundle is the published trust bundle in PEM, and Roots are the certificates in it.
	Bundle []byte
	Roots  *x509.CertPool
	// Reissue is when the certificates of the CAs before are replaced.
	Reissue Reissue
}

// generations returns the certificates of the CA that signs and of those before it that are known.
func (ca *CA) generations() []*x509.Certificate {
	if ca.Certificate == nil {
		return ca.Before
	}
	return append([]*x509.Certificate{ca.Certificate}, ca.Before...)
}

// Action is what to do with a Secret.
type Action string

// The actions.
const (
	// Keep it as it is.
	Keep Action = "Keep"
	// Issue a new certificate into it.
	Issue Action = "Issue"
	// Repair what surrounds a sound certificate: labels, annotations, the bundle.
	Repair Action = "Repair"
	// Refuse to touch it.
	Refuse Action = "Refuse"
)

// Plan is what to do for a Service that wants a certificate.
type Plan struct {
	Want   Want
	Action Action
	// Why a certificate is issued, or repaired, continuing the sentence "the certificate is new, because …".
	Why string
	// Renewal is set when the certificate is issued because the one before it comes to its end.
	Renewal bool
	// Obstacle is what a person must be told; it stands beside Keep and Issue where two Services want one Secret.
	Obstacle *Obstacle
	// Injection is what the Secret must be told, which asks for a bundle that it cannot have.
	Injection *Obstacle
	// NotAfter is the end of the certificate that is there and sound; zero without one.
	NotAfter time.Time
	// RenewAt is when that certificate is renewed; zero when a new one could not last longer.
	RenewAt time.Time
	// SignedBy is the common name of the CA that signed it.
	SignedBy string
}

// Plan decides. The Secret is a digest of the one under the wanted name, nil when there is none; rivals are the other Services
// that want the same Secret.
func (w Want) Plan(now time.Time, ca *CA, secret *corev1.Secret, rivals []*corev1.Service) Plan {
	plan := Plan{Want: w, Action: Refuse}
	if plan.Obstacle = w.check(ca); plan.Obstacle != nil {
		return plan
	}
	holder := holderOf(secret, rivals)
	if secret != nil && holder == nil && !w.mayReplace(secret) {
		plan.Obstacle = w.notOurs(secret)
		return plan
	}
	if plan.Obstacle = w.conflict(holder, rivals); plan.Obstacle != nil && w.yields(secret, holder, rivals) {
		return plan
	}
	plan.Injection = w.bundles(secret, ca).obstacle
	w.judge(now, ca, secret, &plan)
	if plan.Action == Issue {
		if unable := ca.Unable(now, w.Policy.Spec.ServiceCAName); unable != nil {
			plan.Action, plan.Obstacle = Refuse, unable
		}
	}
	return plan
}

// holderOf is the rival that a Secret was made for; nil when it was made for none of them.
func holderOf(secret *corev1.Secret, rivals []*corev1.Service) *corev1.Service {
	for _, rival := range rivals {
		if secret != nil && bearsNameOf(secret, rival.Name) {
			return rival
		}
	}
	return nil
}

// yields tells whether another Service has the better claim: it has the Secret already or, where nobody has, it is older.
func (w Want) yields(secret *corev1.Secret, holder *corev1.Service, rivals []*corev1.Service) bool {
	if secret != nil {
		return holder != nil
	}
	return slices.ContainsFunc(rivals, func(rival *corev1.Service) bool { return older(rival, w.Service) })
}

// Unable says why the CA of this name cannot sign at this time; nil when it can.
func (ca *CA) Unable(now time.Time, name string) *Obstacle {
	certificate := ca.Certificate
	switch {
	case certificate == nil:
		return NewObstacle(ReasonServiceCANotReady, "ServiceCA %s: its signing key was lost, and its successor does not sign yet", name)
	case !now.Before(ca.NotAfter):
		return NewObstacle(ReasonServiceCANotReady, "ServiceCA %s: %s expired %s and has no successor yet",
			name, certificate.Subject.CommonName, ca.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(certificate.NotBefore):
		return NewObstacle(ReasonServiceCANotReady, "ServiceCA %s: %s is not valid before %s",
			name, certificate.Subject.CommonName, certificate.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// judge finds out whether the Service's own Secret is as it should be.
func (w Want) judge(now time.Time, ca *CA, secret *corev1.Secret, plan *Plan) {
	plan.Action = Issue
	if secret == nil {
		plan.Why = "there was none"
		return
	}
	leaf, err := w.sound(now, secret)
	if err != nil {
		plan.Why = err.Error()
		return
	}
	before, err := w.signer(now, leaf, ca)
	if err != nil {
		plan.Why = err.Error()
		return
	}
	if now.Before(leaf.NotAfter) {
		plan.NotAfter, plan.SignedBy = leaf.NotAfter, leaf.Issuer.CommonName
	}
	plan.RenewAt, plan.Why, plan.Renewal = w.renewAt(leaf, ca, before)
	if ended := plan.NotAfter.IsZero(); ended || (!plan.RenewAt.IsZero() && !now.Before(plan.RenewAt)) {
		return
	}
	plan.Action, plan.Why, plan.Renewal = Keep, "", false
	if w.drifted(secret, leaf, ca) {
		plan.Action, plan.Why = Repair, "its labels, annotations, managedFields, bundle, keystore or the encoding of its key were not as they should be"
	}
}

// drifted reports whether what surrounds a sound certificate is not as it should be.
func (w Want) drifted(secret *corev1.Secret, leaf *pki.Leaf, ca *CA) bool {
	bundles := w.bundles(secret, ca)
	bundleDrifted := len(leftBundles(secret, bundles.keys)) > 0 ||
		slices.ContainsFunc(bundles.keys, func(key string) bool { return secret.StringData[key] != pki.Hash(ca.Bundle) })
	return bundleDrifted || w.keystoreDrifted(secret) || !isEncoded(secret, w.Leaf.Encoding) ||
		!w.bearsMetadata(secret, leaf.NotAfter, bundles) || !apply.MadeBy(secret, apply.ServingCert)
}

// sound tells whether the Secret's certificate is what a new one would be, its signer and its end aside.
func (w Want) sound(now time.Time, secret *corev1.Secret) (*pki.Leaf, error) {
	leaf, err := Leaf(secret)
	if err != nil {
		return nil, err
	}
	if !isSound(secret) {
		return nil, errors.New(secret.StringData[corev1.TLSPrivateKeyKey])
	}
	if now.Before(leaf.NotBefore) {
		return nil, fmt.Errorf("it was not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if err := leaf.Satisfies(w.Leaf); err != nil {
		return nil, err
	}
	if !HasOwner(secret, w.Service) {
		return nil, fmt.Errorf("the Secret no longer belonged to this Service")
	}
	return leaf, nil
}

// signer tells whether a CA signed a leaf, with the end that it would sign today, or, as before says, a CA before it whose root is
// still trusted. The error says why neither did.
func (w Want) signer(now time.Time, leaf *pki.Leaf, ca *CA) (before, err error) {
	if ca.Certificate == nil {
		before = errors.New("the signing key of its CA was lost")
	} else {
		before = leaf.SignedBy(ca.Certificate, ca.Chain, ca.Bridge, ca.Signatures)
	}
	if before != nil {
		if ca.Roots == nil || !now.Before(leaf.NotAfter) || leaf.VerifiesBy(ca.Roots, now) != nil {
			return nil, before
		}
		return before, nil
	}
	if expected := pki.NotAfter(leaf.IssuedAt(), w.Duration, ca.NotAfter); leaf.NotAfter.Sub(expected).Abs() > time.Second {
		return nil, fmt.Errorf("its end was %s, and the policy wants %s",
			leaf.NotAfter.UTC().Format(time.RFC3339), expected.UTC().Format(time.RFC3339))
	}
	return nil, nil
}

// Serving is the certificate in a digest, if clients accept it for the Service, though another may be wanted; nil where they do not.
func (w Want) Serving(now time.Time, secret *corev1.Secret, ca *CA) *pki.Leaf {
	if !now.Before(End(secret)) || ca.Roots == nil {
		return nil
	}
	leaf, err := Leaf(secret)
	if err != nil || leaf.VerifyHostname(w.Leaf.DNSNames[0]) != nil || leaf.VerifiesBy(ca.Roots, now) != nil {
		return nil
	}
	return leaf
}

// CarriedOut is what becomes of the plan when a certificate was issued.
func (p *Plan) CarriedOut(leaf *pki.Leaf, ca *CA) {
	p.NotAfter, p.SignedBy = leaf.NotAfter, leaf.Issuer.CommonName
	p.RenewAt, _, _ = p.Want.renewAt(leaf, ca, nil)
}

// renewAt is when a certificate is replaced, why, and whether that is for its age. A certificate that ends with its CA is not renewed:
// a new one would end at the same time.
func (w Want) renewAt(leaf *pki.Leaf, ca *CA, before error) (at time.Time, why string, renewal bool) {
	why = "the one before it ends " + leaf.NotAfter.UTC().Format(time.RFC3339)
	switch {
	case ca.Certificate == nil || (before == nil && !leaf.NotAfter.Before(ca.NotAfter)):
		return time.Time{}, why, true
	case before == nil:
		return w.dueForAge(leaf), why, true
	}
	age, turn := w.dueForAge(leaf), ca.Reissue.turn(share(leaf))
	if ca.Reissue.Paused || age.Before(turn) {
		return age, why, true
	}
	return turn, before.Error(), false
}

// share is a number from 0 to 1 that depends on nothing but the certificate.
func share(leaf *pki.Leaf) float64 {
	hash := fnv.New32a()
	_, _ = hash.Write(leaf.SerialNumber.Bytes())
	return float64(hash.Sum32()) / (1 << 32)
}

// jitterShare is the part of the time before the renewal over which renewals are spread.
const jitterShare = 0.1

// minAge is the part of its lifetime, one in so many, for which no certificate is renewed, whatever renewBefore says.
const minAge = 20

// dueForAge is when a certificate is renewed: renewBefore before its end, and earlier by a share of its own.
func (w Want) dueForAge(leaf *pki.Leaf) time.Time {
	lifetime := leaf.NotAfter.Sub(leaf.IssuedAt())
	renewBefore := w.RenewBefore
	if renewBefore == 0 {
		renewBefore = lifetime / 3
	}
	at := leaf.NotAfter.Add(-renewBefore - time.Duration(share(leaf)*jitterShare*float64(lifetime-renewBefore)))
	if earliest := leaf.IssuedAt().Add(lifetime / minAge); at.Before(earliest) {
		return earliest
	}
	return at
}

func (w Want) notOurs(secret *corev1.Secret) *Obstacle {
	if secret.Type != corev1.SecretTypeTLS {
		return NewObstacle(ReasonSecretNotOurs, "Secret %s is of type %.64q instead of %s, and is left alone: ask for another name, or delete that Secret",
			w.SecretName, secret.Type, corev1.SecretTypeTLS)
	}
	return NewObstacle(ReasonSecretNotOurs,
		"Secret %s was not made for this Service and is left alone: ask for another name, or delete that Secret", w.SecretName)
}

// conflict tells of one other Service, so that what is told changes little however many there are.
func (w Want) conflict(holder *corev1.Service, rivals []*corev1.Service) *Obstacle {
	if len(rivals) == 0 {
		return nil
	}
	other, more := holder, ""
	if other == nil {
		other = slices.MinFunc(rivals, byAge)
	}
	if len(rivals) > 1 {
		more = " and by others"
	}
	return NewObstacle(ReasonSecretConflict, "Secret %s is also wanted by Service %s%s: one of them must ask for another name",
		w.SecretName, other.Name, more)
}

func older(a, b *corev1.Service) bool { return byAge(a, b) < 0 }

func byAge(a, b *corev1.Service) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}
