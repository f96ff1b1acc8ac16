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

// memory is what a count has found out about the Services of a policy whose certificate stays: to read them is most of what a count takes. It holds
// while the policy asks for the same, and the keyring hands out the same CA. The zero value remembers nothing.
type memory struct {
	policy     types.UID
	generation int64
	// ca is known and not held: it has a key, which nobody holds but the keyring.
	ca   weak.Pointer[keyring.CA]
	asOf time.Time
	kept map[types.UID]kept
}

// kept is the certificate of a Service, in the versions in which it and its Secret were seen.
type kept struct {
	service, secretName, secret string
	notAfter, renewAt           time.Time
}

// newMemory is for about so many Services.
func newMemory(now time.Time, policy *v1alpha1.ServingCertPolicy, ca *keyring.CA, services int) memory {
	return memory{
		policy: policy.UID, generation: policy.Generation, ca: weak.Make(ca),
		// By the clock on the wall, which may go back.
		asOf: now.Round(0),
		kept: make(map[types.UID]kept, services),
	}
}

// holds tells whether what was found out before is what would be found out now. Where the clock went back nobody knows.
func (m memory) holds(before memory) bool {
	return m.policy == before.policy && m.generation == before.generation && m.ca == before.ca && !m.asOf.Before(before.asOf)
}

// secretOf is the Secret of a Service, if it is known and the Service is the same.
func (m memory) secretOf(service *corev1.Service) (name string, known bool) {
	found, known := m.kept[service.UID]
	return found.secretName, known && found.service == service.ResourceVersion
}

// recall is what counts of the plan for a Service whose Secret is known, if that is the same, and nothing is to be done yet.
func (m memory) recall(now time.Time, service *corev1.Service, secret *corev1.Secret) (issuance.Plan, bool) {
	known := m.kept[service.UID]
	plan := issuance.Plan{
		Want:   issuance.Want{Target: issuance.Target{Service: service, SecretName: known.secretName}},
		Action: issuance.Keep, NotAfter: known.notAfter, RenewAt: known.renewAt,
	}
	same := secret != nil && known.secret == secret.ResourceVersion
	return plan, same && now.Before(known.notAfter) && (known.renewAt.IsZero() || now.Before(known.renewAt))
}

// note remembers a plan by which the certificate stays; with a keystore it never does, for the password is not read here.
func (m memory) note(plan issuance.Plan, secret *corev1.Secret) {
	if service := plan.Want.Service; plan.Action == issuance.Keep && plan.Obstacle == nil && secret != nil {
		m.kept[service.UID] = kept{service.ResourceVersion, plan.Want.SecretName, secret.ResourceVersion, plan.NotAfter, plan.RenewAt}
	}
}
