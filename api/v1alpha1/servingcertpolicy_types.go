package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ServingCertPolicy says which Services get a serving certificate, from which ServiceCA, and what it looks like.
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

	// spec is what is wanted.
	// +optional
	// +default={}
	Spec ServingCertPolicySpec `json:"spec,omitzero"`

	// status is what is there.
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

// Issuance says which of the selected Services get a certificate.
//
// +kubebuilder:validation:Enum=Annotated;All
type Issuance string

// The ways to issue.
const (
	// IssueAnnotated serves the selected Services that ask by an annotation.
	IssueAnnotated Issuance = "Annotated"
	// IssueAll serves every selected Service.
	IssueAll Issuance = "All"
)

// ServingCertPolicySpec is the wanted policy.
type ServingCertPolicySpec struct {
	// serviceCAName is the ServiceCA that signs.
	// +optional
	// +default="default"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	ServiceCAName string `json:"serviceCAName,omitempty"`

	// priority decides between policies that select the same Service: the highest rules it. A tie goes to the older policy,
	// then to the name, and is reported.
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

	// issuance Annotated serves the selected Services that ask by an annotation; All serves each of them, in a Secret called
	// `<service><secretNameSuffix>` where the Service names none.
	// +optional
	// +default="Annotated"
	Issuance Issuance `json:"issuance,omitempty"`

	// secretNameSuffix names the Secrets of issuance All.
	// +optional
	// +default="-tls"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[-.a-z0-9]*[a-z0-9]$')",message="secretNameSuffix has lower-case letters, digits, '-' and '.', and ends with a letter or digit, such as -tls"
	SecretNameSuffix string `json:"secretNameSuffix,omitempty"`

	// certificate describes the certificates.
	// +optional
	// +default={}
	Certificate ServingCertificate `json:"certificate,omitzero"`

	// restart says which workloads are restarted for a new certificate or bundle, and when.
	// +optional
	// +default={}
	Restart Restart `json:"restart,omitzero"`
}

// CertificateUsage is an extended key usage, as cert-manager names it.
//
// +kubebuilder:validation:Enum=server auth;client auth
type CertificateUsage string

// The usages of a serving certificate.
const (
	// UsageServerAuth lets a Service show the certificate to its clients.
	UsageServerAuth CertificateUsage = "server auth"
	// UsageClientAuth lets it show the same certificate to the servers that it calls.
	UsageClientAuth CertificateUsage = "client auth"
)

// CABundleMode says whether a serving certificate's Secret carries the trust bundle too.
//
// +kubebuilder:validation:Enum=Omit;Include
type CABundleMode string

// The bundle modes.
const (
	// CABundleOmit leaves the Secret with `tls.crt` and `tls.key`.
	CABundleOmit CABundleMode = "Omit"
	// CABundleInclude adds the trust bundle as `ca.crt`.
	CABundleInclude CABundleMode = "Include"
)

// ServingCertificate describes the certificates of a policy.
//
// +kubebuilder:validation:XValidation:rule="!has(self.renewBefore) || [self.renewBefore, self.duration].exists(d, !d.matches('^([0-9]{1,6}([.][0-9]{1,3})?(h|m|s|ms))+$')) || duration(self.renewBefore) < duration(self.duration)",message="renewBefore must be shorter than duration, or every certificate would be renewed for ever: leave it out for a third of the lifetime"
type ServingCertificate struct {
	// duration is the lifetime of a certificate: 2160h (90 days) by default, at least 1m. A certificate never outlives its CA.
	// +optional
	// +default="2160h"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}([.][0-9]{1,3})?(h|m|s|ms))+$') || duration(self) >= duration('1m')",message="duration must be at least 1m: 2160h (90 days) is a good choice"
	Duration Duration `json:"duration,omitempty"`

	// renewBefore is how long before its end a certificate is renewed: a third of its lifetime by default. Each certificate is
	// renewed a little earlier, by a share of its own, so that renewals never come as a wave.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!self.matches('^[0.hms]+$')",message="renewBefore must be longer than 0s: leave it out for a third of the lifetime"
	RenewBefore *Duration `json:"renewBefore,omitempty"`

	// privateKey of the certificates.
	// +optional
	// +default={}
	PrivateKey ServingPrivateKey `json:"privateKey,omitzero"`

	// usages are the extended key usages.
	// +optional
	// +default=["server auth"]
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:XValidation:rule="'server auth' in self",message="a serving certificate needs the usage 'server auth': add it, and 'client auth' beside it for mutual TLS"
	Usages []CertificateUsage `json:"usages,omitempty"`

	// clusterDomains are the cluster's DNS domains: the manager's --cluster-domain by default.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=120
	// +kubebuilder:validation:XValidation:rule="self.all(d, d.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$'))",message="a cluster domain is a plain domain such as cluster.local: lower-case, without '*' and without a leading or trailing dot"
	ClusterDomains []string `json:"clusterDomains,omitempty"`

	// extraDNSNames are further names in every certificate; $(service) and $(namespace) stand for the Service's, each alone
	// between dots. Keep both in a name, or Services of different namespaces come to the same one. A leading "*." is a wildcard.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.all(n, n.replace('$(service)', 'S').replace('$(namespace)', 'N').matches('^([*][.])?(S|N|[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)([.](S|N|[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?))*$'))",message="an extra DNS name is lower-case and may hold a leading '*.', and $(service) and $(namespace) between dots, such as $(service).$(namespace).example.org"
	ExtraDNSNames []string `json:"extraDNSNames,omitempty"`

	// caBundle Include adds the trust bundle to the Secret as `ca.crt`, as many charts expect; never for a Service that asks by
	// an OpenShift annotation.
	// +optional
	// +default="Omit"
	CABundle CABundleMode `json:"caBundle,omitempty"`
}

// ServingPrivateKey describes the private key of a serving certificate.
type ServingPrivateKey struct {
	PrivateKey `json:",inline"`

	// rotationPolicy Always makes a new key for every certificate. Never keeps it while it satisfies the policy and lies beside a
	// certificate of this ServiceCA, and replaces all keys after a rotation with triggerReason Compromise.
	// +optional
	// +default="Always"
	RotationPolicy RotationPolicy `json:"rotationPolicy,omitempty"`
}

// ServingCertPolicyStatus is the state of a policy.
type ServingCertPolicyStatus struct {
	// observedGeneration is the generation of the spec that this status answers; -1 before the first.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Ready, Reconciling, Stalled, AllServed, Conflicted, RestartHalted, RestartTooLate.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// services counts the Services that the policy rules.
	// +optional
	Services *ServiceCounts `json:"services,omitempty"`

	// failures say what stands in the way of a certificate: at most 10, by namespace and name.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=10
	Failures []ServiceFailure `json:"failures,omitempty"`

	// nextRenewalTime is when the next certificate is renewed, those of held Services aside.
	// +optional
	NextRenewalTime *metav1.Time `json:"nextRenewalTime,omitempty"`

	// earliestExpiry is the earliest notAfter of the policy's certificates.
	// +optional
	EarliestExpiry *metav1.Time `json:"earliestExpiry,omitempty"`

	// restarts counts the workloads that a new certificate or bundle concerns.
	// +optional
	Restarts *RestartCounts `json:"restarts,omitempty"`
}

// ServiceCounts counts Services.
type ServiceCounts struct {
	// matched Services want a certificate by this policy.
	// +required
	Matched int32 `json:"matched"`
	// issued Services have one.
	// +required
	Issued int32 `json:"issued"`
	// pending Services will have one without anybody's doing.
	// +required
	Pending int32 `json:"pending"`
	// failed Services need somebody's doing: see failures.
	// +required
	Failed int32 `json:"failed"`
	// held Services have one that is not renewed before somebody acts, and count as issued: see failures.
	// +optional
	Held int32 `json:"held,omitempty"`
}

// ServiceFailure says what stands in the way of a Service's certificate.
type ServiceFailure struct {
	// namespace of the Service.
	// +required
	Namespace string `json:"namespace,omitempty"`
	// service is its name.
	// +required
	Service string `json:"service,omitempty"`
	// reason in one word.
	// +required
	Reason string `json:"reason,omitempty"`
	// message for a person.
	// +optional
	Message string `json:"message,omitempty"`
}
