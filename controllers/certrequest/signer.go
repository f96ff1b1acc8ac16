// Package certrequest signs for whoever brings a key in a request of some kind: the names of Services, as the policies that rule them allow. What
// kinds of requests there are, is said elsewhere: a Door each.
package certrequest

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

// Grant is what a request comes to.
type Grant struct {
	PublicKey crypto.PublicKey
	Key       pki.KeySpec
	Terms     issuance.Terms
	// Duration is the lifetime that is asked for, at most; that of the policy where it is 0. Least is the shortest that the asker takes.
	Duration, MinDuration time.Duration
	// Backdate is how far before now the certificate begins.
	Backdate time.Duration
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
	*issuance.Problem
	// Final: nothing but another request could change it.
	Final bool
	// until is when the request is signed all the same; zero where it is not.
	until time.Time
}

// pendingRefusal is what stands in the way for now.
func pendingRefusal(problem *issuance.Problem) *Refusal { return &Refusal{Problem: problem} }

// Reject is what stands in the way of this request for ever.
func Reject(problem *issuance.Problem) *Refusal { return &Refusal{Problem: problem, Final: true} }

// Invalid rejects a request that cannot be read, or asks for what no Service has.
func Invalid(err error) *Refusal {
	return Reject(issuance.NewProblem(issuance.ReasonInvalidRequest, "%v", err))
}

// ServiceCAOfSigner is the ServiceCA that a signer name of Kubernetes means, `servingcert.dev/<serviceca>`; empty for the signers of others.
func ServiceCAOfSigner(signerName string) string {
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
		namespaceLabels, ok := namespaces[service.Namespace]
		if !ok {
			namespaceMetadata, err := s.View.Namespace(ctx, service.Namespace)
			if err != nil {
				return nil, err
			}
			namespaceLabels = namespaceMetadata.Labels
			namespaces[service.Namespace] = namespaceLabels
		}
		ruling, _ := policies.For(namespaceLabels, service.Labels)
		if ruling == nil || ruling.Spec.ServiceCAName != ca {
			continue
		}
		if offer, ok := s.View.Resolver.Offer(service, ruling); ok {
			offers = append(offers, offer)
		}
	}
	return offers, nil
}

// sign signs a claim. Without a certificate and without a refusal, the CA will sign in a moment by itself.
func (s Signer) sign(ctx context.Context, name string, grant *Grant) (*Certificate, *Refusal, error) {
	ca, problem, err := s.Keyring.Find(ctx, s.View, name)
	switch {
	case err != nil:
		return nil, nil, err
	case problem != nil:
		return nil, pendingRefusal(problem), nil
	case ca == nil || (ca.Authority != nil && ca.LongestDuration < grant.Terms.Duration):
		// What is signed for longer must first be written down in the ServiceCA's state.
		return nil, nil, nil
	}
	now := s.Clock.Now()
	if problem := ca.CannotSign(now, name); problem != nil {
		return nil, pendingRefusal(problem), nil
	}
	if problem := ca.ValidateRequest(grant.Terms.DNSNames, grant.Terms.Usages, grant.Terms.Policy); problem != nil {
		return nil, pendingRefusal(problem), nil
	}
	certificate, refusal, err := grant.sign(now, name, ca)
	if certificate != nil {
		certificate.took = s.Clock.Since(now)
	}
	return certificate, refusal, err
}

// sign signs a claim whose names are settled.
func (g *Grant) sign(now time.Time, name string, ca *keyring.CA) (*Certificate, *Refusal, error) {
	lifetime := g.Terms.Duration
	if g.Duration > 0 {
		lifetime = min(lifetime, g.Duration)
	}
	if lifetime <= g.Backdate {
		return nil, Reject(issuance.NewProblem(issuance.ReasonInvalidRequest, "a lifetime of %s would be over before it begins, "+
			"for it counts from %s ago: ask for more", lifetime, g.Backdate)), nil
	}
	notBefore := now.Add(-g.Backdate).Truncate(time.Second)
	spec := pki.LeafSpec{DNSNames: g.Terms.DNSNames, Usages: g.Terms.Usages, Key: g.Key}
	chain, err := ca.Authority.SignPublicKey(spec, g.PublicKey, notBefore, notBefore.Add(lifetime))
	if err != nil {
		return nil, nil, err
	}
	leaf, err := pki.ParseLeaf(chain)
	if err != nil {
		return nil, nil, err
	}
	if left := leaf.NotAfter.Sub(leaf.NotBefore); left < g.MinDuration {
		return nil, pendingRefusal(issuance.NewProblem(issuance.ReasonServiceCANotReady,
			"policy %s and ServiceCA %s allow a lifetime of %s, and the request needs %s: raise spec.certificate.duration, or wait for the CA's rotation",
			g.Terms.Policy, name, left, g.MinDuration)), nil
	}
	if err := leaf.VerifyWithRoots(ca.Roots, now); err != nil {
		return nil, pendingRefusal(issuance.NewProblem(issuance.ReasonNameNotPermitted, "no client could verify it: %v", err)), nil
	}
	return &Certificate{
		Chain: chain, Bundle: ca.Bundle, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, SignedBy: leaf.Issuer.CommonName,
		policy: g.Terms.Policy,
	}, nil, nil
}
