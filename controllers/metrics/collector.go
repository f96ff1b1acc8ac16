// Package metrics exports the statuses of ServiceCAs and policies to Prometheus, and counts signed
// certificates. No label is the name of an object that a tenant creates, so the number of series
// depends only on the number of ServiceCAs and policies.
package metrics

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servingcert/operator/api/v1alpha1"
)

// namespace is the prefix of every metric's name.
const namespace = "servingcert"

// The names of the labels.
const (
	labelCA         = "serviceca"
	labelPolicy     = "policy"
	labelController = "controller"
	labelReason     = "reason"
)

// The metrics for the status of a ServiceCA.
var (
	caNotAfter     = describe("serviceca_not_after_timestamp_seconds", "When the CA that signs expires.", labelCA)
	caNextRotation = describe("serviceca_next_rotation_timestamp_seconds", "When the threshold starts the next rotation.", labelCA)
	caPhase        = describe("serviceca_phase", "1 for the phase that the rotation is in, 0 for the others.", labelCA, "phase")
	caPhaseStart   = describe("serviceca_phase_start_timestamp_seconds", "When the phase began.", labelCA)
	caReason       = describe("serviceca_rotation_reason", "1 for the reason of the rotation that is under way, or was the last.", labelCA, labelReason)
	caBlockers     = describe("serviceca_rotation_blockers", "What the rotation waits for: the number of sentences in status.rotation.blockedBy.", labelCA)
	caCertificates = describe("serviceca_certificates", "Live serving certificates by the generation of the CA that signed them.", labelCA, "generation")
	caBundle       = describe("serviceca_bundle_certificates", "Certificates in the trust bundle.", labelCA)
	caTargets      = describe("serviceca_targets",
		"Objects that ask for the bundle: current ones carry it, blocked ones wait for their owners, behind ones for the operator.", labelCA, "state")
	caCondition = describe("serviceca_condition", "1 for a condition that is True, 0 for one that is not.", labelCA, "condition")
)

// The metrics for the status of a policy.
var (
	policyServices = describe("policy_services",
		"Services that want a certificate by this policy: issued ones have it, pending ones will, failed ones need somebody's doing.", labelPolicy, "state")
	policyHeld = describe("policy_held_services",
		"Services whose certificate is not renewed before somebody acts; they count as issued.", labelPolicy)
	policyExpiry    = describe("policy_earliest_expiry_timestamp_seconds", "When the first certificate of the policy expires.", labelPolicy)
	policyRenewal   = describe("policy_next_renewal_timestamp_seconds", "When the next certificate of the policy is renewed.", labelPolicy)
	policyRestarts  = describe("policy_restarts", "Workloads that hold an older certificate or bundle, by what becomes of their restart.", labelPolicy, "state")
	policyCondition = describe("policy_condition", "1 for a condition that is True, 0 for one that is not.", labelPolicy, "condition")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
}

// Collector exports the statuses from the manager's cache at the time of each scrape, so deleted
// objects disappear and nothing is stored twice.
type Collector struct {
	Cache    cache.Cache
	Registry prometheus.Registerer
}

// Start exports the statuses while this replica is the leader. Other replicas have no cache of
// them, and would export them a second time.
func (c *Collector) Start(ctx context.Context) error {
	for _, object := range []client.Object{&v1alpha1.ServiceCA{}, &v1alpha1.ServingCertPolicy{}} {
		if _, err := c.Cache.GetInformer(ctx, object); err != nil {
			return err
		}
	}
	if err := c.Registry.Register(statusCollector{c.Cache}); err != nil {
		return err
	}
	<-ctx.Done()
	c.Registry.Unregister(statusCollector{c.Cache})
	return nil
}

// statusCollector reads the statuses.
type statusCollector struct{ client.Reader }

// Describe sends the descriptions of the metrics that Collect sends.
func (c statusCollector) Describe(descriptions chan<- *prometheus.Desc) {
	for _, description := range []*prometheus.Desc{
		caNotAfter, caNextRotation, caPhase, caPhaseStart, caReason, caBlockers, caCertificates, caBundle, caTargets, caCondition,
		policyServices, policyHeld, policyExpiry, policyRenewal, policyRestarts, policyCondition,
	} {
		descriptions <- description
	}
}

// Collect sends the metrics for every status.
func (c statusCollector) Collect(metrics chan<- prometheus.Metric) {
	var cas v1alpha1.ServiceCAList
	if err := c.List(context.Background(), &cas, client.UnsafeDisableDeepCopy); err != nil {
		metrics <- prometheus.NewInvalidMetric(caCondition, err)
	}
	for i := range cas.Items {
		objectMetrics{metrics, cas.Items[i].Name}.serviceCA(cas.Items[i].Status)
	}
	var policies v1alpha1.ServingCertPolicyList
	if err := c.List(context.Background(), &policies, client.UnsafeDisableDeepCopy); err != nil {
		metrics <- prometheus.NewInvalidMetric(policyCondition, err)
	}
	for i := range policies.Items {
		objectMetrics{metrics, policies.Items[i].Name}.policy(policies.Items[i].Status)
	}
}

// objectMetrics sends the metrics for one object.
type objectMetrics struct {
	metrics chan<- prometheus.Metric
	name    string
}

func (m objectMetrics) gauge(description *prometheus.Desc, value float64, labels ...string) {
	m.metrics <- prometheus.MustNewConstMetric(description, prometheus.GaugeValue, value, append([]string{m.name}, labels...)...)
}

// time sends a timestamp, unless it is nil.
func (m objectMetrics) time(description *prometheus.Desc, at *metav1.Time) {
	if at != nil {
		m.gauge(description, float64(at.Unix()))
	}
}

func (m objectMetrics) conditions(description *prometheus.Desc, conditions []metav1.Condition) {
	for _, condition := range conditions {
		m.gauge(description, boolValue(condition.Status == metav1.ConditionTrue), condition.Type)
	}
}

func boolValue(ok bool) float64 {
	if ok {
		return 1
	}
	return 0
}

func (m objectMetrics) serviceCA(status v1alpha1.ServiceCAStatus) {
	m.conditions(caCondition, status.Conditions)
	m.time(caNextRotation, status.NextRotationTime)
	m.generations(status)
	if bundle := status.TrustBundle; bundle != nil {
		m.gauge(caBundle, float64(bundle.Certificates))
		m.gauge(caTargets, float64(bundle.CurrentTargets), "current")
		m.gauge(caTargets, float64(bundle.BlockedTargets), "blocked")
		m.gauge(caTargets, float64(bundle.Targets-bundle.CurrentTargets-bundle.BlockedTargets), "behind")
	}
	if rotation := status.Rotation; rotation != nil {
		for _, phase := range []v1alpha1.CAPhase{
			v1alpha1.PhaseStable, v1alpha1.PhasePublishing, v1alpha1.PhasePropagating, v1alpha1.PhaseReissuing, v1alpha1.PhaseRetiring,
		} {
			m.gauge(caPhase, boolValue(phase == rotation.Phase), string(phase))
		}
		m.time(caPhaseStart, rotation.LastTransitionTime)
		if rotation.Reason != "" {
			m.gauge(caReason, 1, string(rotation.Reason))
		}
		m.gauge(caBlockers, float64(len(rotation.BlockedBy)))
	}
}

// generations sends how many certificates each generation of the CA signed; all generations before
// the active one are added up, because there may be many.
func (m objectMetrics) generations(status v1alpha1.ServiceCAStatus) {
	if active := status.Active; active != nil {
		m.time(caNotAfter, &active.NotAfter)
		m.gauge(caCertificates, signedBy(*active), "active")
	}
	if next := status.Next; next != nil {
		m.gauge(caCertificates, signedBy(*next), "next")
	}
	if len(status.Previous) > 0 {
		total := 0.0
		for _, previous := range status.Previous {
			total += signedBy(previous)
		}
		m.gauge(caCertificates, total, "previous")
	}
}

func signedBy(generation v1alpha1.CAGeneration) float64 {
	if generation.Certificates == nil {
		return 0
	}
	return float64(*generation.Certificates)
}

func (m objectMetrics) policy(status v1alpha1.ServingCertPolicyStatus) {
	m.conditions(policyCondition, status.Conditions)
	m.time(policyExpiry, status.EarliestExpiry)
	m.time(policyRenewal, status.NextRenewalTime)
	if services := status.Services; services != nil {
		m.gauge(policyServices, float64(services.Issued), "issued")
		m.gauge(policyServices, float64(services.Pending), "pending")
		m.gauge(policyServices, float64(services.Failed), "failed")
		m.gauge(policyHeld, float64(services.Held))
	}
	if restarts := status.Restarts; restarts != nil {
		m.gauge(policyRestarts, float64(restarts.Pending-restarts.Rolling-restarts.Blocked), "pending")
		m.gauge(policyRestarts, float64(restarts.Rolling), "rolling")
		m.gauge(policyRestarts, float64(restarts.Blocked), "blocked")
		m.gauge(policyRestarts, float64(restarts.InProgress-restarts.Overdue), "in_progress")
		m.gauge(policyRestarts, float64(restarts.Overdue), "overdue")
		m.gauge(policyRestarts, float64(restarts.Failed), "failed")
		m.gauge(policyRestarts, float64(restarts.OptedOut), "opted_out")
	}
}
