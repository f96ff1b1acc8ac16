package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ServiceCA is a certificate authority for the Services of a cluster. It consists of a signing key,
// kept in one Secret in the operator's namespace, and a trust bundle with which clients verify
// certificates.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=sca,categories=serving-certs
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",message="a ServiceCA's name has at most 63 characters, because it labels what the CA makes: choose a shorter one"
// +kubebuilder:validation:XValidation:rule="oldSelf.hasValue() || !has(self.spec) || !has(self.spec.source) || !has(self.spec.source.secret) || (has(self.spec.signingKey) && has(self.spec.signingKey.secretName)) || self.spec.source.secret.name != self.metadata.name + '-signing-key'",message="spec.source.secret must name another Secret than that of spec.signingKey (<name>-signing-key by default): the operator only reads the one, and keeps and rotates the CA in the other",optionalOldSelf=true
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.rotation.phase`
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.status.active.notAfter`
// +kubebuilder:printcolumn:name="Rotates",type=string,JSONPath=`.status.nextRotationTime`
// +kubebuilder:printcolumn:name="Certificates",type=integer,JSONPath=`.status.active.certificates`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type ServiceCA struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec defines the desired state of the ServiceCA.
	// +optional
	// +default={}
	Spec ServiceCASpec `json:"spec,omitzero"`

	// status reports the observed state of the ServiceCA.
	// +optional
	// +default={"observedGeneration": -1}
	Status ServiceCAStatus `json:"status,omitzero"`
}

// ServiceCAList is a list of ServiceCAs.
//
// +kubebuilder:object:root=true
type ServiceCAList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ServiceCA `json:"items"`
}

// The rules of ServiceCASpec check whether rotation and certificate are set, although both have
// defaults: the API server also evaluates the rules on the bare default of spec.

// ServiceCASpec defines the desired state of a ServiceCA.
//
// +kubebuilder:validation:XValidation:rule="!has(self.rotation) || !has(self.certificate) || [self.rotation.rotateBefore, self.certificate.duration].exists(d, !d.matches('^([0-9]{1,6}([.][0-9]{1,3})?(h|m|s|ms))+$')) || duration(self.rotation.rotateBefore) < duration(self.certificate.duration)",message="rotation.rotateBefore must be shorter than certificate.duration, or the CA would rotate for ever: about half of it is a good choice"
// +kubebuilder:validation:XValidation:rule="!has(self.rotation) || [self.rotation.propagation.minimum, self.rotation.rotateBefore].exists(d, !d.matches('^([0-9]{1,6}([.][0-9]{1,3})?(h|m|s|ms))+$')) || duration(self.rotation.propagation.minimum) < duration(self.rotation.rotateBefore)",message="rotation.propagation.minimum must be shorter than rotation.rotateBefore, or the CA would expire before its successor signs: 10m is a good choice"
// +kubebuilder:validation:XValidation:rule="!has(self.source) || !has(self.source.secret) || !has(self.signingKey) || !has(self.signingKey.secretName) || self.source.secret.name != self.signingKey.secretName",message="source.secret must name another Secret than that of signingKey (<name>-signing-key by default): the operator only reads the one, and keeps and rotates the CA in the other"
type ServiceCASpec struct {
	// source is where the CA's certificate and key come from: at most one of its fields can be set,
	// and selfSigned applies if none is. A change of the source starts a rotation to the CA of the
	// new source, and so does another CA in the Secret of source.secret.
	// +optional
	// +default={}
	Source CASource `json:"source,omitzero"`

	// certificate defines the next CA that is generated. A change of privateKey,
	// permittedDNSDomains or permittedUsages starts a rotation; a change of commonName or duration
	// takes effect at the next rotation. With source.secret this field has no effect: only the
	// content of the Secret counts.
	// +optional
	// +default={}
	Certificate CACertificate `json:"certificate,omitzero"`

	// rotation defines when and how a new generation of the CA replaces the current one.
	// +optional
	// +default={}
	Rotation CARotation `json:"rotation,omitzero"`

	// signingKey names the Secret that holds the CA.
	// +optional
	// +default={}
	SigningKey SigningKeyReference `json:"signingKey,omitzero"`

	// trustBundle names the ConfigMap that publishes the trust bundle, and further ConfigMaps with
	// a copy of it.
	// +optional
	// +default={}
	TrustBundle TrustBundleReference `json:"trustBundle,omitzero"`
}

// CASource is the source of a CA.
//
// +kubebuilder:validation:XValidation:rule="[has(self.selfSigned), has(self.secret), has(self.certManager)].filter(x, x).size() <= 1",message="a CA has one source: keep one of selfSigned, secret and certManager"
type CASource struct {
	// selfSigned makes the operator generate its own root CA: the default.
	// +optional
	SelfSigned *SelfSignedSource `json:"selfSigned,omitempty"`

	// secret uses a CA that you provide in a Secret.
	// +optional
	Secret *SecretSource `json:"secret,omitempty"`

	// certManager obtains an intermediate CA from a cert-manager issuer, and a new one for each
	// rotation.
	// +optional
	CertManager *CertManagerSource `json:"certManager,omitempty"`
}

// SelfSignedSource has no options.
type SelfSignedSource struct{}

// SecretSource names a Secret of type kubernetes.io/tls in the operator's namespace. `tls.crt`
// holds the CA's certificate, followed by its intermediates; `tls.key` holds its private key; and
// `ca.crt` holds the root, unless the CA itself is the root.
type SecretSource struct {
	// name is the name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="!format.dns1123Subdomain().validate(self).hasValue()",message="a Secret's name has lower-case letters, digits, '-' and '.' only, and starts and ends with a letter or digit, such as corp-ca"
	Name string `json:"name,omitempty"`
}

// CertManagerSource names a cert-manager issuer.
type CertManagerSource struct {
	// issuerRef refers to the issuer that signs the intermediate CA.
	// +required
	IssuerRef IssuerReference `json:"issuerRef,omitzero"`
}

// IssuerReference refers to an issuer as cert-manager does.
type IssuerReference struct {
	// name is the name of the issuer.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// kind is the kind of the issuer.
	// +optional
	// +default="ClusterIssuer"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind,omitempty"`

	// group is the API group of the issuer.
	// +optional
	// +default="cert-manager.io"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Group string `json:"group,omitempty"`
}

// CACertificate defines the certificate of a self-signed CA. Its pathLenConstraint (RFC 5280
// §4.2.1.9) is 3, so that at most three later generations can be cross-signed below it.
type CACertificate struct {
	// commonName is the common name of the subject. Each generation gets a unique one:
	// `<commonName>@<unix seconds>`.
	// +optional
	// +default="service-serving-signer"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=48
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9]([A-Za-z0-9 ._-]*[A-Za-z0-9])?$')",message="commonName may hold letters, digits, spaces, '.', '_' and '-', and starts and ends with a letter or digit, such as service-serving-signer"
	CommonName string `json:"commonName,omitempty"`

	// duration is the lifetime of each generation: 18960h (26 months) by default, at least 1m.
	// +optional
	// +default="18960h"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^([0-9]{1,6}([.][0-9]{1,3})?(h|m|s|ms))+$') || duration(self) >= duration('1m')",message="duration must be at least 1m: 18960h (26 months) is a good choice"
	Duration Duration `json:"duration,omitempty"`

	// privateKey defines the private key of each generation. A change of its algorithm or size
	// starts a rotation.
	// +optional
	// +default={}
	PrivateKey PrivateKey `json:"privateKey,omitzero"`

	// permittedDNSDomains are the only domains for which the CA may sign (RFC 5280 §4.2.1.10 name
	// constraints, critical); a domain permits its subdomains too. Every name of a Service must be
	// permitted: `svc` for `<service>.<namespace>.svc`, and `cluster.local` for the name below it.
	// IP addresses, URIs and mail addresses are then forbidden. If empty, there is no constraint. A
	// change starts a rotation.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.all(d, d.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$'))",message="a permitted DNS domain is a plain domain such as svc or cluster.local: lower-case, without '*' and without a leading dot"
	PermittedDNSDomains []string `json:"permittedDNSDomains,omitempty"`

	// permittedUsages are the only extended key usages for which the CA may sign (RFC 5280
	// §4.2.1.12); set it to `[server auth]` if no policy allows client auth. If empty, any usage is
	// permitted. A change starts a rotation.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:XValidation:rule="self.size() == 0 || 'server auth' in self",message="every serving certificate has the usage 'server auth': add it, or leave permittedUsages out for any usage"
	PermittedUsages []CertificateUsage `json:"permittedUsages,omitempty"`
}

// RotationMode is whether rotations take place.
//
// +kubebuilder:validation:Enum=Automatic;Paused
type RotationMode string

// The rotation modes.
const (
	// RotationAutomatic rotates at the threshold, on a new trigger, and on changes of the spec.
	RotationAutomatic RotationMode = "Automatic"
	// RotationPaused stops any rotation at its current phase.
	RotationPaused RotationMode = "Paused"
)

// TriggerReason is why a rotation was requested.
//
// +kubebuilder:validation:Enum=Routine;Compromise
type TriggerReason string

// The trigger reasons.
const (
	// TriggerRoutine keeps the old CA trusted as long as previousTrust defines.
	TriggerRoutine TriggerReason = "Routine"
	// TriggerCompromise distrusts every earlier CA as soon as every certificate is reissued and
	// propagation.minimum has passed.
	TriggerCompromise TriggerReason = "Compromise"
)

// PreviousTrust is how long a replaced CA stays trusted.
//
// +kubebuilder:validation:Enum=UntilExpiry;UntilUnused
type PreviousTrust string

// When a replaced CA stops being trusted.
const (
	// TrustUntilExpiry trusts it until its own notAfter, as OpenShift does.
	TrustUntilExpiry PreviousTrust = "UntilExpiry"
	// TrustUntilUnused trusts it until the last certificate that it signed has expired.
	TrustUntilUnused PreviousTrust = "UntilUnused"
)

// CARotation defines when and how a new generation replaces the current one.
type CARotation struct {
	// rotateBefore starts a rotation when less than this is left of the CA's lifetime: 9480h (13
	// months) by default. A CA from source.secret or source.certManager whose lifetime is not
	// longer than this is rotated when a third of its lifetime is left.
	// +optional
	// +default="9480h"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^[0.hms]+$')",message="rotateBefore must be longer than 0s: about half of certificate.duration is a good choice"
	RotateBefore Duration `json:"rotateBefore,omitempty"`

	// mode is whether rotations take place. Paused stops any rotation at its current phase,
	// including the one that is due because the CA expires.
	// +optional
	// +default="Automatic"
	Mode RotationMode `json:"mode,omitempty"`

	// trigger starts one rotation with each new value: a `rotate now` that can be committed to Git.
	// The first CA of a ServiceCA treats the value as already handled.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Trigger string `json:"trigger,omitempty"`

	// triggerReason is why trigger was changed. It is read when the rotation starts.
	// +optional
	// +default="Routine"
	TriggerReason TriggerReason `json:"triggerReason,omitempty"`

	// propagation is how long clients may need to load a new bundle.
	// +optional
	// +default={}
	Propagation Propagation `json:"propagation,omitzero"`

	// previousTrust is how long a replaced CA stays trusted.
	// +optional
	// +default="UntilExpiry"
	PreviousTrust PreviousTrust `json:"previousTrust,omitempty"`
}

// Propagation is the time that a published bundle needs to reach the clients that read it.
type Propagation struct {
	// minimum is the shortest time between the moment when every target carries the next bundle and
	// the moment when the next generation starts to sign: 10m by default.
	// +optional
	// +default="10m"
	Minimum Duration `json:"minimum,omitempty"`
}

// SigningKeyReference names the Secret of a CA, in the operator's namespace.
type SigningKeyReference struct {
	// secretName is the name of the Secret: `<name of the ServiceCA>-signing-key` by default.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="!format.dns1123Subdomain().validate(self).hasValue()",message="a Secret's name has lower-case letters, digits, '-' and '.' only, and starts and ends with a letter or digit, such as corp-ca"
	SecretName string `json:"secretName,omitempty"`
}

// TrustBundleReference names the ConfigMap that publishes a bundle, in the operator's namespace.
type TrustBundleReference struct {
	// configMapName is the name of the ConfigMap: `<name of the ServiceCA>-trust-bundle` by
	// default.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="!format.dns1123Subdomain().validate(self).hasValue()",message="a ConfigMap's name has lower-case letters, digits, '-' and '.' only, and starts and ends with a letter or digit, such as corp-trust"
	ConfigMapName string `json:"configMapName,omitempty"`

	// key is the key of the bundle in the ConfigMap's data.
	// +optional
	// +default="ca-bundle.crt"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[-._a-zA-Z0-9]+$') && !self.startsWith('..') && self != '.'",message="a ConfigMap's key has letters, digits, '-', '_' and '.' only, such as ca-bundle.crt"
	Key string `json:"key,omitempty"`

	// publish creates and maintains a ConfigMap with the bundle in each selected namespace, as
	// OpenShift does with openshift-service-ca.crt: none by default, at most 3 names. The operator
	// does not change a ConfigMap of that name that it did not create. It needs the permissions of
	// config/components/publish.
	// +optional
	// +listType=map
	// +listMapKey=configMapName
	// +kubebuilder:validation:MaxItems=3
	Publish []PublishedBundle `json:"publish,omitempty"`
}

// PublishedBundle defines a ConfigMap that the operator maintains in each selected namespace.
type PublishedBundle struct {
	// configMapName is the name of the ConfigMap.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="!format.dns1123Subdomain().validate(self).hasValue()",message="a ConfigMap's name has lower-case letters, digits, '-' and '.' only, and starts and ends with a letter or digit, such as openshift-service-ca.crt"
	// +kubebuilder:validation:XValidation:rule="self != 'kube-root-ca.crt'",message="Kubernetes itself publishes kube-root-ca.crt: choose another name, such as openshift-service-ca.crt"
	ConfigMapName string `json:"configMapName,omitempty"`

	// key is the key of the bundle in the ConfigMap's data; the ConfigMap has no other key.
	// +optional
	// +default="service-ca.crt"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[-._a-zA-Z0-9]+$') && !self.startsWith('..') && self != '.'",message="a ConfigMap's key has letters, digits, '-', '_' and '.' only, such as service-ca.crt"
	Key string `json:"key,omitempty"`

	// namespaceSelector selects namespaces by label; empty selects all. If two ServiceCAs publish
	// the same name in a namespace, the older one does.
	// +optional
	// +default={}
	// +kubebuilder:validation:XValidation:rule="!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator in ['In', 'NotIn', 'Exists', 'DoesNotExist'])",message="the operator of a matchExpression is In, NotIn, Exists or DoesNotExist"
	// +kubebuilder:validation:XValidation:rule="!has(self.matchExpressions) || self.matchExpressions.all(e, (e.operator in ['In', 'NotIn']) == (has(e.values) && e.values.size() > 0))",message="a matchExpression has values with the operators In and NotIn, and none with Exists and DoesNotExist"
	NamespaceSelector metav1.LabelSelector `json:"namespaceSelector,omitzero"`
}
