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

// planCache is what a count has found out about the Services of a policy whose certificate stays: to read them is most of what a count takes. It holds
// while the policy asks for the same, and the keyring hands out the same CA. The zero value remembers nothing.
type planCache struct {
	policy     types.UID
	generation int64
	// ca is known and not held: it has a key, which nobody holds but the keyring.
	ca        weak.Pointer[keyring.CA]
	countedAt time.Time
	plans     map[types.UID]cachedPlan
}

// cachedPlan is the certificate of a Service, in the versions in which it and its Secret were seen.
type cachedPlan struct {
	service, secretName, secret string
	notAfter, renewAt           time.Time
}

// newPlanCache is for about so many Services.
func newPlanCache(now time.Time, policy *v1alpha1.ServingCertPolicy, ca *keyring.CA, services int) planCache {
	return planCache{
		policy: policy.UID, generation: policy.Generation, ca: weak.Make(ca),
		// By the clock on the wall, which may go back.
		countedAt: now.Round(0),
		plans:     make(map[types.UID]cachedPlan, services),
	}
}

// isValidAfter reports whether what was found out before is what would be found out now. Where the clock went back nobody knows.
func (c planCache) isValidAfter(previous planCache) bool {
	return c.policy == previous.policy && c.generation == previous.generation && c.ca == previous.ca && !c.countedAt.Before(previous.countedAt)
}

// secretOf is the Secret of a Service, if it is known and the Service is the same.
func (c planCache) secretOf(service *corev1.Service) (name string, ok bool) {
	cached, ok := c.plans[service.UID]
	return cached.secretName, ok && cached.service == service.ResourceVersion
}

// lookUp is what counts of the plan for a Service whose Secret is known, if that is the same, and nothing is to be done yet.
func (c planCache) lookUp(now time.Time, service *corev1.Service, secret *corev1.Secret) (issuance.Plan, bool) {
	cached := c.plans[service.UID]
	plan := issuance.Plan{
		Desired: issuance.Desired{SecretRef: issuance.SecretRef{Service: service, SecretName: cached.secretName}},
		Action:  issuance.Keep, NotAfter: cached.notAfter, RenewAt: cached.renewAt,
	}
	same := secret != nil && cached.secret == secret.ResourceVersion
	return plan, same && now.Before(cached.notAfter) && (cached.renewAt.IsZero() || now.Before(cached.renewAt))
}

// store remembers a plan by which the certificate stays; with a keystore it never does, for the password is not read here.
func (c planCache) store(plan issuance.Plan, secret *corev1.Secret) {
	if service := plan.Desired.Service; plan.Action == issuance.Keep && plan.Problem == nil && secret != nil {
		c.plans[service.UID] = cachedPlan{service.ResourceVersion, plan.Desired.SecretName, secret.ResourceVersion, plan.NotAfter, plan.RenewAt}
	}
}
