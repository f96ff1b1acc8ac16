package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// RestartStrategy is whether workloads are restarted.
//
// +kubebuilder:validation:Enum=None;RollingRestart
type RestartStrategy string

// The restart strategies.
const (
	// RestartNone reports which workloads need a restart, without restarting them.
	RestartNone RestartStrategy = "None"
	// RollingRestart restarts workloads as `kubectl rollout restart` does.
	RollingRestart RestartStrategy = "RollingRestart"
)

// RestartReason is a change that affects running workloads.
//
// +kubebuilder:validation:Enum=CertificateRenewed;TrustChanged
type RestartReason string

// The restart reasons.
const (
	// RestartOnCertificateRenewed means that a Secret which the workload reads has a new
	// certificate.
	RestartOnCertificateRenewed RestartReason = "CertificateRenewed"
	// RestartOnTrustChanged means that a ConfigMap or Secret which the workload reads has a new
	// bundle.
	RestartOnTrustChanged RestartReason = "TrustChanged"
)

// RestartConsumers is which consumers of a Secret or ConfigMap are restarted.
//
// +kubebuilder:validation:Enum=All;Frozen
type RestartConsumers string

// The choices of consumers.
const (
	// RestartAllConsumers restarts every consumer.
	RestartAllConsumers RestartConsumers = "All"
	// RestartFrozenConsumers restarts only those for which the kubelet cannot refresh the content
	// (env, subPath).
	RestartFrozenConsumers RestartConsumers = "Frozen"
)

// RestartFailurePolicy is what happens after a failed rollout.
//
// +kubebuilder:validation:Enum=Halt;Continue
type RestartFailurePolicy string

// The failure policies.
const (
	// RestartHalt starts no further restart.
	RestartHalt RestartFailurePolicy = "Halt"
	// RestartContinue continues with the next workload.
	RestartContinue RestartFailurePolicy = "Continue"
)

// RestartOutsideWindows is what is restarted while no window is open.
//
// +kubebuilder:validation:Enum=Never;WhenExpiring
type RestartOutsideWindows string

// What is restarted outside the windows.
const (
	// RestartOutsideNever restarts nothing.
	RestartOutsideNever RestartOutsideWindows = "Never"
	// RestartOutsideWhenExpiring restarts a workload that holds a certificate or bundle which has
	// expired, or expires before the next window opens.
	RestartOutsideWhenExpiring RestartOutsideWindows = "WhenExpiring"
)

// Restart defines which workloads of a policy are restarted, and when.
type Restart struct {
	// strategy is whether workloads are restarted. None only reports which workloads need a
	// restart; RollingRestart restarts them.
	// +optional
	// +default="None"
	Strategy RestartStrategy `json:"strategy,omitempty"`

	// triggers are the changes that restart a workload.
	// +optional
	// +default=["CertificateRenewed", "TrustChanged"]
	// +listType=set
	// +kubebuilder:validation:MaxItems=2
	Triggers []RestartReason `json:"triggers,omitempty"`

	// consumers selects which consumers are restarted. All restarts every consumer; Frozen restarts
	// only those for which the kubelet cannot refresh the content (environment variables and
	// subPath mounts).
	// +optional
	// +default="All"
	Consumers RestartConsumers `json:"consumers,omitempty"`

	// maxConcurrent is the maximum number of workloads of this policy that roll at the same time.
	// +optional
	// +default=1
	// +kubebuilder:validation:Minimum=1
	MaxConcurrent int32 `json:"maxConcurrent,omitempty"`

	// windows are the times at which a restart may start. If empty, a restart may start at any
	// time. See outsideWindows for the exception.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Windows []RestartWindow `json:"windows,omitempty"`

	// outsideWindows selects what is restarted while no window is open. WhenExpiring restarts a
	// workload if the certificate or the bundle that its pods hold has expired, or expires before
	// the next window opens; the order of restarts, maxConcurrent and PodDisruptionBudgets apply as
	// usual. Never restarts nothing outside the windows, and the condition RestartTooLate reports
	// what expires. It has no effect without windows.
	// +optional
	// +default="WhenExpiring"
	OutsideWindows RestartOutsideWindows `json:"outsideWindows,omitempty"`

	// onFailure is what happens after a rollout misses its progress deadline. Halt starts no
	// further restart; Continue continues with the next workload.
	// +optional
	// +default="Halt"
	OnFailure RestartFailurePolicy `json:"onFailure,omitempty"`
}

// RestartWindow is a recurring period in which restarts may start.
type RestartWindow struct {
	// schedule is when the window opens: a cron expression with five fields, such as "0 2 * * 6".
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:XValidation:rule="self.matches('^[^ ]+( +[^ ]+){4}$')",message="a schedule has five fields, minute, hour, day of the month, month and day of the week, such as 0 2 * * 6 for Saturdays at 2:00; the zone belongs in timeZone"
	Schedule string `json:"schedule,omitempty"`

	// duration is how long the window is open.
	// +required
	// +kubebuilder:validation:XValidation:rule="!self.matches('^[0.hms]+$')",message="duration must be longer than 0s, such as 4h"
	Duration Duration `json:"duration,omitempty"`

	// timeZone is the time zone of the schedule, a name in the IANA database.
	// +optional
	// +default="UTC"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self != 'Local' && self.matches('^[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$')",message="timeZone is a name from the IANA database, such as UTC or Europe/Zurich"
	TimeZone string `json:"timeZone,omitempty"`
}

// RestartCounts counts the workloads that need a restart.
type RestartCounts struct {
	// pending is the number of workloads that hold an older certificate or bundle, and wait for
	// their turn, for a window, or for a strategy that restarts them.
	// +required
	Pending int32 `json:"pending"`
	// inProgress is the number of workloads that are rolling.
	// +required
	InProgress int32 `json:"inProgress"`
	// failed is the number of workloads that missed their progress deadline.
	// +required
	Failed int32 `json:"failed"`
	// optedOut is the number of workloads that need a restart, but whose annotation
	// servingcert.dev/restart forbids it.
	// +optional
	OptedOut int32 `json:"optedOut,omitempty"`
	// rolling is the number of pending workloads that roll for another reason; the operator waits
	// for them.
	// +optional
	Rolling int32 `json:"rolling,omitempty"`
	// blocked is the number of pending workloads that cannot be restarted now.
	// +optional
	Blocked int32 `json:"blocked,omitempty"`
	// overdue is the number of workloads in progress that have exceeded their time; they no longer
	// count towards maxConcurrent.
	// +optional
	Overdue int32 `json:"overdue,omitempty"`
	// lastCompletedAt is when a restart last completed.
	// +optional
	LastCompletedAt *metav1.Time `json:"lastCompletedAt,omitempty"`
	// workloads lists at most 10 workloads whose restart is not complete, those that need attention
	// first: failed, then blocked, overdue, in progress, rolling and pending ones.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=10
	Workloads []WorkloadRestart `json:"workloads,omitempty"`
}

// WorkloadRestartState is the state of a workload's restart.
//
// +kubebuilder:validation:Enum=Pending;Rolling;Blocked;InProgress;Overdue;Failed
type WorkloadRestartState string

// The states of workloads.
const (
	// WorkloadPending means that the workload waits for its turn.
	WorkloadPending WorkloadRestartState = "Pending"
	// WorkloadRolling means that the workload rolls for another reason, and the operator waits for
	// it.
	WorkloadRolling WorkloadRestartState = "Rolling"
	// WorkloadBlocked means that the workload cannot be restarted now.
	WorkloadBlocked WorkloadRestartState = "Blocked"
	// WorkloadInProgress means that the workload is being restarted.
	WorkloadInProgress WorkloadRestartState = "InProgress"
	// WorkloadOverdue means that the workload is being restarted and has exceeded its time.
	WorkloadOverdue WorkloadRestartState = "Overdue"
	// WorkloadFailed means that the rollout makes no progress any more.
	WorkloadFailed WorkloadRestartState = "Failed"
)

// WorkloadRestart is a workload whose restart is not complete.
type WorkloadRestart struct {
	// kind is the kind of the workload, such as Deployment.
	// +required
	Kind string `json:"kind"`
	// namespace is the namespace of the workload.
	// +required
	Namespace string `json:"namespace"`
	// name is the name of the workload.
	// +required
	Name string `json:"name"`
	// state is the state of its restart.
	// +required
	State WorkloadRestartState `json:"state"`
	// since is when its restart started. Before that, it is when the certificate or bundle that it
	// holds was replaced, or when the operator first observed that it rolls for another reason.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// until is when the operator stops waiting for the workload, even if it makes progress.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`
	// message explains the state, and what to do.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
}
