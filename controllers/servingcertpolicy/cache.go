package servingcertpolicy

import (
	"time"
	"weak"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/keyring"
)

// planCache remembers, from one count to the next, the Services of a policy whose certificate needs
// no change: evaluating them takes most of the time of a count. It is valid while the policy is
// unchanged and the keyring returns the same CA. The zero value remembers nothing.
type planCache struct {
	policy     types.UID
	generation int64
	// ca identifies the CA without keeping it in memory: it contains a private key, which only the
	// keyring may hold.
	ca        weak.Pointer[keyring.CA]
	countedAt time.Time
	plans     map[types.UID]cachedPlan
}

// cachedPlan is the certificate of a Service, with the resourceVersions of the Service and of its
// Secret for which the plan was made.
type cachedPlan struct {
	service, secretName, secret string
	notAfter, renewAt           time.Time
}

// newPlanCache returns a cache with space for about that many Services.
func newPlanCache(now time.Time, policy *v1alpha1.ServingCertPolicy, ca *keyring.CA, services int) planCache {
	return planCache{
		policy: policy.UID, generation: policy.Generation, ca: weak.Make(ca),
		// Round drops the monotonic clock reading: isValidAfter must notice when the wall clock is
		// set back.
		countedAt: now.Round(0),
		plans:     make(map[types.UID]cachedPlan, services),
	}
}

// isValidAfter reports whether the plans in previous still hold for a count with c. If the clock
// was set back, they do not.
func (c planCache) isValidAfter(previous planCache) bool {
	return c.policy == previous.policy && c.generation == previous.generation && c.ca == previous.ca && !c.countedAt.Before(previous.countedAt)
}

// secretOf returns the name of the Secret of a Service; ok is false if the Service is not cached or
// has changed.
func (c planCache) secretOf(service *corev1.Service) (name string, ok bool) {
	cached, ok := c.plans[service.UID]
	return cached.secretName, ok && cached.service == service.ResourceVersion
}

// lookUp returns the part of the cached plan for service that a count needs. It reports false if
// secret is not the version of the plan, or if the certificate is due for renewal or expired.
func (c planCache) lookUp(now time.Time, service *corev1.Service, secret *corev1.Secret) (issuance.Plan, bool) {
	cached := c.plans[service.UID]
	plan := issuance.Plan{
		Desired: issuance.Desired{SecretRef: issuance.SecretRef{Service: service, SecretName: cached.secretName}},
		Action:  issuance.Keep, NotAfter: cached.notAfter, RenewAt: cached.renewAt,
	}
	same := secret != nil && cached.secret == secret.ResourceVersion
	return plan, same && now.Before(cached.notAfter) && (cached.renewAt.IsZero() || now.Before(cached.renewAt))
}

// store caches a plan that keeps the certificate. Plans with a keystore are never cached: this
// controller does not read the password, so they never keep the certificate.
func (c planCache) store(plan issuance.Plan, secret *corev1.Secret) {
	if service := plan.Desired.Service; plan.Action == issuance.Keep && plan.Problem == nil && secret != nil {
		c.plans[service.UID] = cachedPlan{service.ResourceVersion, plan.Desired.SecretName, secret.ResourceVersion, plan.NotAfter, plan.RenewAt}
	}
}
