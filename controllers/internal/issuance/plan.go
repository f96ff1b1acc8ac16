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

// The reasons why a Service has no certificate, or will soon have none.
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
	// ReasonRequestFailed means that the API server could not carry out a request. The request is
	// retried, and the failure may pass by itself.
	ReasonRequestFailed = "RequestFailed"
	// ReasonSecretOverwritten means that another writer keeps overwriting a certificate, which the
	// operator puts back again and again.
	ReasonSecretOverwritten = "SecretOverwritten"
	// ReasonInvalidKeystore and ReasonNoPassword are the reasons for keystores and truststores.
	ReasonInvalidKeystore = "InvalidKeystore"
	ReasonNoPassword      = "NoKeystorePassword"
)

var reasons = []string{
	ReasonNoPolicy, ReasonServiceCANotReady, ReasonInvalidSecretName, ReasonInvalidDNSName, ReasonNameNotPermitted, ReasonUsageNotPermitted,
	ReasonSecretNotOurs, ReasonSecretConflict, ReasonSecretRefused, ReasonRequestFailed, ReasonSecretOverwritten, ReasonInvalidKeystore, ReasonNoPassword,
}

// Problem describes to a user what prevents a certificate.
type Problem struct {
	Reason, Message string
}

// maxMessage limits the length of a message in bytes: much of it quotes what tenants write, and it
// goes into fields of limited size.
const maxMessage = 512

// NewProblem returns a problem with a formatted message, made printable and truncated to
// maxMessage.
func NewProblem(reason, format string, arguments ...any) *Problem {
	return &Problem{Reason: reason, Message: text.Printable(fmt.Sprintf(format, arguments...), maxMessage)}
}

// String returns the value of the error annotation.
func (p Problem) String() string { return p.Reason + ": " + p.Message }

// ParseProblem parses the error annotation. Every client that may write the object can write it, so
// an unknown reason becomes "Unknown" and the message is made printable and truncated.
func ParseProblem(annotation string) Problem {
	reason, message, _ := strings.Cut(annotation, ": ")
	if !slices.Contains(reasons, reason) {
		return Problem{"Unknown", text.Printable(annotation, maxMessage)}
	}
	return Problem{reason, text.Printable(message, maxMessage)}
}

// CA is the public part of a ServiceCA.
type CA struct {
	// Certificate is the certificate of the CA that signs; nil while no CA may sign.
	Certificate *x509.Certificate
	// NotAfter is the earliest notAfter of the CA and the CAs above it.
	NotAfter time.Time
	Chain    []*x509.Certificate
	// CrossSigned leads to the roots of earlier generations, for clients with an old bundle.
	CrossSigned []*x509.Certificate
	// Predecessors are the earlier generations that signed with a root and were not compromised.
	Predecessors []*x509.Certificate
	// Signatures remembers which signatures of this CA and of others were verified.
	Signatures *pki.Signatures
	// Bundle is the published trust bundle in PEM. Roots are the certificates in it.
	Bundle []byte
	Roots  *x509.CertPool
	// Reissue is when the certificates of earlier CAs are replaced.
	Reissue Reissue
}

// generations returns the certificates of the CA that signs and of its known predecessors.
func (ca *CA) generations() []*x509.Certificate {
	if ca.Certificate == nil {
		return ca.Predecessors
	}
	return append([]*x509.Certificate{ca.Certificate}, ca.Predecessors...)
}

// Action is what to do with a Secret.
type Action string

// The actions.
const (
	// Keep leaves the Secret as it is.
	Keep Action = "Keep"
	// Issue writes a new certificate into the Secret.
	Issue Action = "Issue"
	// Repair restores what surrounds a good certificate: labels, annotations, the bundle.
	Repair Action = "Repair"
	// Refuse leaves the Secret alone because of a Problem.
	Refuse Action = "Refuse"
)

// Plan is what to do for a Service that requests a certificate.
type Plan struct {
	Desired Desired
	Action  Action
	// IssueReason is why a certificate is issued or repaired. It completes the sentence "the
	// certificate is new, because …".
	IssueReason string
	// Renewal is set when the certificate is issued because its predecessor is about to expire.
	Renewal bool
	// Problem is what the user must know. With Keep and Issue it is set when two Services request
	// one Secret.
	Problem *Problem
	// InjectionProblem is why the Secret cannot have the bundle that its annotation requests. It is
	// reported on the Secret.
	InjectionProblem *Problem
	// NotAfter is the notAfter of the usable certificate in the Secret; zero without one.
	NotAfter time.Time
	// RenewAt is when that certificate is renewed; zero when a new one could not last longer.
	RenewAt time.Time
	// SignedBy is the common name of the CA that signed it.
	SignedBy string
}

// Plan decides what to do. secret is a digest of the Secret with the desired name, nil when there
// is none. competitors are the other Services that request the same Secret.
func (d Desired) Plan(now time.Time, ca *CA, secret *corev1.Secret, competitors []*corev1.Service) Plan {
	plan := Plan{Desired: d, Action: Refuse}
	if plan.Problem = d.validate(ca); plan.Problem != nil {
		return plan
	}
	owner := ownerAmong(secret, competitors)
	if secret != nil && owner == nil && !d.canReplace(secret) {
		plan.Problem = d.notOwnedProblem(secret)
		return plan
	}
	if plan.Problem = d.conflictProblem(owner, competitors); plan.Problem != nil && d.mustYield(secret, owner, competitors) {
		return plan
	}
	plan.InjectionProblem = d.placeBundle(secret, ca).problem
	d.evaluate(now, ca, secret, &plan)
	if plan.Action == Issue {
		if problem := ca.CannotSign(now, d.Policy.Spec.ServiceCAName); problem != nil {
			plan.Action, plan.Problem = Refuse, problem
		}
	}
	return plan
}

// ownerAmong returns the competitor that a Secret was made for; nil when it was made for none of
// them.
func ownerAmong(secret *corev1.Secret, competitors []*corev1.Service) *corev1.Service {
	for _, competitor := range competitors {
		if secret != nil && isLabeledFor(secret, competitor.Name) {
			return competitor
		}
	}
	return nil
}

// mustYield reports whether another Service has the better claim to the Secret: it owns the
// existing Secret or, when there is no Secret, it is older.
func (d Desired) mustYield(secret *corev1.Secret, owner *corev1.Service, competitors []*corev1.Service) bool {
	if secret != nil {
		return owner != nil
	}
	return slices.ContainsFunc(competitors, func(competitor *corev1.Service) bool { return isOlder(competitor, d.Service) })
}

// CannotSign returns why the CA of this name cannot sign now; nil when it can.
func (ca *CA) CannotSign(now time.Time, name string) *Problem {
	certificate := ca.Certificate
	switch {
	case certificate == nil:
		return NewProblem(ReasonServiceCANotReady, "ServiceCA %s: its signing key was lost, and its successor does not sign yet", name)
	case !now.Before(ca.NotAfter):
		return NewProblem(ReasonServiceCANotReady, "ServiceCA %s: %s expired %s and has no successor yet",
			name, certificate.Subject.CommonName, ca.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(certificate.NotBefore):
		return NewProblem(ReasonServiceCANotReady, "ServiceCA %s: %s is not valid before %s",
			name, certificate.Subject.CommonName, certificate.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// evaluate compares the Service's own Secret with the desired state and completes the plan.
func (d Desired) evaluate(now time.Time, ca *CA, secret *corev1.Secret, plan *Plan) {
	plan.Action = Issue
	if secret == nil {
		plan.IssueReason = "there was none"
		return
	}
	leaf, err := d.verify(now, secret)
	if err != nil {
		plan.IssueReason = err.Error()
		return
	}
	outdated, err := d.verifySigner(now, leaf, ca)
	if err != nil {
		plan.IssueReason = err.Error()
		return
	}
	if now.Before(leaf.NotAfter) {
		plan.NotAfter, plan.SignedBy = leaf.NotAfter, leaf.Issuer.CommonName
	}
	plan.RenewAt, plan.IssueReason, plan.Renewal = d.renewalTime(leaf, ca, outdated)
	if ended := plan.NotAfter.IsZero(); ended || (!plan.RenewAt.IsZero() && !now.Before(plan.RenewAt)) {
		return
	}
	plan.Action, plan.IssueReason, plan.Renewal = Keep, "", false
	if d.hasDrifted(secret, leaf, ca) {
		plan.Action, plan.IssueReason = Repair, "its labels, annotations, managedFields, bundle, keystore or the encoding of its key were not as they should be"
	}
}

// hasDrifted reports whether what surrounds a good certificate differs from the desired state.
func (d Desired) hasDrifted(secret *corev1.Secret, leaf *pki.Leaf, ca *CA) bool {
	bundles := d.placeBundle(secret, ca)
	bundleDrifted := len(staleBundleKeys(secret, bundles.keys)) > 0 ||
		slices.ContainsFunc(bundles.keys, func(key string) bool { return secret.StringData[key] != pki.Hash(ca.Bundle) })
	return bundleDrifted || d.keystoreDrifted(secret) || !hasEncoding(secret, d.Leaf.Encoding) ||
		!d.hasMetadata(secret, leaf.NotAfter, bundles) || !apply.IsManagedBy(secret, apply.ServingCert)
}

// verify returns the leaf in the Secret if it equals a new one in everything but its signer and its
// notAfter, or an error that says why it does not.
func (d Desired) verify(now time.Time, secret *corev1.Secret) (*pki.Leaf, error) {
	leaf, err := Leaf(secret)
	if err != nil {
		return nil, err
	}
	if !keyMatches(secret) {
		return nil, errors.New(secret.StringData[corev1.TLSPrivateKeyKey])
	}
	if now.Before(leaf.NotBefore) {
		return nil, fmt.Errorf("it was not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if err := leaf.CheckSpec(d.Leaf); err != nil {
		return nil, err
	}
	if !IsOwnedBy(secret, d.Service) {
		return nil, fmt.Errorf("the Secret no longer belonged to this Service")
	}
	return leaf, nil
}

// verifySigner verifies that leaf was issued by ca, with the notAfter that ca would sign today, or
// by a predecessor whose root is still trusted. In the latter case outdated is the reason for its
// reissue; otherwise outdated is nil. It returns an error if neither issued it.
func (d Desired) verifySigner(now time.Time, leaf *pki.Leaf, ca *CA) (outdated, err error) {
	if ca.Certificate == nil {
		outdated = errors.New("the signing key of its CA was lost")
	} else {
		outdated = leaf.CheckIssuerAndChain(ca.Certificate, ca.Chain, ca.CrossSigned, ca.Signatures)
	}
	if outdated != nil {
		if ca.Roots == nil || !now.Before(leaf.NotAfter) || leaf.VerifyWithRoots(ca.Roots, now) != nil {
			return nil, outdated
		}
		return outdated, nil
	}
	if expected := pki.NotAfter(leaf.IssuedAt(), d.Duration, ca.NotAfter); leaf.NotAfter.Sub(expected).Abs() > time.Second {
		return nil, fmt.Errorf("its end was %s, and the policy wants %s",
			leaf.NotAfter.UTC().Format(time.RFC3339), expected.UTC().Format(time.RFC3339))
	}
	return nil, nil
}

// UsableLeaf returns the certificate in a digest if clients accept it for the Service, even when a
// different one is desired; nil when they do not accept it.
func (d Desired) UsableLeaf(now time.Time, secret *corev1.Secret, ca *CA) *pki.Leaf {
	if !now.Before(NotAfter(secret)) || ca.Roots == nil {
		return nil
	}
	leaf, err := Leaf(secret)
	if err != nil || leaf.VerifyHostname(d.Leaf.DNSNames[0]) != nil || leaf.VerifyWithRoots(ca.Roots, now) != nil {
		return nil
	}
	return leaf
}

// RecordIssued updates the plan after a certificate was issued.
func (p *Plan) RecordIssued(leaf *pki.Leaf, ca *CA) {
	p.NotAfter, p.SignedBy = leaf.NotAfter, leaf.Issuer.CommonName
	p.RenewAt, _, _ = p.Desired.renewalTime(leaf, ca, nil)
}

// renewalTime returns when a certificate is replaced, why, and whether its age is the reason. A
// certificate with the notAfter of its CA is not renewed: a new one would have the same notAfter.
func (d Desired) renewalTime(leaf *pki.Leaf, ca *CA, outdated error) (at time.Time, reason string, renewal bool) {
	reason = "the one before it ends " + leaf.NotAfter.UTC().Format(time.RFC3339)
	switch {
	case ca.Certificate == nil || (outdated == nil && !leaf.NotAfter.Before(ca.NotAfter)):
		return time.Time{}, reason, true
	case outdated == nil:
		return d.renewalTimeByAge(leaf), reason, true
	}
	age, scheduled := d.renewalTimeByAge(leaf), ca.Reissue.scheduledTime(hashFraction(leaf))
	if ca.Reissue.Paused || age.Before(scheduled) {
		return age, reason, true
	}
	return scheduled, outdated.Error(), false
}

// hashFraction returns a number from 0 to 1 that depends on nothing but the certificate.
func hashFraction(leaf *pki.Leaf) float64 {
	hash := fnv.New32a()
	_, _ = hash.Write(leaf.SerialNumber.Bytes())
	return float64(hash.Sum32()) / (1 << 32)
}

// jitterFraction is the fraction of the time before the renewal over which renewals are spread.
const jitterFraction = 0.1

// minAgeDivisor sets the minimum age of a certificate that is renewed: 1/minAgeDivisor of its
// lifetime, whatever renewBefore says.
const minAgeDivisor = 20

// renewalTimeByAge returns when a certificate is renewed because of its age: renewBefore ahead of
// its notAfter, minus a jitter of its own.
func (d Desired) renewalTimeByAge(leaf *pki.Leaf) time.Time {
	lifetime := leaf.NotAfter.Sub(leaf.IssuedAt())
	renewBefore := d.RenewBefore
	if renewBefore == 0 {
		renewBefore = lifetime / 3
	}
	at := leaf.NotAfter.Add(-renewBefore - time.Duration(hashFraction(leaf)*jitterFraction*float64(lifetime-renewBefore)))
	if earliest := leaf.IssuedAt().Add(lifetime / minAgeDivisor); at.Before(earliest) {
		return earliest
	}
	return at
}

func (d Desired) notOwnedProblem(secret *corev1.Secret) *Problem {
	if secret.Type != corev1.SecretTypeTLS {
		return NewProblem(ReasonSecretNotOurs, "Secret %s is of type %.64q instead of %s, and is left alone: ask for another name, or delete that Secret",
			d.SecretName, secret.Type, corev1.SecretTypeTLS)
	}
	return NewProblem(ReasonSecretNotOurs,
		"Secret %s was not made for this Service and is left alone: ask for another name, or delete that Secret", d.SecretName)
}

// conflictProblem returns the problem of competing Services; nil without competitors. It names only
// one of them, so that the message rarely changes, however many there are.
func (d Desired) conflictProblem(owner *corev1.Service, competitors []*corev1.Service) *Problem {
	if len(competitors) == 0 {
		return nil
	}
	other, more := owner, ""
	if other == nil {
		other = slices.MinFunc(competitors, compareAge)
	}
	if len(competitors) > 1 {
		more = " and by others"
	}
	return NewProblem(ReasonSecretConflict, "Secret %s is also wanted by Service %s%s: one of them must ask for another name",
		d.SecretName, other.Name, more)
}

func isOlder(a, b *corev1.Service) bool { return compareAge(a, b) < 0 }

func compareAge(a, b *corev1.Service) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}
