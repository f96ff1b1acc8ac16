package restart

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// heldObject is what a container holds that started from a time on, and when that expires.
type heldObject struct{ from, expires time.Time }

// expires returns when what a container read before the change expires, which started at a time; zero where that is not known. A container that
// started a moment after something was written may have read that or what was there before: then what expires first counts.
func (c *change) expires(started time.Time) time.Time {
	var expires time.Time
	for i, one := range c.heldObjects {
		switch {
		case i == 0 || !started.Before(one.from.Add(clockSlack)):
			expires = one.expires
		case !started.Before(one.from):
			expires = earliest(expires, one.expires)
		}
	}
	return expires
}

// renewBefore returns how long before its notAfter a certificate of a policy is renewed at the latest.
func renewBefore(p *v1alpha1.ServingCertPolicy) time.Duration {
	if before := p.Spec.Certificate.RenewBefore; before != nil {
		return before.Std()
	}
	return p.Spec.Certificate.Duration.Std() / 3
}

// heldCertificates returns the certificates that a Secret had before the one of a time. Of those that it does not record, it is assumed that they
// were renewed when the policy says.
func heldCertificates(secret *corev1.Secret, at time.Time, renewBefore time.Duration) []heldObject {
	all := []heldObject{{}}
	for _, one := range issuance.ReplacedIn(secret) {
		all = append(all, heldObject{one.Written, one.NotAfter})
		at = earliest(at, one.Written)
	}
	all[0].expires = at.Add(renewBefore)
	return all
}

// heldBundles returns the bundles that were published before the last change of trust. One is good for as long as the newest CA in it is valid:
// until then, servers send a chain that leads to that. Not where the key of that CA was lost, for nobody could sign such a chain, and not where
// the key was compromised.
func heldBundles(ca *v1alpha1.ServiceCA, at time.Time) []heldObject {
	status := ca.Status
	all := []heldObject{{expires: at}}
	if isUrgent(ca) {
		return all
	}
	generations := slices.Clone(status.Previous)
	if status.Next != nil && status.Active != nil {
		generations = append(generations, *status.Active)
	}
	slices.SortFunc(generations, func(a, b v1alpha1.CAGeneration) int {
		return cmp.Or(a.NotBefore.Compare(b.NotBefore.Time), a.NotAfter.Compare(b.NotAfter.Time))
	})
	for _, one := range generations {
		all = append(all, heldObject{one.NotBefore.Time, one.NotAfter.Time})
	}
	return all
}

// rotates reports whether a ServiceCA, which may be nil, rotates for one of some reasons.
func rotates(ca *v1alpha1.ServiceCA, reasons ...v1alpha1.RotationReason) bool {
	return ca != nil && ca.Status.Rotation != nil && slices.Contains(reasons, ca.Status.Rotation.Reason)
}

// isUrgent reports whether a ServiceCA rotates because nobody should sign, or nobody can, with the key before.
func isUrgent(ca *v1alpha1.ServiceCA) bool {
	return rotates(ca, v1alpha1.RotationCompromise, v1alpha1.RotationSigningKeyLost)
}

// firstExpiry returns when the first of what the containers hold expires, of the changes that they do not know of, and the change that replaced
// it; zero and nil where that is not known.
func (s *podStarts) firstExpiry(unknown []change) (at time.Time, of *change) {
	for i := range unknown {
		if expires := unknown[i].expires(s.oldest[unknown[i].container]); !expires.IsZero() && (at.IsZero() || expires.Before(at)) {
			at, of = expires, &unknown[i]
		}
	}
	return at, of
}

// earliest returns the earlier of two times.
func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
