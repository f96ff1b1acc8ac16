package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// RestartStrategy says whether workloads are restarted.
//
// +kubebuilder:validation:Enum=None;RollingRestart
type RestartStrategy string

// The restart strategies.
const (
	// RestartNone reports what would need a restart.
	RestartNone RestartStrategy = "None"
	// RollingRestart does it, as `kubectl rollout restart` would.
	RollingRestart RestartStrategy = "RollingRestart"
)

// RestartReason is a change that concerns running workloads.
//
// +kubebuilder:validation:Enum=CertificateRenewed;TrustChanged
type RestartReason string

// The restart reasons.
const (
	// RestartOnCertificateRenewed is a new certificate in a Secret that the workload reads.
	RestartOnCertificateRenewed RestartReason = "CertificateRenewed"
	// RestartOnTrustChanged is a new bundle in a ConfigMap or Secret that the workload reads.
	RestartOnTrustChanged RestartReason = "TrustChanged"
)

// RestartConsumers says which consumers are restarted.
//
// +kubebuilder:validation:Enum=All;Frozen
type RestartConsumers string

// The consumers.
const (
	// RestartAllConsumers restarts every consumer.
	RestartAllConsumers RestartConsumers = "All"
	// RestartFrozenConsumers restarts only those that the kubelet cannot refresh (env, subPath).
	RestartFrozenConsumers RestartConsumers = "Frozen"
)

// RestartFailurePolicy says what follows a failed rollout.
//
// +kubebuilder:validation:Enum=Halt;Continue
type RestartFailurePolicy string

// The failure policies.
const (
	// RestartHalt begins no further restart.
	RestartHalt RestartFailurePolicy = "Halt"
	// RestartContinue goes on with the next workload.
	RestartContinue RestartFailurePolicy = "Continue"
)

// RestartOutsideWindows says what is restarted while no window is open.
//
// +kubebuilder:validation:Enum=Never;WhenExpiring
type RestartOutsideWindows string

// What is restarted outside the windows.
const (
	// RestartOutsideNever restarts nothing.
	RestartOutsideNever RestartOutsideWindows = "Never"
	// RestartOutsideWhenExpiring restarts a workload that holds what has expired, or expires before the next window opens.
	RestartOutsideWhenExpiring RestartOutsideWindows = "WhenExpiring"
)

// Restart is the restart strategy of a policy.
type Restart struct {
	// strategy None reports what would need a restart; RollingRestart does it.
	// +optional
	// +default="None"
	Strategy RestartStrategy `json:"strategy,omitempty"`

	// triggers are the changes that restart a workload.
	// +optional
	// +default=["CertificateRenewed", "TrustChanged"]
	// +listType=set
	// +kubebuilder:validation:MaxItems=2
	Triggers []RestartReason `json:"triggers,omitempty"`

	// consumers All restarts every consumer, Frozen only those that the kubelet cannot refresh.
	// +optional
	// +default="All"
	Consumers RestartConsumers `json:"consumers,omitempty"`

	// maxConcurrent is how many workloads of this policy roll at once.
	// +optional
	// +default=1
	// +kubebuilder:validation:Minimum=1
	MaxConcurrent int32 `json:"maxConcurrent,omitempty"`

	// windows are the times at which a restart begins; none: at any time. See outsideWindows for the exception.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Windows []RestartWindow `json:"windows,omitempty"`

	// outsideWindows WhenExpiring restarts a workload while no window is open if the certificate or the bundle that its pods hold has
	// expired, or expires before the next window opens; turns, maxConcurrent and PodDisruptionBudgets apply as usual. Never restarts
	// nothing outside the windows, and the condition RestartTooLate says what expires. It matters only where there are windows.
	// +optional
	// +default="WhenExpiring"
	OutsideWindows RestartOutsideWindows `json:"outsideWindows,omitempty"`

	// onFailure says what follows a rollout that misses its progress deadline.
	// +optional
	// +default="Halt"
	OnFailure RestartFailurePolicy `json:"onFailure,omitempty"`
}

// RestartWindow is a recurring span of time.
type RestartWindow struct {
	// schedule is the begin of the window: a cron expression with five fields, such as "0 2 * * 6".
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^ ]+( +[^ ]+){4}$')",message="a schedule has five fields, minute, hour, day of the month, month and day of the week, such as 0 2 * * 6 for Saturdays at 2:00; the zone belongs in timeZone"
	Schedule string `json:"schedule,omitempty"`

	// duration of the window.
	// +required
	// +kubebuilder:validation:XValidation:rule="!self.matches('^[0.hms]+$')",message="duration must be longer than 0s, such as 4h"
	Duration Duration `json:"duration,omitempty"`

	// timeZone of the schedule, from the IANA database.
	// +optional
	// +default="UTC"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self != 'Local' && self.matches('^[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$')",message="timeZone is a name from the IANA database, such as UTC or Europe/Zurich"
	TimeZone string `json:"timeZone,omitempty"`
}

// RestartCounts counts workloads.
type RestartCounts struct {
	// pending workloads hold an older certificate or bundle, and wait for their turn or their window, or for a strategy that restarts them.
	// +required
	Pending int32 `json:"pending"`
	// inProgress workloads are rolling.
	// +required
	InProgress int32 `json:"inProgress"`
	// failed workloads missed their progress deadline.
	// +required
	Failed int32 `json:"failed"`
	// optedOut workloads would need a restart, and their annotation servingcert.dev/restart forbids it.
	// +optional
	OptedOut int32 `json:"optedOut,omitempty"`
	// rolling are the pending workloads that roll for another reason, and are waited for.
	// +optional
	Rolling int32 `json:"rolling,omitempty"`
	// blocked are the pending workloads that cannot be restarted now.
	// +optional
	Blocked int32 `json:"blocked,omitempty"`
	// overdue are the workloads in progress whose turn is over: they take no place any more.
	// +optional
	Overdue int32 `json:"overdue,omitempty"`
	// lastCompletedAt is when a restart was last completed.
	// +optional
	LastCompletedAt *metav1.Time `json:"lastCompletedAt,omitempty"`
	// workloads are at most 10 that are not done, those first that need somebody: failed, then blocked, overdue, in progress, rolling and
	// pending ones.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=10
	Workloads []WorkloadRestart `json:"workloads,omitempty"`
}

// WorkloadRestartState is how a workload stands with its restart.
//
// +kubebuilder:validation:Enum=Pending;Rolling;Blocked;InProgress;Overdue;Failed
type WorkloadRestartState string

// The states of workloads.
const (
	// WorkloadPending waits for its turn.
	WorkloadPending WorkloadRestartState = "Pending"
	// WorkloadRolling rolls for another reason, and is waited for.
	WorkloadRolling WorkloadRestartState = "Rolling"
	// WorkloadBlocked cannot be restarted now.
	WorkloadBlocked WorkloadRestartState = "Blocked"
	// WorkloadInProgress is being restarted.
	WorkloadInProgress WorkloadRestartState = "InProgress"
	// WorkloadOverdue is being restarted, and its turn is over.
	WorkloadOverdue WorkloadRestartState = "Overdue"
	// WorkloadFailed makes no progress any more.
	WorkloadFailed WorkloadRestartState = "Failed"
)

// WorkloadRestart is one workload that is not done.
type WorkloadRestart struct {
	// kind of the workload, such as Deployment.
	// +required
	Kind string `json:"kind"`
	// namespace of the workload.
	// +required
	Namespace string `json:"namespace"`
	// name of the workload.
	// +required
	Name string `json:"name"`
	// state of its restart.
	// +required
	State WorkloadRestartState `json:"state"`
	// since is when its restart began; before that, when what it holds was replaced, or when it was first seen to roll for another reason.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// until is when it is not waited for any longer, whatever progress it makes.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`
	// message says why it is in this state, and what to do.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
}
