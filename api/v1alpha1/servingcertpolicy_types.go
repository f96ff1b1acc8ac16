package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ServingCertPolicy defines which Services get a serving certificate, which ServiceCA issues it,
// and its properties.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=scp,categories=serving-certs
// +kubebuilder:printcolumn:name="CA",type=string,JSONPath=`.spec.serviceCAName`
// +kubebuilder:printcolumn:name="Services",type=integer,JSONPath=`.status.services.matched`
// +kubebuilder:printcolumn:name="Issued",type=integer,JSONPath=`.status.services.issued`
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.services.failed`
// +kubebuilder:printcolumn:name="Next-Renewal",type=string,JSONPath=`.status.nextRenewalTime`
// +kubebuilder:printcolumn:name="Restart",type=string,JSONPath=`.spec.restart.strategy`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="AllServed")].message`
type ServingCertPolicy struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec defines the desired state of the ServingCertPolicy.
	// +optional
	// +default={}
	Spec ServingCertPolicySpec `json:"spec,omitzero"`

	// status reports the observed state of the ServingCertPolicy.
	// +optional
	// +default={"observedGeneration": -1}
	Status ServingCertPolicyStatus `json:"status,omitzero"`
}

// ServingCertPolicyList is a list of ServingCertPolicies.
//
// +kubebuilder:object:root=true
type ServingCertPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ServingCertPolicy `json:"items"`
}

// Issuance is which of the selected Services get a certificate.
//
// +kubebuilder:validation:Enum=Annotated;All
type Issuance string

// The ways to issue.
const (
	// IssueAnnotated issues to the selected Services that request a certificate by an annotation.
	IssueAnnotated Issuance = "Annotated"
	// IssueAll issues to every selected Service.
	IssueAll Issuance = "All"
)

// ServingCertPolicySpec defines the desired state of a ServingCertPolicy.
type ServingCertPolicySpec struct {
	// serviceCAName is the name of the ServiceCA that issues the certificates.
	// +optional
	// +default="default"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	ServiceCAName string `json:"serviceCAName,omitempty"`

	// priority decides between policies that select the same Service: the policy with the highest
	// priority applies. If priorities are equal, the older policy applies, then the one whose name
	// sorts first, and the tie is reported.
	// +optional
	// +default=0
	Priority int32 `json:"priority,omitempty"`

	// namespaceSelector selects namespaces by label; empty selects all.
	// +optional
	// +default={}
	// +kubebuilder:validation:XValidation:rule="!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator in ['In', 'NotIn', 'Exists', 'DoesNotExist'])",message="the operator of a matchExpression is In, NotIn, Exists or DoesNotExist"
	// +kubebuilder:validation:XValidation:rule="!has(self.matchExpressions) || self.matchExpressions.all(e, (e.operator in ['In', 'NotIn']) == (has(e.values) && e.values.size() > 0))",message="a matchExpression has values with the operators In and NotIn, and none with Exists and DoesNotExist"
	NamespaceSelector metav1.LabelSelector `json:"namespaceSelector,omitzero"`

	// serviceSelector selects Services by label; empty selects all.
	// +optional
	// +default={}
	// +kubebuilder:validation:XValidation:rule="!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator in ['In', 'NotIn', 'Exists', 'DoesNotExist'])",message="the operator of a matchExpression is In, NotIn, Exists or DoesNotExist"
	// +kubebuilder:validation:XValidation:rule="!has(self.matchExpressions) || self.matchExpressions.all(e, (e.operator in ['In', 'NotIn']) == (has(e.values) && e.values.size() > 0))",message="a matchExpression has values with the operators In and NotIn, and none with Exists and DoesNotExist"
	ServiceSelector metav1.LabelSelector `json:"serviceSelector,omitzero"`

	// issuance selects which of the selected Services get a certificate. Annotated issues to those
	// that request one by an annotation. All issues to every Service, into a Secret named
	// `<service><secretNameSuffix>` unless the Service names another one.
	// +optional
	// +default="Annotated"
	Issuance Issuance `json:"issuance,omitempty"`

	// secretNameSuffix is the suffix of the Secret names for issuance All.
	// +optional
	// +default="-tls"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[-.a-z0-9]*[a-z0-9]$')",message="secretNameSuffix has lower-case letters, digits, '-' and '.', and ends with a letter or digit, such as -tls"
	SecretNameSuffix string `json:"secretNameSuffix,omitempty"`

	// certificate defines the properties of the certificates.
	// +optional
	// +default={}
	Certificate ServingCertificate `json:"certificate,omitzero"`

	// restart defines which workloads are restarted after a certificate or bundle changes, and
	// when.
	// +optional
	// +default={}
	Restart Restart `json:"restart,omitzero"`
}

// CertificateUsage is an extended key usage, under the name that cert-manager uses.
//
// +kubebuilder:validation:Enum=server auth;client auth
type CertificateUsage string

// The usages of a serving certificate.
const (
	// UsageServerAuth lets a Service authenticate to its clients with the certificate.
	UsageServerAuth CertificateUsage = "server auth"
	// UsageClientAuth lets it authenticate with the same certificate to the servers that it calls.
	UsageClientAuth CertificateUsage = "client auth"
)

// CABundleMode is whether the Secret of a serving certificate also contains the trust bundle.
//
// +kubebuilder:validation:Enum=Omit;Include
type CABundleMode string

// The bundle modes.
const (
	// CABundleOmit writes only `tls.crt` and `tls.key` to the Secret.
	CABundleOmit CABundleMode = "Omit"
	// CABundleInclude adds the trust bundle as `ca.crt`.
	CABundleInclude CABundleMode = "Include"
)

// ServingCertificate defines the properties of a policy's certificates.
//
// +kubebuilder:validation:XValidation:rule="!has(self.renewBefore) || [self.renewBefore, self.duration].exists(d, !d.matches('^([0-9]{1,6}([.][0-9]{1,3})?(h|m|s|ms))+$')) || duration(self.renewBefore) < duration(self.duration)",message="renewBefore must be shorter than duration, or every certificate would be renewed for ever: leave it out for a third of the lifetime"
type ServingCertificate struct {
	// duration is the lifetime of a certificate: 2160h (90 days) by default, at least 1m. A
	// certificate never outlives its CA.
	// +optional
	// +default="2160h"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}([.][0-9]{1,3})?(h|m|s|ms))+$') || duration(self) >= duration('1m')",message="duration must be at least 1m: 2160h (90 days) is a good choice"
	Duration Duration `json:"duration,omitempty"`

	// renewBefore is how long before its notAfter a certificate is renewed: a third of its lifetime
	// by default. Each certificate is renewed a little earlier, by a fraction of its own, so that
	// renewals are spread over time.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self.matches('^[0.hms]+$')",message="renewBefore must be longer than 0s: leave it out for a third of the lifetime"
	RenewBefore *Duration `json:"renewBefore,omitempty"`

	// privateKey defines the private keys of the certificates.
	// +optional
	// +default={}
	PrivateKey ServingPrivateKey `json:"privateKey,omitzero"`

	// usages are the extended key usages of the certificates.
	// +optional
	// +default=["server auth"]
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:XValidation:rule="'server auth' in self",message="a serving certificate needs the usage 'server auth': add it, and 'client auth' beside it for mutual TLS"
	Usages []CertificateUsage `json:"usages,omitempty"`

	// clusterDomains are the DNS domains of the cluster: the value of the manager's flag
	// --cluster-domain by default.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=120
	// +kubebuilder:validation:XValidation:rule="self.all(d, d.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$'))",message="a cluster domain is a plain domain such as cluster.local: lower-case, without '*' and without a leading or trailing dot"
	ClusterDomains []string `json:"clusterDomains,omitempty"`

	// extraDNSNames are additional DNS names in every certificate. $(service) and $(namespace)
	// stand for the name and the namespace of the Service; each must be a whole label, that is,
	// alone between dots. Use both in a name, or Services of different namespaces get the same
	// name. A leading "*." is a wildcard.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.all(n, n.replace('$(service)', 'S').replace('$(namespace)', 'N').matches('^([*][.])?(S|N|[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)([.](S|N|[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?))*$'))",message="an extra DNS name is lower-case and may hold a leading '*.', and $(service) and $(namespace) between dots, such as $(service).$(namespace).example.org"
	ExtraDNSNames []string `json:"extraDNSNames,omitempty"`

	// caBundle is whether the Secret also contains the trust bundle. Include adds it as `ca.crt`,
	// as many Helm charts expect, but never for a Service that requests its certificate by an
	// OpenShift annotation.
	// +optional
	// +default="Omit"
	CABundle CABundleMode `json:"caBundle,omitempty"`
}

// ServingPrivateKey defines the private key of a serving certificate.
type ServingPrivateKey struct {
	PrivateKey `json:",inline"`

	// rotationPolicy is whether a renewal generates a new private key. Always generates one for
	// every certificate. Never keeps the key while it matches the policy and its Secret has a
	// certificate of this ServiceCA; all keys are replaced after a rotation with triggerReason
	// Compromise.
	// +optional
	// +default="Always"
	RotationPolicy RotationPolicy `json:"rotationPolicy,omitempty"`
}

// ServingCertPolicyStatus defines the observed state of a ServingCertPolicy.
type ServingCertPolicyStatus struct {
	// observedGeneration is the generation of the spec that this status reports on; -1 before the
	// first report.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Ready, Reconciling, Stalled, AllServed, Conflicted, RestartHalted and
	// RestartTooLate.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// services counts the Services to which the policy applies.
	// +optional
	Services *ServiceCounts `json:"services,omitempty"`

	// failures lists at most 10 Services that have a problem with their certificate, by namespace
	// and name.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=10
	Failures []ServiceFailure `json:"failures,omitempty"`

	// nextRenewalTime is when the next certificate is renewed; certificates of held Services are
	// not included.
	// +optional
	NextRenewalTime *metav1.Time `json:"nextRenewalTime,omitempty"`

	// earliestExpiry is the earliest notAfter of the policy's certificates.
	// +optional
	EarliestExpiry *metav1.Time `json:"earliestExpiry,omitempty"`

	// restarts counts the workloads that a new certificate or bundle affects.
	// +optional
	Restarts *RestartCounts `json:"restarts,omitempty"`
}

// ServiceCounts counts the Services of a policy.
type ServiceCounts struct {
	// matched is the number of Services that should have a certificate by this policy.
	// +required
	Matched int32 `json:"matched"`
	// issued is the number of Services that have a certificate.
	// +required
	Issued int32 `json:"issued"`
	// pending is the number of Services that will get a certificate without any action.
	// +required
	Pending int32 `json:"pending"`
	// failed is the number of Services that need action: see failures.
	// +required
	Failed int32 `json:"failed"`
	// held is the number of Services whose certificate is not renewed without action; they also
	// count as issued: see failures.
	// +optional
	Held int32 `json:"held,omitempty"`
}

// ServiceFailure is the problem of a Service with its certificate.
type ServiceFailure struct {
	// namespace is the namespace of the Service.
	// +required
	Namespace string `json:"namespace,omitempty"`
	// service is the name of the Service.
	// +required
	Service string `json:"service,omitempty"`
	// reason is the reason in one CamelCase word.
	// +required
	Reason string `json:"reason,omitempty"`
	// message is a human-readable explanation.
	// +optional
	Message string `json:"message,omitempty"`
}
