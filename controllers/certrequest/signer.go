// Package certrequest signs public keys that clients send in requests. It grants only DNS names of
// Services, as the policies for those Services allow. Each kind of request implements RequestKind
// in its own package.
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

// Signer decides which certificates the policies allow, and signs them.
type Signer struct {
	View    servingcert.View
	Keyring *keyring.Keyring
	Clock   clock.PassiveClock
	Metrics *metrics.Signing
}

// Grant describes the certificate that a request is entitled to.
type Grant struct {
	PublicKey crypto.PublicKey
	Key       pki.KeySpec
	Terms     issuance.Terms
	// Duration is the longest lifetime that the request allows; 0 means the policy's. MinDuration
	// is the shortest that the client accepts.
	Duration, MinDuration time.Duration
	// Backdate is how far notBefore is before the time of signing.
	Backdate time.Duration
}

// Certificate is a signed certificate.
type Certificate struct {
	// Chain is the leaf followed by its intermediates, in PEM. Bundle is the trust bundle to verify
	// it with.
	Chain, Bundle       []byte
	NotBefore, NotAfter time.Time
	SignedBy            string

	policy string
	took   time.Duration
}

// Refusal is the reason why a request gets no certificate.
type Refusal struct {
	*issuance.Problem
	// Final means that only another request could be granted.
	Final bool
	// until is when the request will be signed anyway; zero if it will not.
	until time.Time
}

// pendingRefusal returns a refusal that is not final.
func pendingRefusal(problem *issuance.Problem) *Refusal { return &Refusal{Problem: problem} }

// Reject returns a final refusal.
func Reject(problem *issuance.Problem) *Refusal { return &Refusal{Problem: problem, Final: true} }

// Invalid returns a final refusal of a request that cannot be parsed, or that asks for something no
// Service can have.
func Invalid(err error) *Refusal {
	return Reject(issuance.NewProblem(issuance.ReasonInvalidRequest, "%v", err))
}

// ServiceCAOfSigner returns the name of the ServiceCA in a Kubernetes signer name,
// `servingcert.dev/<serviceca>`; empty for other signers.
func ServiceCAOfSigner(signerName string) string {
	ca, ours := strings.CutPrefix(signerName, v1alpha1.GroupName+"/")
	if !ours {
		return ""
	}
	return ca
}

// Offers returns what the policies of a ServiceCA offer to the Services for which counts returns
// true, in one namespace, or in all if namespace is empty.
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

// sign signs a grant. If it returns neither a certificate nor a refusal, the CA will sign within
// moments.
func (s Signer) sign(ctx context.Context, name string, grant *Grant) (*Certificate, *Refusal, error) {
	ca, problem, err := s.Keyring.Find(ctx, s.View, name)
	switch {
	case err != nil:
		return nil, nil, err
	case problem != nil:
		return nil, pendingRefusal(problem), nil
	case ca == nil || (ca.Authority != nil && ca.LongestDuration < grant.Terms.Duration):
		// The ServiceCA's status must record the longest lifetime before a certificate with it is
		// signed.
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

// sign signs a grant whose names are checked.
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
