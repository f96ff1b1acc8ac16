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
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
	"github.com/servingcert/operator/controllers/servingcert"
	"github.com/servingcert/operator/controllers/trust"
)

// evidence is what was seen of the world outside the signing-key Secret.
type evidence struct {
	rotation.Evidence
	targets       trust.Targets
	clusterBundle clusterBundle
	// unpublished is why ConfigMaps of spec.trustBundle.publish cannot have the bundle; empty when all can.
	unpublished string
	// certificates counts the live serving certificates by the subject key id of the CA that signed them.
	certificates map[string]int32
	// strangers is the number of those that the bundle does not verify, and that are going to be replaced.
	strangers int32
	// unverified is the number of live certificates that requests got and that the bundle does not
	// verify; unverifiedNames are some.
	unverified      int32
	unverifiedNames []string
	// reissueOver is the time that reissuing all of them takes.
	reissueOver time.Duration
}

// evidence counts what carries the bundle of a state, and whose certificates are signed by whom.
func (r *Reconciler) evidence(ctx context.Context, in observed, state *rotation.State) (evidence, error) {
	ca, seen := in.serviceCA, evidence{certificates: map[string]int32{}}
	if state == nil {
		return seen, nil
	}
	var err error
	encoded := state.Bundle().Encode()
	hash := pki.Hash(encoded)
	if seen.targets, err = r.Targets.Count(ctx, ca.Name, hash, state.Since); err != nil {
		return seen, err
	}
	if seen.unpublished, err = r.Published(ctx, ca, hash, state.Since, &seen.targets); err != nil {
		return seen, err
	}
	seen.targets.Count(bytes.Equal(in.published, encoded), false, "ConfigMap "+r.Namespace+"/"+ca.TrustBundleConfigMapName())
	if in.clusterBundle.served {
		seen.clusterBundle = in.clusterBundle
		name := "ClusterTrustBundle " + ca.ClusterTrustBundleName()
		if in.clusterBundle.awaited {
			name = trust.Explained(name, &issuance.Obstacle{Message: in.clusterBundle.refused})
		}
		seen.targets.Count(in.clusterBundle.holds(encoded), in.clusterBundle.refused != "" && !in.clusterBundle.awaited, name)
	}
	if err := r.countSecrets(ctx, ca.Name, hash, state, &seen); err != nil {
		return seen, err
	}
	if err := r.countGiven(ctx, ca.Name, state, &seen); err != nil {
		return seen, err
	}
	seen.Restarts = r.Restarts(ca.Name, state.TrustChangedAt)
	seen.Behind, seen.BehindNames = seen.targets.Behind, seen.targets.BehindNames
	return seen, nil
}

func (r *Reconciler) countSecrets(ctx context.Context, ca, hash string, state *rotation.State, seen *evidence) error {
	claimOf, err := r.Claims(ctx)
	if err != nil {
		return err
	}
	var secrets corev1.SecretList
	err = r.Cache.List(ctx, &secrets, client.UnsafeDisableDeepCopy, client.MatchingLabelsSelector{
		Selector: labels.SelectorFromSet(labels.Set{v1alpha1.LabelServiceCA: ca}),
	})
	now, live, known := r.Clock.Now(), 0, verified{at: r.Clock.Now(), roots: state.Bundle().Pool(), signers: map[string]bool{}}
	for i := range secrets.Items {
		secret := &secrets.Items[i]
		signer, notAfter, signed := issuance.Signed(secret)
		if !signed || !now.Before(notAfter) {
			continue
		}
		claim := claimOf(secret)
		if !claim.Wanted {
			continue
		}
		live++
		seen.count(secret, state, signer, claim, hash)
		seen.doubt(known.by(signer, secret), claim)
		if state.Active != nil && notAfter.After(latest(seen.Signed, state.SignedUntil(now))) && signedBy(state.Active, secret) {
			// By a clock that was ahead.
			seen.Signed = notAfter
		}
	}
	if r.ReissueRate > 0 {
		seen.reissueOver = time.Duration(float64(live) / r.ReissueRate * float64(time.Second))
	}
	return err
}

// verified are the signers of whom a certificate verified: once for each, for there are as many certificates as Services; but whoever may write a
// Secret may name a signer that is none.
type verified struct {
	at      time.Time
	roots   *x509.CertPool
	signers map[string]bool
}

// by tells whether a certificate that names this signer verifies.
func (v verified) by(signer string, secret *corev1.Secret) bool {
	if !v.signers[signer] {
		leaf, err := issuance.Leaf(secret)
		v.signers[signer] = err == nil && leaf.VerifiesBy(v.roots, v.at) == nil
	}
	return v.signers[signer]
}

// signedBy tells whether a signer signed the certificate in a digest, whomever that names.
func signedBy(signer *rotation.Signer, secret *corev1.Secret) bool {
	leaf, err := issuance.Leaf(secret)
	return err == nil && leaf.CheckSignatureFrom(signer.Certificate()) == nil
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// doubt counts a live certificate that does not verify.
func (e *evidence) doubt(verifies bool, claim servingcert.Claim) {
	if !verifies && !claim.InVain {
		e.strangers++
	}
}

// count counts a live certificate, and the bundle beside it.
func (e *evidence) count(secret *corev1.Secret, state *rotation.State, signer string, claim servingcert.Claim, hash string) {
	name := trust.Explained("Secret "+secret.Namespace+"/"+secret.Name, claim.Failure)
	e.certificates[signer]++
	if state.Active != nil && signer != pki.KeyID(state.Active.Certificate().SubjectKeyId) && !claim.InVain {
		e.Outstanding++
		e.OutstandingNames = trust.Some(e.OutstandingNames, name)
	}
	if claim.IncludesBundle {
		_, told := secret.Annotations[v1alpha1.AnnotationError]
		e.targets.Count(issuance.BundleHash(secret) == hash, claim.InVain || told, name)
	}
}
