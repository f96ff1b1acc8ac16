package serviceca

import (
	"bytes"
	"context"
	"crypto/x509"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
	"github.com/servingcert/operator/controllers/servingcert"
)

// clusterEvidence is what was observed outside the signing-key Secret.
type clusterEvidence struct {
	rotation.Evidence
	targets            injector.Targets
	clusterTrustBundle clusterTrustBundle
	// unpublished is why the bundle cannot be published in ConfigMaps of spec.trustBundle.publish;
	// empty when it can be in all.
	unpublished string
	// certificates counts the live serving certificates by the subject key ID of the CA that signed
	// them.
	certificates map[string]int32
	// untrusted is the number of live serving certificates that do not verify with the bundle and that
	// will be reissued.
	untrusted int32
	// unverified is the number of live certificates issued for requests that do not verify with the
	// bundle; unverifiedNames names some of them.
	unverified      int32
	unverifiedNames []string
	// reissueSpread is how long it takes to reissue all serving certificates.
	reissueSpread time.Duration
}

// collectEvidence counts the targets that carry the bundle of state, and the certificates by the CA
// that signed them. It returns empty evidence when state is nil.
func (r *Reconciler) collectEvidence(ctx context.Context, in observed, state *rotation.State) (clusterEvidence, error) {
	ca, evidence := in.serviceCA, clusterEvidence{certificates: map[string]int32{}}
	if state == nil {
		return evidence, nil
	}
	var err error
	encoded := state.Bundle().Encode()
	hash := pki.Hash(encoded)
	if evidence.targets, err = r.Targets.Count(ctx, ca.Name, hash, state.Since); err != nil {
		return evidence, err
	}
	if evidence.unpublished, err = r.Published(ctx, ca, hash, state.Since, &evidence.targets); err != nil {
		return evidence, err
	}
	evidence.targets.Count(bytes.Equal(in.published, encoded), false, "ConfigMap "+r.Namespace+"/"+ca.TrustBundleConfigMapName())
	if in.clusterTrustBundle.served {
		evidence.clusterTrustBundle = in.clusterTrustBundle
		name := "ClusterTrustBundle " + ca.ClusterTrustBundleName()
		if in.clusterTrustBundle.awaited {
			name = injector.WithReason(name, &issuance.Problem{Message: in.clusterTrustBundle.rejection})
		}
		evidence.targets.Count(in.clusterTrustBundle.contains(encoded), in.clusterTrustBundle.rejection != "" && !in.clusterTrustBundle.awaited, name)
	}
	if err := r.countSecrets(ctx, ca.Name, hash, state, &evidence); err != nil {
		return evidence, err
	}
	if err := r.countIssued(ctx, ca.Name, state, &evidence); err != nil {
		return evidence, err
	}
	evidence.Restarts = r.Restarts(ca.Name, state.TrustChangedAt)
	evidence.OutOfDate, evidence.OutOfDateNames = evidence.targets.OutOfDate, evidence.targets.OutOfDateNames
	return evidence, nil
}

func (r *Reconciler) countSecrets(ctx context.Context, ca, hash string, state *rotation.State, evidence *clusterEvidence) error {
	claimOf, err := r.Claims(ctx)
	if err != nil {
		return err
	}
	var secrets corev1.SecretList
	err = r.Cache.List(ctx, &secrets, client.UnsafeDisableDeepCopy, client.MatchingLabelsSelector{
		Selector: labels.SelectorFromSet(labels.Set{v1alpha1.LabelServiceCA: ca}),
	})
	now, live, verifier := r.Clock.Now(), 0, signatureCache{at: r.Clock.Now(), roots: state.Bundle().Pool(), signers: map[string]bool{}}
	for i := range secrets.Items {
		secret := &secrets.Items[i]
		signer, notAfter, ok := issuance.SignerAndExpiry(secret)
		if !ok || !now.Before(notAfter) {
			continue
		}
		claim := claimOf(secret)
		if !claim.Wanted {
			continue
		}
		live++
		evidence.countCertificate(secret, state, signer, claim, hash)
		evidence.countUntrusted(verifier.verifies(signer, secret), claim)
		if state.Active != nil && notAfter.After(latest(evidence.LatestNotAfter, state.SignedUntil(now))) && isSignedBy(state.Active, secret) {
			// The clock was ahead when this certificate was issued.
			evidence.LatestNotAfter = notAfter
		}
	}
	if r.ReissueRate > 0 {
		evidence.reissueSpread = time.Duration(float64(live) / r.ReissueRate * float64(time.Second))
	}
	return err
}

// signatureCache caches the signers of which a certificate verified: there are as many certificates
// as Services, so verifying each would be too slow. Failures are not cached: a tenant who may write
// a Secret can name a signer in it that did not sign it.
type signatureCache struct {
	at      time.Time
	roots   *x509.CertPool
	signers map[string]bool
}

// verifies reports whether the certificate in secret, which names this signer, verifies.
func (c signatureCache) verifies(signer string, secret *corev1.Secret) bool {
	if !c.signers[signer] {
		leaf, err := issuance.Leaf(secret)
		c.signers[signer] = err == nil && leaf.VerifyWithRoots(c.roots, c.at) == nil
	}
	return c.signers[signer]
}

// isSignedBy reports whether signer signed the certificate in the digest secret, regardless of the
// signer that the digest names.
func isSignedBy(signer *rotation.Signer, secret *corev1.Secret) bool {
	leaf, err := issuance.Leaf(secret)
	return err == nil && leaf.CheckSignatureFrom(signer.Certificate()) == nil
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// countUntrusted counts a live certificate that does not verify, unless its claim is unresolvable.
func (e *clusterEvidence) countUntrusted(verifies bool, claim servingcert.Claim) {
	if !verifies && !claim.Unresolvable {
		e.untrusted++
	}
}

// countCertificate counts a live certificate, and the bundle in the same Secret.
func (e *clusterEvidence) countCertificate(secret *corev1.Secret, state *rotation.State, signer string, claim servingcert.Claim, hash string) {
	name := injector.WithReason("Secret "+secret.Namespace+"/"+secret.Name, claim.Failure)
	e.certificates[signer]++
	if state.Active != nil && signer != pki.KeyID(state.Active.Certificate().SubjectKeyId) && !claim.Unresolvable {
		e.Outstanding++
		e.OutstandingNames = injector.InsertSorted(e.OutstandingNames, name)
	}
	if claim.IncludesBundle {
		_, reported := secret.Annotations[v1alpha1.AnnotationError]
		e.targets.Count(issuance.BundleHash(secret) == hash, claim.Unresolvable || reported, name)
	}
}
