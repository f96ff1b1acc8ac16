package restart

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// heldObject is a version of an object: a container that started at from or later holds it, and it
// expires at expires.
type heldObject struct{ from, expires time.Time }

// expires returns when the version expires that a container holds from before the change; zero if
// that is not known. started is when the container started. A container that started within
// clockSlack after a version was written may have read that version or the one before: then the
// earlier expiry counts.
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

// renewBefore returns how long before its notAfter a certificate of a policy is renewed at the
// latest.
func renewBefore(p *v1alpha1.ServingCertPolicy) time.Duration {
	if before := p.Spec.Certificate.RenewBefore; before != nil {
		return before.Std()
	}
	return p.Spec.Certificate.Duration.Std() / 3
}

// heldCertificates returns the certificates that a Secret held before the one issued at the given
// time. Those that the Secret does not record are assumed to have been renewed when the policy
// requires it.
func heldCertificates(secret *corev1.Secret, at time.Time, renewBefore time.Duration) []heldObject {
	all := []heldObject{{}}
	for _, one := range issuance.ReplacedIn(secret) {
		all = append(all, heldObject{one.Written, one.NotAfter})
		at = earliest(at, one.Written)
	}
	all[0].expires = at.Add(renewBefore)
	return all
}

// heldBundles returns the bundles that were published before the last change of the bundle. A
// bundle can be used for as long as the newest CA in it is valid, because until then servers send a
// chain that leads to that CA, cross-signed by it if necessary. That is not so if the key of that
// CA was lost, because then the operator cannot cross-sign, or if the key was compromised: those
// bundles count as expired.
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

// rotates reports whether a ServiceCA, which may be nil, rotates for one of the reasons.
func rotates(ca *v1alpha1.ServiceCA, reasons ...v1alpha1.RotationReason) bool {
	return ca != nil && ca.Status.Rotation != nil && slices.Contains(reasons, ca.Status.Rotation.Reason)
}

// isUrgent reports whether a ServiceCA rotates because its previous key must not sign any more
// (compromised), or cannot (lost).
func isUrgent(ca *v1alpha1.ServiceCA) bool {
	return rotates(ca, v1alpha1.RotationCompromise, v1alpha1.RotationSigningKeyLost)
}

// firstExpiry returns when the first object that the containers hold from before the given changes
// expires, and the change that replaced it; zero and nil if that is not known.
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
