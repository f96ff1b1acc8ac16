// Package signing signs for whoever brings a key in a request of some kind: the names of Services, as the policies that rule them allow. What
// kinds of requests there are, is said elsewhere: a Door each.
package signing

import (
	"context"
	"crypto"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/metrics"
	"github.com/servingcert/operator/controllers/servingcert"
)

// Signer knows who may have what, and signs it.
type Signer struct {
	View    servingcert.View
	Keyring *keyring.Keyring
	Clock   clock.PassiveClock
	Metrics *metrics.Signing
}

// Claim is what a request comes to.
type Claim struct {
	PublicKey crypto.PublicKey
	Key       pki.KeySpec
	Terms     issuance.Terms
	// Duration is the lifetime that is asked for, at most; that of the policy where it is 0. Least is the shortest that the asker takes.
	Duration, Least time.Duration
	// Skew is how far before now the certificate begins.
	Skew time.Duration
}

// Certificate is one that was signed.
type Certificate struct {
	// Chain is the leaf and what follows it, in PEM, and Bundle the trust bundle to verify it with.
	Chain, Bundle       []byte
	NotBefore, NotAfter time.Time
	SignedBy            string

	policy string
	took   time.Duration
}

// Refusal is why a request gets no certificate.
type Refusal struct {
	*issuance.Obstacle
	// Final: nothing but another request could change it.
	Final bool
	// until is when the request is signed all the same; zero where it is not.
	until time.Time
}

// refuse is what stands in the way for now.
func refuse(obstacle *issuance.Obstacle) *Refusal { return &Refusal{Obstacle: obstacle} }

// Reject is what stands in the way of this request for ever.
func Reject(obstacle *issuance.Obstacle) *Refusal { return &Refusal{Obstacle: obstacle, Final: true} }

// Invalid rejects a request that cannot be read, or asks for what no Service has.
func Invalid(err error) *Refusal {
	return Reject(issuance.NewObstacle(issuance.ReasonInvalidRequest, "%v", err))
}

// OfCA is the ServiceCA that a signer name of Kubernetes means, `servingcert.dev/<serviceca>`; empty for the signers of others.
func OfCA(signerName string) string {
	ca, ours := strings.CutPrefix(signerName, v1alpha1.GroupName+"/")
	if !ours {
		return ""
	}
	return ca
}

// Offers are what the policies of a ServiceCA give for those Services that count, in one namespace or, where it is empty, in all.
func (s Signer) Offers(ctx context.Context, ca, namespace string, counts func(*corev1.Service) bool) (issuance.Offers, error) {
	policies, err := s.View.Policies(ctx)
	if err != nil {
		return nil, err
	}
	var services corev1.ServiceList
	if err := s.View.List(ctx, &services, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	namespaces := map[string]labels.Set{}
	var offers issuance.Offers
	for i := range services.Items {
		service := &services.Items[i]
		if !counts(service) {
			continue
		}
		of, known := namespaces[service.Namespace]
		if !known {
			found, err := s.View.Namespace(ctx, service.Namespace)
			if err != nil {
				return nil, err
			}
			of = found.Labels
			namespaces[service.Namespace] = of
		}
		ruling, _ := policies.For(of, service.Labels)
		if ruling == nil || ruling.Spec.ServiceCAName != ca {
			continue
		}
		if offer, some := s.View.Rules.Offer(service, ruling); some {
			offers = append(offers, offer)
		}
	}
	return offers, nil
}

// sign signs a claim. Without a certificate and without a refusal, the CA will sign in a moment by itself.
func (s Signer) sign(ctx context.Context, name string, claim *Claim) (*Certificate, *Refusal, error) {
	ca, obstacle, err := s.Keyring.Find(ctx, s.View, name)
	switch {
	case err != nil:
		return nil, nil, err
	case obstacle != nil:
		return nil, refuse(obstacle), nil
	case ca == nil || (ca.Authority != nil && ca.Longest < claim.Terms.Duration):
		// What is signed for longer must first be written down in the ServiceCA's state.
		return nil, nil, nil
	}
	now := s.Clock.Now()
	if obstacle := ca.Unable(now, name); obstacle != nil {
		return nil, refuse(obstacle), nil
	}
	if obstacle := ca.Check(claim.Terms.DNSNames, claim.Terms.Usages, claim.Terms.Policy); obstacle != nil {
		return nil, refuse(obstacle), nil
	}
	certificate, refusal, err := claim.endorse(now, name, ca)
	if certificate != nil {
		certificate.took = s.Clock.Since(now)
	}
	return certificate, refusal, err
}

// endorse signs a claim whose names are settled.
func (c *Claim) endorse(now time.Time, name string, ca *keyring.CA) (*Certificate, *Refusal, error) {
	lifetime := c.Terms.Duration
	if c.Duration > 0 {
		lifetime = min(lifetime, c.Duration)
	}
	if lifetime <= c.Skew {
		return nil, Reject(issuance.NewObstacle(issuance.ReasonInvalidRequest, "a lifetime of %s would be over before it begins, "+
			"for it counts from %s ago: ask for more", lifetime, c.Skew)), nil
	}
	notBefore := now.Add(-c.Skew).Truncate(time.Second)
	spec := pki.LeafSpec{DNSNames: c.Terms.DNSNames, Usages: c.Terms.Usages, Key: c.Key}
	chain, err := ca.Authority.Endorse(spec, c.PublicKey, notBefore, notBefore.Add(lifetime))
	if err != nil {
		return nil, nil, err
	}
	leaf, err := pki.ParseLeaf(chain)
	if err != nil {
		return nil, nil, err
	}
	if left := leaf.NotAfter.Sub(leaf.NotBefore); left < c.Least {
		return nil, refuse(issuance.NewObstacle(issuance.ReasonServiceCANotReady,
			"policy %s and ServiceCA %s allow a lifetime of %s, and the request needs %s: raise spec.certificate.duration, or wait for the CA's rotation",
			c.Terms.Policy, name, left, c.Least)), nil
	}
	if err := leaf.VerifiesBy(ca.Roots, now); err != nil {
		return nil, refuse(issuance.NewObstacle(issuance.ReasonNameNotPermitted, "no client could verify it: %v", err)), nil
	}
	return &Certificate{
		Chain: chain, Bundle: ca.Bundle, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, SignedBy: leaf.Issuer.CommonName,
		policy: c.Terms.Policy,
	}, nil, nil
}
