package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// CAPhase is the phase of a CA's rotation.
//
// +kubebuilder:validation:Enum=Stable;Publishing;Propagating;Reissuing;Retiring
type CAPhase string

// The phases of a rotation, in order.
const (
	// PhaseStable has one generation that signs, and no rotation in progress.
	PhaseStable CAPhase = "Stable"
	// PhasePublishing publishes the certificate of the next generation to every target.
	PhasePublishing CAPhase = "Publishing"
	// PhasePropagating waits until the clients that read the targets have had time to load it.
	PhasePropagating CAPhase = "Propagating"
	// PhaseReissuing reissues every certificate from the new generation.
	PhaseReissuing CAPhase = "Reissuing"
	// PhaseRetiring waits until no certificate of the old generation can still be valid.
	PhaseRetiring CAPhase = "Retiring"
)

// ServiceCAStatus defines the observed state of a ServiceCA.
type ServiceCAStatus struct {
	// observedGeneration is the generation of the spec that this status reports on; -1 before the
	// first report.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Ready, Reconciling, Stalled, TrustEstablished, Rotating and ExpiringSoon.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// active is the generation that signs.
	// +optional
	Active *CAGeneration `json:"active,omitempty"`

	// next is the generation that will sign, while a rotation prepares it.
	// +optional
	Next *CAGeneration `json:"next,omitempty"`

	// previous are the generations that no longer sign but are still trusted, the newest first.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Previous []CAGeneration `json:"previous,omitempty"`

	// rotation is the state of the rotation.
	// +optional
	Rotation *RotationStatus `json:"rotation,omitempty"`

	// trustBundle is the state of the trust bundle, with which clients verify certificates.
	// +optional
	TrustBundle *TrustBundleStatus `json:"trustBundle,omitempty"`

	// nextRotationTime is when spec.rotation.rotateBefore starts the next rotation.
	// +optional
	NextRotationTime *metav1.Time `json:"nextRotationTime,omitempty"`
}

// CAGeneration is one generation of a CA, with its certificate.
type CAGeneration struct {
	// subject is the common name of the certificate's subject, such as
	// `service-serving-signer@1795482000`.
	// +required
	Subject string `json:"subject,omitempty"`

	// serialNumber is the serial number of the certificate in hexadecimal.
	// +required
	SerialNumber string `json:"serialNumber,omitempty"`

	// subjectKeyID is the subject key identifier in hexadecimal (RFC 5280 §4.2.1.2), or its hash if
	// it is longer than 64 bytes.
	// +required
	SubjectKeyID string `json:"subjectKeyID,omitempty"`

	// fingerprint is the SHA-256, in hexadecimal, of the certificate in DER and, for an
	// intermediate CA, of the chain after it.
	// +optional
	Fingerprint string `json:"fingerprint,omitempty"`

	// notBefore is the start of the certificate's validity.
	// +required
	NotBefore metav1.Time `json:"notBefore,omitzero"`

	// notAfter is the end of the certificate's validity.
	// +required
	NotAfter metav1.Time `json:"notAfter,omitzero"`

	// certificates is the number of valid serving certificates that chain to this generation.
	// +optional
	Certificates *int32 `json:"certificates,omitempty"`

	// longestDurationSeconds is the longest lifetime of a certificate that the active generation
	// may sign, as the policies request it, in seconds.
	// +optional
	LongestDurationSeconds *int64 `json:"longestDurationSeconds,omitempty"`

	// signedUntil is the latest notAfter of the certificates that a previous generation may have
	// signed, or that were sent with more than one certificate that chains to its root.
	// +optional
	SignedUntil *metav1.Time `json:"signedUntil,omitempty"`
}

// RotationReason is why a rotation started.
//
// +kubebuilder:validation:Enum=ThresholdPassed;Triggered;Compromise;SpecChanged;SourceChanged;SigningKeyLost;SigningKeyRestored;CAExpired
type RotationReason string

// The reasons of a rotation.
const (
	// RotationThresholdPassed means that less than spec.rotation.rotateBefore was left.
	RotationThresholdPassed RotationReason = "ThresholdPassed"
	// RotationTriggered means that spec.rotation.trigger has a new value.
	RotationTriggered RotationReason = "Triggered"
	// RotationCompromise means that spec.rotation.trigger has a new value, and triggerReason is
	// Compromise.
	RotationCompromise RotationReason = "Compromise"
	// RotationSpecChanged means that spec.certificate requires another key, or other permitted
	// domains or usages.
	RotationSpecChanged RotationReason = "SpecChanged"
	// RotationSourceChanged means that spec.source names another source, that the Secret which it
	// names holds another CA, or that the certificate in the signing-key Secret was renewed for the
	// same key.
	RotationSourceChanged RotationReason = "SourceChanged"
	// RotationSigningKeyLost means that the signing key was deleted, or cannot be read.
	RotationSigningKeyLost RotationReason = "SigningKeyLost"
	// RotationSigningKeyRestored means that the signing-key Secret holds an earlier generation
	// again.
	RotationSigningKeyRestored RotationReason = "SigningKeyRestored"
	// RotationCAExpired means that the CA expired.
	RotationCAExpired RotationReason = "CAExpired"
)

// RotationStatus is the state of a rotation.
type RotationStatus struct {
	// phase is the phase of the rotation.
	// +optional
	Phase CAPhase `json:"phase,omitempty"`

	// lastTransitionTime is when the phase started.
	// +optional
	LastTransitionTime *metav1.Time `json:"lastTransitionTime,omitempty"`

	// startedAt is when the rotation started; absent in the phase Stable.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`

	// reason is why the rotation started; absent in the phase Stable.
	// +optional
	Reason RotationReason `json:"reason,omitempty"`

	// trigger is the last value of spec.rotation.trigger that was handled.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Trigger string `json:"trigger,omitempty"`

	// blockedBy lists what the phase waits for, one sentence each.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	BlockedBy []string `json:"blockedBy,omitempty"`
}

// TrustBundleStatus is the state of the published bundle.
type TrustBundleStatus struct {
	// hash is the SHA-256 of the bundle in hexadecimal.
	// +optional
	Hash string `json:"hash,omitempty"`

	// fingerprints are the SHA-256 of each certificate in the bundle, in hexadecimal.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:items:MaxLength=64
	Fingerprints []string `json:"fingerprints,omitempty"`

	// changedAt is when every target carried the last change that running processes must load: a
	// root that was added, or a compromised root that was removed. Containers that started earlier
	// still trust the previous bundle. It is absent until the first such change.
	// +optional
	ChangedAt *metav1.Time `json:"changedAt,omitempty"`

	// certificates is the number of certificates in the bundle.
	// +optional
	Certificates int32 `json:"certificates,omitempty"`

	// clusterTrustBundleName is the name of the ClusterTrustBundle that publishes the bundle, which
	// any pod can mount; absent if the cluster does not serve ClusterTrustBundles.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	ClusterTrustBundleName string `json:"clusterTrustBundleName,omitempty"`

	// targets is the number of objects that request the bundle, including the trust-bundle
	// ConfigMap and the ClusterTrustBundle.
	// +optional
	Targets int32 `json:"targets,omitempty"`

	// currentTargets is the number of targets that carry the current bundle.
	// +optional
	CurrentTargets int32 `json:"currentTargets,omitempty"`

	// blockedTargets is the number of targets that cannot get the bundle until their owners fix a
	// problem.
	// +optional
	BlockedTargets int32 `json:"blockedTargets,omitempty"`
}
