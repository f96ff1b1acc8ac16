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

	"github.com/servingcert/operator/controllers/internal/pki"
)

// The reasons for which a Service has no certificate, or will soon have none.
const (
	ReasonNoPolicy          = "NoPolicy"
	ReasonServiceCANotReady = "ServiceCANotReady"
	ReasonInvalidSecretName = "InvalidSecretName"
	ReasonInvalidDNSName    = "InvalidDNSName"
	ReasonNameNotPermitted  = "NameNotPermitted"
	ReasonSecretNotOurs     = "SecretNotOurs"
	ReasonSecretConflict    = "SecretConflict"
	ReasonSecretRefused     = "SecretRefused"
)

// Obstacle is what stands in the way of a certificate, for a person.
type Obstacle struct {
	Reason, Message string
}

// String is the form of the error annotation.
func (o Obstacle) String() string { return o.Reason + ": " + o.Message }

// ParseObstacle reads the error annotation.
func ParseObstacle(annotation string) Obstacle {
	reason, message, _ := strings.Cut(annotation, ": ")
	return Obstacle{reason, message}
}

// CA is what anybody may know of a ServiceCA that can sign.
type CA struct {
	Certificate *x509.Certificate
	Chain       []*x509.Certificate
	// Bundle is the published trust bundle in PEM.
	Bundle []byte
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
	// NotAfter is the end of the certificate that is there and sound; zero without one.
	NotAfter time.Time
	// RenewAt is when that certificate is renewed; zero when a new one could not last longer.
	RenewAt time.Time
}

// Plan decides. The Secret is a digest of the one under the wanted name, nil when there is none; rivals are the other Services
// that want the same Secret.
func (w Want) Plan(now time.Time, ca *CA, secret *corev1.Secret, rivals []*corev1.Service) Plan {
	plan := Plan{Want: w, Action: Refuse}
	if plan.Obstacle = w.check(ca); plan.Obstacle != nil {
		return plan
	}
	if secret != nil && !Ours(secret, w.Service) {
		plan.Obstacle = w.notOurs(secret, rivals)
		return plan
	}
	if secret != nil && secret.Type != corev1.SecretTypeTLS {
		plan.Obstacle = &Obstacle{ReasonSecretNotOurs, fmt.Sprintf(
			"Secret %s is of type %s instead of %s, which cannot be changed: delete it", w.SecretName, secret.Type, corev1.SecretTypeTLS)}
		return plan
	}
	plan.Obstacle = w.conflict(rivals)
	if secret == nil && slices.ContainsFunc(rivals, func(rival *corev1.Service) bool { return older(rival, w.Service) }) {
		return plan
	}
	w.judge(now, ca, secret, &plan)
	if plan.Action == Issue && !now.Before(ca.Certificate.NotAfter) {
		plan.Action, plan.Obstacle = Refuse, w.expired(ca)
	}
	return plan
}

func (w Want) expired(ca *CA) *Obstacle {
	return &Obstacle{ReasonServiceCANotReady, fmt.Sprintf("ServiceCA %s: %s expired %s and has no successor yet",
		w.Policy.Spec.ServiceCAName, ca.Certificate.Subject.CommonName, ca.Certificate.NotAfter.UTC().Format(time.RFC3339))}
}

// judge finds out whether the Service's own Secret is as it should be.
func (w Want) judge(now time.Time, ca *CA, secret *corev1.Secret, plan *Plan) {
	plan.Action = Issue
	if secret == nil {
		plan.Why = "there was none"
		return
	}
	leaf, err := w.sound(secret, ca)
	if err != nil {
		plan.Why = err.Error()
		return
	}
	if now.Before(leaf.NotAfter) {
		plan.NotAfter = leaf.NotAfter
	}
	if plan.RenewAt = w.renewAt(leaf, ca); !plan.RenewAt.IsZero() && !now.Before(plan.RenewAt) {
		plan.Why, plan.Renewal = "the one before it ends "+leaf.NotAfter.UTC().Format(time.RFC3339), true
		return
	}
	plan.Action = Keep
	bundleDrifted := w.includesBundle() && secret.StringData[bundleKey] != pki.Hash(ca.Bundle)
	if bundleDrifted || !w.bearsMetadata(secret, leaf.NotAfter, ca) {
		plan.Action, plan.Why = Repair, "its labels, annotations or bundle were not as they should be"
	}
}

// sound tells whether the Secret's certificate is what a new one would be, its end aside.
func (w Want) sound(secret *corev1.Secret, ca *CA) (*pki.Leaf, error) {
	leaf, err := pki.ParseLeaf(secret.Data[corev1.TLSCertKey])
	if err != nil {
		return nil, err
	}
	if key := secret.StringData[corev1.TLSPrivateKeyKey]; key != soundKey {
		return nil, errors.New(key)
	}
	if err := leaf.SignedBy(ca.Certificate, ca.Chain); err != nil {
		return nil, err
	}
	if err := leaf.Satisfies(w.Leaf); err != nil {
		return nil, err
	}
	if !HasOwner(secret, w.Service) {
		return nil, fmt.Errorf("the Secret no longer belonged to this Service")
	}
	if expected := pki.NotAfter(leaf.IssuedAt(), w.Duration, ca.Certificate); leaf.NotAfter.Sub(expected).Abs() > time.Second {
		return nil, fmt.Errorf("its end was %s, and the policy wants %s",
			leaf.NotAfter.UTC().Format(time.RFC3339), expected.UTC().Format(time.RFC3339))
	}
	return leaf, nil
}

// jitterShare is the part of the time before the renewal over which renewals are spread.
const jitterShare = 0.1

// renewAt is when a certificate is renewed: renewBefore before its end, and earlier by a share of its own, which depends on
// nothing but the certificate. A certificate that ends with its CA is not renewed: a new one would end at the same time.
func (w Want) renewAt(leaf *pki.Leaf, ca *CA) time.Time {
	if !leaf.NotAfter.Before(ca.Certificate.NotAfter) {
		return time.Time{}
	}
	lifetime := leaf.NotAfter.Sub(leaf.IssuedAt())
	renewBefore := w.RenewBefore
	if renewBefore == 0 {
		renewBefore = lifetime / 3
	}
	hash := fnv.New32a()
	_, _ = hash.Write(leaf.SerialNumber.Bytes())
	share := float64(hash.Sum32()) / (1 << 32)
	return leaf.NotAfter.Add(-renewBefore - time.Duration(share*jitterShare*float64(lifetime-renewBefore)))
}

func (w Want) notOurs(secret *corev1.Secret, rivals []*corev1.Service) *Obstacle {
	for _, rival := range rivals {
		if Ours(secret, rival) {
			return w.conflict(rivals)
		}
	}
	return w.Foreign()
}

// Foreign says that somebody else's Secret is in the way.
func (w Want) Foreign() *Obstacle {
	return &Obstacle{ReasonSecretNotOurs, fmt.Sprintf(
		"Secret %s was not made for this Service and is left alone: ask for another name, or delete that Secret", w.SecretName)}
}

func (w Want) conflict(rivals []*corev1.Service) *Obstacle {
	if len(rivals) == 0 {
		return nil
	}
	var names []string
	for _, rival := range rivals {
		names = append(names, rival.Name)
	}
	slices.Sort(names)
	return &Obstacle{ReasonSecretConflict, fmt.Sprintf("Secret %s is also wanted by Service %s: one of them must ask for another name",
		w.SecretName, strings.Join(names, ", "))}
}

func older(a, b *corev1.Service) bool {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name)) < 0
}
