package v1alpha1

// The condition types. Ready, Reconciling and Stalled follow kstatus: the latter two are absent
// rather than False.
const (
	// ConditionReady of a ServiceCA is True if it has a valid key and a published bundle. Of a
	// policy, it is True if the policy can issue.
	ConditionReady = "Ready"
	// ConditionReconciling is True while the object is not Ready, but may become so without any
	// action.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is True if a user must change the object, or an object to which it refers.
	ConditionStalled = "Stalled"

	// ConditionTrustEstablished of a ServiceCA is True if every target carries the current bundle
	// and every valid certificate chains to it.
	ConditionTrustEstablished = "TrustEstablished"
	// ConditionRotating of a ServiceCA is True while a rotation is in progress.
	ConditionRotating = "Rotating"
	// ConditionExpiringSoon of a ServiceCA is True if the CA has passed the threshold and does not
	// rotate.
	ConditionExpiringSoon = "ExpiringSoon"

	// ConditionAllServed of a policy is True if each Service to which it applies has its
	// certificate.
	ConditionAllServed = "AllServed"
	// ConditionConflicted of a policy is True if another policy of the same priority selects some
	// of the same Services.
	ConditionConflicted = "Conflicted"
	// ConditionRestartHalted of a policy is True if a rollout failed and no further restart starts.
	ConditionRestartHalted = "RestartHalted"
	// ConditionRestartTooLate of a policy is True if a certificate or bundle that its workloads
	// hold has expired, or will expire, before a window lets them restart.
	ConditionRestartTooLate = "RestartTooLate"
)
