package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// CAPhase is where the rotation of a CA stands.
//
// +kubebuilder:validation:Enum=Stable;Publishing;Propagating;Reissuing;Retiring
type CAPhase string

// The phases of a rotation, in their order.
const (
	// PhaseStable has one generation that signs, and nothing under way.
	PhaseStable CAPhase = "Stable"
	// PhasePublishing brings the next generation's certificate to every target.
	PhasePublishing CAPhase = "Publishing"
	// PhasePropagating gives the readers of the targets time to see it.
	PhasePropagating CAPhase = "Propagating"
	// PhaseReissuing replaces each certificate by one that the new generation signs.
	PhaseReissuing CAPhase = "Reissuing"
	// PhaseRetiring waits until no certificate of the old generation can be alive.
	PhaseRetiring CAPhase = "Retiring"
)

// ServiceCAStatus is the state of a CA.
type ServiceCAStatus struct {
	// observedGeneration is the generation of the spec that this status answers; -1 before the first.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Ready, Reconciling, Stalled, TrustEstablished, Rotating, ExpiringSoon.
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

	// previous are the generations that no longer sign and are still trusted, the newest first.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Previous []CAGeneration `json:"previous,omitempty"`

	// rotation is where the rotation stands.
	// +optional
	Rotation *RotationStatus `json:"rotation,omitempty"`

	// trustBundle is what clients verify with.
	// +optional
	TrustBundle *TrustBundleStatus `json:"trustBundle,omitempty"`

	// nextRotationTime is when the threshold starts the next rotation.
	// +optional
	NextRotationTime *metav1.Time `json:"nextRotationTime,omitempty"`
}

// CAGeneration is one certificate of a CA.
type CAGeneration struct {
	// subject common name, e.g. `service-serving-signer@1795482000`.
	// +required
	Subject string `json:"subject,omitempty"`

	// serialNumber in hexadecimal.
	// +required
	SerialNumber string `json:"serialNumber,omitempty"`

	// subjectKeyID in hexadecimal (RFC 5280 §4.2.1.2); of one that is longer than 64 bytes, its hash.
	// +required
	SubjectKeyID string `json:"subjectKeyID,omitempty"`

	// fingerprint is the SHA-256, in hexadecimal, of the certificate in DER and, for an intermediate CA, of the chain after it.
	// +optional
	Fingerprint string `json:"fingerprint,omitempty"`

	// notBefore is the begin of the validity.
	// +required
	NotBefore metav1.Time `json:"notBefore,omitzero"`

	// notAfter is the end of the validity.
	// +required
	NotAfter metav1.Time `json:"notAfter,omitzero"`

	// certificates is the number of live serving certificates that chain to this generation.
	// +optional
	Certificates *int32 `json:"certificates,omitempty"`

	// longestDurationSeconds is the longest lifetime of a certificate that the active generation may sign, as the policies ask for it.
	// +optional
	LongestDurationSeconds *int64 `json:"longestDurationSeconds,omitempty"`

	// signedUntil is when the last certificate has expired that a previous generation may have signed, or that was sent with more than one
	// certificate that leads to its root.
	// +optional
	SignedUntil *metav1.Time `json:"signedUntil,omitempty"`
}

// RotationReason says why a rotation began.
//
// +kubebuilder:validation:Enum=ThresholdPassed;Triggered;Compromise;SpecChanged;SourceChanged;SigningKeyLost;SigningKeyRestored;CAExpired
type RotationReason string

// The reasons of a rotation.
const (
	// RotationThresholdPassed: less than spec.rotation.rotateBefore was left.
	RotationThresholdPassed RotationReason = "ThresholdPassed"
	// RotationTriggered: spec.rotation.trigger got a new value.
	RotationTriggered RotationReason = "Triggered"
	// RotationCompromise: spec.rotation.trigger got a new value, and triggerReason is Compromise.
	RotationCompromise RotationReason = "Compromise"
	// RotationSpecChanged: spec.certificate asks for another key, or for other permitted domains or usages.
	RotationSpecChanged RotationReason = "SpecChanged"
	// RotationSourceChanged: spec.source names another source, the Secret that it names holds another CA, or the certificate in the
	// signing-key Secret was renewed for the same key.
	RotationSourceChanged RotationReason = "SourceChanged"
	// RotationSigningKeyLost: the signing key was deleted, or cannot be read.
	RotationSigningKeyLost RotationReason = "SigningKeyLost"
	// RotationSigningKeyRestored: the signing-key Secret holds a former generation again.
	RotationSigningKeyRestored RotationReason = "SigningKeyRestored"
	// RotationCAExpired: the CA had expired.
	RotationCAExpired RotationReason = "CAExpired"
)

// RotationStatus is where a rotation stands.
type RotationStatus struct {
	// phase of the rotation.
	// +optional
	Phase CAPhase `json:"phase,omitempty"`

	// lastTransitionTime is when the phase began.
	// +optional
	LastTransitionTime *metav1.Time `json:"lastTransitionTime,omitempty"`

	// startedAt is when the rotation began; absent in the phase Stable.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`

	// reason why the rotation began; absent in the phase Stable.
	// +optional
	Reason RotationReason `json:"reason,omitempty"`

	// trigger is the last value of spec.rotation.trigger that was acted on.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Trigger string `json:"trigger,omitempty"`

	// blockedBy says what the phase waits for, a sentence each.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	BlockedBy []string `json:"blockedBy,omitempty"`
}

// TrustBundleStatus is the state of the published bundle.
type TrustBundleStatus struct {
	// hash of the bundle: SHA-256 in hexadecimal.
	// +optional
	Hash string `json:"hash,omitempty"`

	// fingerprints of the certificates in the bundle: SHA-256 in hexadecimal.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:items:MaxLength=64
	Fingerprints []string `json:"fingerprints,omitempty"`

	// changedAt is when every target carried the last change that running processes must read: a root that was added, or a compromised
	// one that was dropped. Containers that started earlier trust what was before; absent until the first such change.
	// +optional
	ChangedAt *metav1.Time `json:"changedAt,omitempty"`

	// certificates in the bundle.
	// +optional
	Certificates int32 `json:"certificates,omitempty"`

	// clusterTrustBundleName is the ClusterTrustBundle that publishes the bundle, for any pod to mount; absent where the cluster serves none.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	ClusterTrustBundleName string `json:"clusterTrustBundleName,omitempty"`

	// targets is the number of objects that ask for the bundle, the trust-bundle ConfigMap and the ClusterTrustBundle among them.
	// +optional
	Targets int32 `json:"targets,omitempty"`

	// currentTargets is the number of targets that carry the current bundle.
	// +optional
	CurrentTargets int32 `json:"currentTargets,omitempty"`

	// blockedTargets is the number of targets that cannot be given the bundle before their owners have put something right.
	// +optional
	BlockedTargets int32 `json:"blockedTargets,omitempty"`
}
