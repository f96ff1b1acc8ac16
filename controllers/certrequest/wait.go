package certrequest

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/issuance"
)

// serviceGracePeriod is how long a request still waits for a Service that has its names, once the
// request could be answered: objects that are applied together arrive in any order.
const serviceGracePeriod = time.Minute

// reasonCompromised means that a renewal waits for the next CA, because the key of the current one
// is compromised.
const reasonCompromised = "ServiceCACompromised"

// readiness describes since when a ServiceCA can answer requests.
type readiness struct {
	since time.Time
	// missing is the missing prerequisite; nil if there is none.
	missing *issuance.Problem
	// patterns are the extraDNSNames of the CA's policies.
	patterns []string
}

// readiness returns since when a ServiceCA can answer requests. It uses only what the API server
// stores, so the result is the same after a restart of the operator.
func (s Signer) readiness(ctx context.Context, name string) (readiness, error) {
	missing := func(reason, format string, arguments ...any) (readiness, error) {
		return readiness{missing: issuance.NewProblem(reason, format, arguments...)}, nil
	}
	var ca v1alpha1.ServiceCA
	err := s.View.Get(ctx, client.ObjectKey{Name: name}, &ca, client.UnsafeDisableDeepCopy)
	if apierrors.IsNotFound(err) {
		return missing(issuance.ReasonServiceCANotReady, "there is no ServiceCA %s: create it", name)
	}
	if err != nil {
		return readiness{}, err
	}
	ready := meta.FindStatusCondition(ca.Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case ready == nil:
		return missing(issuance.ReasonServiceCANotReady, "ServiceCA %s is not ready yet", name)
	case ready.Status != metav1.ConditionTrue:
		return missing(issuance.ReasonServiceCANotReady, "ServiceCA %s is not ready: %s", name, ready.Message)
	}
	var policies v1alpha1.ServingCertPolicyList
	if err := s.View.List(ctx, &policies, client.UnsafeDisableDeepCopy); err != nil {
		return readiness{}, err
	}
	ok, state := false, readiness{since: ready.LastTransitionTime.Time}
	for i := range policies.Items {
		policy := &policies.Items[i]
		if policy.Spec.ServiceCAName != name {
			continue
		}
		ok = true
		state.since = latest(state.since, policy.CreationTimestamp.Time)
		state.patterns = append(state.patterns, policy.Spec.Certificate.ExtraDNSNames...)
	}
	if !ok {
		return missing(issuance.ReasonNoPolicy, "no ServingCertPolicy names ServiceCA %s in its spec.serviceCAName: create one", name)
	}
	return state, nil
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// MissingPrerequisite returns a refusal that names what is missing before the ServiceCA can answer
// requests; nil if nothing is.
func (s Signer) MissingPrerequisite(ctx context.Context, ca string) (*Refusal, error) {
	state, err := s.readiness(ctx, ca)
	if err != nil || state.missing == nil {
		return nil, err
	}
	return pendingRefusal(state.missing), nil
}

// NotGranted returns the refusal of a request for names that no policy grants. It is final unless a
// Service that could have the names may still be created, within serviceGracePeriod of requestedAt
// or of the time since when the CA can answer.
func (s Signer) NotGranted(
	ctx context.Context, problem *issuance.Problem, ca string, requestedAt time.Time, namespace string, names []string,
) (*Refusal, error) {
	state, err := s.readiness(ctx, ca)
	switch {
	case err != nil:
		return nil, err
	case state.missing != nil:
		return pendingRefusal(state.missing), nil
	}
	withinGracePeriod := problem.Reason == issuance.ReasonNameNotOffered && s.Clock.Since(latest(requestedAt, state.since)) < serviceGracePeriod
	return &Refusal{Problem: problem, Final: !withinGracePeriod || !issuance.CouldExist(namespace, names, state.patterns)}, nil
}

// awaitNextCA returns the refusal of a renewal if the CA's key is compromised and the holder still
// has a valid certificate; nil otherwise.
func (r *Reconciler[T]) awaitNextCA(ctx context.Context, name string, request T) (*Refusal, error) {
	ca, _, err := r.Signer.Keyring.Find(ctx, r.Signer.View, name)
	if err != nil || ca == nil || !ca.Compromised {
		return nil, err
	}
	until, err := r.Kind.DeferUntil(ctx, request)
	if err != nil || !r.Signer.Clock.Now().Before(until) {
		return nil, err
	}
	problem := issuance.NewProblem(reasonCompromised, "the key of ServiceCA %s was stolen, and the certificate that this one renews "+
		"is sound: the next CA signs it, or this one at %s if there is none by then", name, until.UTC().Format(time.RFC3339))
	return &Refusal{Problem: problem, until: until}, nil
}

// boundedBy limits how long a request waits: it returns the refusal with the deadline in its
// message, and makes it final after requestedAt plus maxWait. maxWait is zero if Kubernetes itself
// removes a waiting request; the refusal is then returned as it is.
func (r *Refusal) boundedBy(now, requestedAt time.Time, maxWait time.Duration) *Refusal {
	if r.Final || maxWait == 0 || !r.until.IsZero() {
		return r
	}
	until, suffix := requestedAt.Add(maxWait), "; the request waits for this until %s"
	final := !now.Before(until)
	if final {
		suffix = "; the request has waited for this until %s"
	}
	message := r.Message + fmt.Sprintf(suffix, until.UTC().Format(time.RFC3339))
	return &Refusal{Problem: &issuance.Problem{Reason: r.Reason, Message: message}, Final: final}
}
