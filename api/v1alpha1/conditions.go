package v1alpha1

// The condition types. Ready, Reconciling and Stalled follow kstatus: the latter two are absent rather than False.
const (
	// ConditionReady of a ServiceCA: it has a sound key and a published bundle. Of a policy: it can issue.
	ConditionReady = "Ready"
	// ConditionReconciling is True while it is not Ready, and may become so by itself.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is True when a person must change the object, or what it refers to.
	ConditionStalled = "Stalled"

	// ConditionTrustEstablished of a ServiceCA: every target carries the current bundle, every live certificate chains to it.
	ConditionTrustEstablished = "TrustEstablished"
	// ConditionRotating of a ServiceCA: a rotation is on its way.
	ConditionRotating = "Rotating"
	// ConditionExpiringSoon of a ServiceCA: past the threshold and not rotating.
	ConditionExpiringSoon = "ExpiringSoon"

	// ConditionAllServed of a policy: each Service that it rules has its certificate.
	ConditionAllServed = "AllServed"
	// ConditionConflicted of a policy: another policy of the same priority selects some of the same Services.
	ConditionConflicted = "Conflicted"
	// ConditionRestartHalted of a policy: a rollout failed, and the line stands still.
	ConditionRestartHalted = "RestartHalted"
	// ConditionRestartTooLate of a policy: what its workloads hold expires before a window lets them be restarted, or would.
	ConditionRestartTooLate = "RestartTooLate"
)
