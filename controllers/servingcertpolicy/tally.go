// Package servingcertpolicy writes the status of each policy: whether all of its Services have a
// certificate, and until when.
package servingcertpolicy

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/conditions"
	"github.com/servingcert/operator/controllers/internal/issuance"
	"github.com/servingcert/operator/controllers/internal/policy"
	"github.com/servingcert/operator/controllers/internal/window"
	"github.com/servingcert/operator/controllers/restart"
)

// maxFailures is how many failures a status lists.
const maxFailures = 10

// tally counts the Services that one policy rules, by the state of their certificates.
type tally struct {
	counts         v1alpha1.ServiceCounts
	failures       []v1alpha1.ServiceFailure
	nextRenewal    time.Time
	earliestExpiry time.Time
	// conflicting holds the names of policies with the same priority that select some of the same
	// Services.
	conflicting map[string]bool
	// restarts is the report on restarts; nil until the restart controller has evaluated them.
	restarts *restart.Report
}

// add counts a Service that wants a certificate by the policy, according to its plan and to the
// problem that it reports.
func (t *tally) add(now time.Time, service *corev1.Service, plan issuance.Plan) {
	t.counts.Matched++
	problem := plan.Problem
	failing := problem != nil && problem.Reason == issuance.ReasonRequestFailed
	if reported := service.Annotations[v1alpha1.AnnotationError]; reported != "" && !failing {
		parsed := issuance.ParseProblem(reported)
		problem = &parsed
	}
	if problem != nil {
		t.failures = append(t.failures, v1alpha1.ServiceFailure{
			Namespace: service.Namespace, Service: service.Name, Reason: problem.Reason, Message: problem.Message,
		})
	}
	switch {
	case now.Before(plan.NotAfter):
		t.counts.Issued++
		t.earliestExpiry = earliest(t.earliestExpiry, plan.NotAfter)
		if blocksRenewal(problem) {
			t.counts.Held++
			return
		}
		t.nextRenewal = earliest(t.nextRenewal, plan.RenewAt)
	case problem != nil:
		t.counts.Failed++
	default:
		t.counts.Pending++
	}
}

// blocksRenewal reports whether a problem prevents the renewal of an existing certificate until a
// person acts. A Service whose Secret another Service also wants keeps being renewed, and a CA that
// is not ready is not a problem of the Service.
func blocksRenewal(problem *issuance.Problem) bool {
	return problem != nil && problem.Reason != issuance.ReasonSecretConflict && problem.Reason != issuance.ReasonServiceCANotReady
}

// earliest returns the earlier of two times; the zero time means none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// conflict records that other policies of the same priority select the same Service.
func (t *tally) conflict(others ...*v1alpha1.ServingCertPolicy) {
	if t.conflicting == nil {
		t.conflicting = map[string]bool{}
	}
	for _, other := range others {
		t.conflicting[other.Name] = true
	}
}

// status returns the complete status of a policy. ca is nil if its ServiceCA does not exist.
func (t *tally) status(now time.Time, p *v1alpha1.ServingCertPolicy, ca *v1alpha1.ServiceCA) v1alpha1.ServingCertPolicyStatus {
	slices.SortFunc(t.failures, func(a, b v1alpha1.ServiceFailure) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Service, b.Service))
	})
	built := conditions.New(p.Status.Conditions, p.Generation, now)
	reportReady(built, p, ca)
	t.reportServed(built)
	t.reportConflicts(built)
	restarts := t.reportRestarts(built, p.Status)
	return v1alpha1.ServingCertPolicyStatus{
		ObservedGeneration: p.Generation,
		Conditions:         built.List(),
		Services:           &t.counts,
		Failures:           t.failures[:min(len(t.failures), maxFailures)],
		NextRenewalTime:    timeOrNil(t.nextRenewal),
		EarliestExpiry:     timeOrNil(t.earliestExpiry),
		Restarts:           restarts,
	}
}

// reportRestarts sets the conditions of restarts and returns their counts. Until the restart
// controller has evaluated them, it repeats those of the previous status.
func (t *tally) reportRestarts(built *conditions.Builder, before v1alpha1.ServingCertPolicyStatus) *v1alpha1.RestartCounts {
	if t.restarts == nil {
		for _, kind := range []string{v1alpha1.ConditionRestartHalted, v1alpha1.ConditionRestartTooLate} {
			if previous := meta.FindStatusCondition(before.Conditions, kind); previous != nil {
				built.Set(kind, previous.Status == metav1.ConditionTrue, previous.Reason, previous.Message)
			}
		}
		return before.Restarts
	}
	built.Set(v1alpha1.ConditionRestartHalted, t.restarts.Halted, t.restarts.Reason, t.restarts.Message)
	built.Set(v1alpha1.ConditionRestartTooLate, t.restarts.Late.Is, t.restarts.Late.Reason, t.restarts.Late.Message)
	if t.restarts.Counts == nil {
		return nil
	}
	counts := *t.restarts.Counts
	if previous := before.Restarts; previous != nil && previous.LastCompletedAt != nil && (counts.LastCompletedAt == nil || counts.LastCompletedAt.Before(previous.LastCompletedAt)) {
		counts.LastCompletedAt = previous.LastCompletedAt
	}
	return &counts
}

func timeOrNil(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &metav1.Time{Time: t.Truncate(time.Second)}
}

// reportReady sets Ready to whether the policy can issue certificates. A mistake in the policy
// itself is reported as Stalled. A ServiceCA that is not ready is reported as Reconciling: the
// ServiceCA reports the cause, which may pass without a change of the policy.
func reportReady(built *conditions.Builder, p *v1alpha1.ServingCertPolicy, ca *v1alpha1.ServiceCA) {
	notReady := func(conditionType, reason, message string) {
		built.Set(v1alpha1.ConditionReady, false, reason, message)
		built.Set(conditionType, true, reason, message)
	}
	if err := policy.CheckSelectors(p); err != nil {
		notReady(v1alpha1.ConditionStalled, "InvalidSelector", err.Error())
		return
	}
	if _, err := window.Parse(p.Spec.Restart.Windows); err != nil {
		notReady(v1alpha1.ConditionStalled, "InvalidWindow", err.Error())
		return
	}
	name := p.Spec.ServiceCAName
	switch ready := readyOf(ca); {
	case ca == nil:
		notReady(v1alpha1.ConditionReconciling, "ServiceCANotFound", fmt.Sprintf("there is no ServiceCA %s: create it, or name another", name))
	case ready == nil:
		notReady(v1alpha1.ConditionReconciling, issuance.ReasonServiceCANotReady, fmt.Sprintf("ServiceCA %s has no signing key yet", name))
	case ready.Status != metav1.ConditionTrue:
		notReady(v1alpha1.ConditionReconciling, issuance.ReasonServiceCANotReady, fmt.Sprintf("ServiceCA %s: %s", name, ready.Message))
	default:
		built.Set(v1alpha1.ConditionReady, true, "Ready", fmt.Sprintf("ServiceCA %s signs for this policy", name))
	}
}

func readyOf(ca *v1alpha1.ServiceCA) *metav1.Condition {
	if ca == nil {
		return nil
	}
	i := slices.IndexFunc(ca.Status.Conditions, func(c metav1.Condition) bool { return c.Type == v1alpha1.ConditionReady })
	if i < 0 {
		return nil
	}
	return &ca.Status.Conditions[i]
}

func (t *tally) reportServed(built *conditions.Builder) {
	counts := t.counts
	switch {
	case len(t.failures) > 0:
		first := t.failures[0]
		built.Set(v1alpha1.ConditionAllServed, false, "Failures", fmt.Sprintf("%d of %d Services are served; %s/%s: %s",
			counts.Issued, counts.Matched, first.Namespace, first.Service, first.Message))
	case counts.Pending > 0:
		built.Set(v1alpha1.ConditionAllServed, false, "Pending", fmt.Sprintf("%d of %d Services are served, and %d will be soon",
			counts.Issued, counts.Matched, counts.Pending))
	case counts.Matched == 0:
		built.Set(v1alpha1.ConditionAllServed, true, "NoServices", "no Service wants a certificate by this policy")
	default:
		built.Set(v1alpha1.ConditionAllServed, true, "AllServed", fmt.Sprintf("all %d Services are served; the first certificate ends %s",
			counts.Matched, t.earliestExpiry.UTC().Format(time.RFC3339)))
	}
}

func (t *tally) reportConflicts(built *conditions.Builder) {
	if len(t.conflicting) == 0 {
		built.Set(v1alpha1.ConditionConflicted, false, "NoConflict", "no other policy of this priority selects the same Services")
		return
	}
	names := make([]string, 0, len(t.conflicting))
	for name := range t.conflicting {
		names = append(names, name)
	}
	slices.Sort(names)
	built.Set(v1alpha1.ConditionConflicted, true, "SamePriority", fmt.Sprintf(
		"policy %s has the same priority and selects some of the same Services; the older policy rules them: give one a higher priority", names[0]))
}
