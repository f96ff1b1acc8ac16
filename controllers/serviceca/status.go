package serviceca

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/conditions"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
	"github.com/servingcert/operator/controllers/internal/text"
)

const (
	// maxPrevious is how many former CAs a status lists.
	maxPrevious = 64
	// maxBlockedBy is how many entries blockedBy has in a status.
	maxBlockedBy = 16
	// maxBlockedByBytes is the maximum length of each entry.
	maxBlockedByBytes = 1024
	// maxFailing is how many targets that cannot be written are named in a condition.
	maxFailing = 3
	// maxFingerprints is how many roots a status records.
	maxFingerprints = 128
)

// buildStatus returns the complete status of a ServiceCA.
func buildStatus(now time.Time, ca *v1alpha1.ServiceCA, plan changePlan, evidence clusterEvidence) v1alpha1.ServiceCAStatus {
	status := v1alpha1.ServiceCAStatus{}
	built := conditions.New(ca.Status.Conditions, ca.Generation, now)
	if plan.state == nil {
		// Keep what the status recorded about the CA: it is needed once the problem is corrected.
		ca.Status.DeepCopyInto(&status)
		if status.Rotation != nil && len(plan.blockedBy) > 0 {
			status.Rotation.BlockedBy = plan.blockedBy
		}
	} else {
		describeState(&status, ca, plan, evidence)
		reportTrust(built, evidence, meta.FindStatusCondition(ca.Status.Conditions, v1alpha1.ConditionTrustEstablished))
		reportRotation(built, plan)
		reportExpiry(built, now, &status, plan)
	}
	reportReady(built, &status, plan)
	status.ObservedGeneration = ca.Generation
	status.Conditions = built.List()
	return status
}

func reportReady(built *conditions.Builder, status *v1alpha1.ServiceCAStatus, plan changePlan) {
	conditionType := v1alpha1.ConditionStalled
	problem := plan.problem
	if problem == nil && status.Active == nil {
		problem = noSignerProblem(plan)
	}
	if problem == nil {
		message := fmt.Sprintf("%s signs until %s", status.Active.Subject, status.Active.NotAfter.UTC().Format(time.RFC3339))
		built.Set(v1alpha1.ConditionReady, true, reasonReady, message)
		return
	}
	if problem.transient {
		conditionType = v1alpha1.ConditionReconciling
	}
	built.Set(v1alpha1.ConditionReady, false, problem.reason, problem.message)
	built.Set(conditionType, true, problem.reason, problem.message)
}

// noSignerProblem returns the problem that no CA may sign for now.
func noSignerProblem(plan changePlan) *problem {
	return &problem{
		reason: eventSigningKeyLost, transient: true,
		message: "the signing key was lost, and its successor does not sign yet: " + strings.Join(plan.blockedBy, "; "),
	}
}

func describeState(status *v1alpha1.ServiceCAStatus, ca *v1alpha1.ServiceCA, plan changePlan, evidence clusterEvidence) {
	state := plan.state
	if state.Active != nil {
		status.Active = describeSigner(state.Active, evidence)
		status.Active.LongestDurationSeconds = new(int64((state.LongestDuration + time.Second - 1) / time.Second))
		status.NextRotationTime = new(metav1.NewTime(state.Active.NotAfter().Add(-observed{serviceCA: ca}.effectiveRotation(state).RotateBefore.Std())))
	}
	if state.Next != nil {
		status.Next = describeSigner(state.Next, evidence)
	}
	for _, previous := range state.Previous[:min(len(state.Previous), maxPrevious)] {
		before := generation(previous.Root, evidence.certificates[previous.KeyID])
		before.SignedUntil = new(metav1.NewTime(previous.SignedUntil))
		status.Previous = append(status.Previous, *before)
	}
	bundle := state.Bundle()
	status.TrustBundle = &v1alpha1.TrustBundleStatus{
		Hash: pki.Hash(bundle.Encode()), Certificates: int32(len(bundle)),
		Targets: evidence.targets.All, CurrentTargets: evidence.targets.Current, BlockedTargets: evidence.targets.Blocked,
		ChangedAt: timeOrNil(state.TrustChangedAt),
	}
	if evidence.clusterTrustBundle.served && evidence.clusterTrustBundle.rejection == "" {
		status.TrustBundle.ClusterTrustBundleName = ca.ClusterTrustBundleName()
	}
	for _, root := range bundle[:min(len(bundle), maxFingerprints)] {
		status.TrustBundle.Fingerprints = append(status.TrustBundle.Fingerprints, pki.Fingerprint(root))
	}
	status.Rotation = &v1alpha1.RotationStatus{
		Phase: state.Phase, LastTransitionTime: timeOrNil(state.Since), Trigger: state.Trigger, BlockedBy: truncatedBlockedBy(plan),
	}
	if state.Phase != v1alpha1.PhaseStable {
		status.Rotation.StartedAt, status.Rotation.Reason = timeOrNil(state.StartedAt), state.Reason
	}
}

// truncatedBlockedBy returns what a rotation waits for, bounded and printable, because the entries
// quote issuers and tenants.
func truncatedBlockedBy(plan changePlan) []string {
	var waits []string
	for _, wait := range plan.blockedBy[:min(len(plan.blockedBy), maxBlockedBy)] {
		waits = append(waits, text.Printable(wait, maxBlockedByBytes))
	}
	return waits
}

func timeOrNil(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &metav1.Time{Time: t}
}

func describeSigner(signer *rotation.Signer, evidence clusterEvidence) *v1alpha1.CAGeneration {
	described := generation(signer.Certificate(), evidence.certificates[pki.KeyID(signer.Certificate().SubjectKeyId)])
	described.Fingerprint, described.NotAfter = signer.Fingerprint(), metav1.NewTime(signer.NotAfter())
	return described
}

func generation(certificate *x509.Certificate, certificates int32) *v1alpha1.CAGeneration {
	return &v1alpha1.CAGeneration{
		Subject:      pki.NameOf(certificate),
		Fingerprint:  pki.Fingerprint(certificate),
		SerialNumber: certificate.SerialNumber.Text(16),
		SubjectKeyID: pki.KeyID(certificate.SubjectKeyId),
		NotBefore:    metav1.NewTime(certificate.NotBefore),
		NotAfter:     metav1.NewTime(certificate.NotAfter),
		Certificates: &certificates,
	}
}

// reportTrust sets the condition TrustEstablished. While the certificates issued for requests are
// not known, as after a restart, it keeps what the condition reported about them before.
func reportTrust(built *conditions.Builder, evidence clusterEvidence, before *metav1.Condition) {
	behind := evidence.targets.All - evidence.targets.Current - evidence.targets.Blocked
	untrusted := evidence.untrusted
	switch {
	case behind > 0:
		message := fmt.Sprintf("%d of %d targets do not carry the current bundle yet", behind, evidence.targets.All)
		if evidence.clusterTrustBundle.awaited {
			message += "; " + evidence.clusterTrustBundle.rejection
		}
		built.Set(v1alpha1.ConditionTrustEstablished, false, "TargetsBehind", message)
	case untrusted > 0:
		built.Set(v1alpha1.ConditionTrustEstablished, false, "CertificatesBehind",
			fmt.Sprintf("%d certificates were signed by a CA that is not in the bundle, and are being reissued", untrusted))
	case evidence.RequestsUnknown && before != nil:
		built.Set(before.Type, before.Status == metav1.ConditionTrue, before.Reason, before.Message)
	case evidence.unverified > 0:
		built.Set(v1alpha1.ConditionTrustEstablished, false, "CertificatesBehind",
			fmt.Sprintf("%d certificates that requests got were signed by a CA that is not in the bundle, and have to be renewed: %s",
				evidence.unverified, strings.Join(evidence.unverifiedNames, ", ")))
	case evidence.clusterTrustBundle.rejection != "":
		built.Set(v1alpha1.ConditionTrustEstablished, false, "TargetsBlocked", evidence.clusterTrustBundle.rejection)
	case evidence.unpublished != "":
		built.Set(v1alpha1.ConditionTrustEstablished, false, "TargetsBlocked", evidence.unpublished)
	case evidence.targets.Blocked > 0:
		message := fmt.Sprintf("%d of %d targets cannot be given the bundle: their annotation %s says what their owners have to do",
			evidence.targets.Blocked, evidence.targets.All, v1alpha1.AnnotationError)
		if failing := evidence.targets.Failing; len(failing) > 0 {
			message += "; the API server cannot write " + strings.Join(failing[:min(len(failing), maxFailing)], ", ")
		}
		built.Set(v1alpha1.ConditionTrustEstablished, false, "TargetsBlocked", message)
	default:
		built.Set(v1alpha1.ConditionTrustEstablished, true, "TrustEstablished",
			fmt.Sprintf("all %d targets carry the bundle, and every certificate chains to it", evidence.targets.All))
	}
}

// reportRotation sets the condition Rotating, with what the rotation waits for. For a rotation that
// has not started yet, it sets why.
func reportRotation(built *conditions.Builder, plan changePlan) {
	waits := strings.Join(plan.blockedBy, "; ")
	if phase := plan.state.Phase; phase != v1alpha1.PhaseStable {
		built.Set(v1alpha1.ConditionRotating, true, string(phase), cmp.Or(waits, "the next step follows at once"))
		return
	}
	built.Set(v1alpha1.ConditionRotating, false, string(v1alpha1.PhaseStable), cmp.Or(waits, "no rotation is on its way"))
}

// reportExpiry sets the condition ExpiringSoon. It is true when the rotation threshold has passed
// and either no successor is being prepared or rotations are paused.
func reportExpiry(built *conditions.Builder, now time.Time, status *v1alpha1.ServiceCAStatus, plan changePlan) {
	due := status.NextRotationTime != nil && !now.Before(status.NextRotationTime.Time)
	paused := len(plan.blockedBy) > 0 && plan.blockedBy[0] == rotation.PausedMessage
	if !due || (plan.state.IsPreparing() && !paused) {
		built.Set(v1alpha1.ConditionExpiringSoon, false, "NotDue", "the CA has longer to live than spec.rotation.rotateBefore, or its successor is on its way")
		return
	}
	built.Set(v1alpha1.ConditionExpiringSoon, true, "ThresholdPassed", strings.Join(append([]string{fmt.Sprintf(
		"less than spec.rotation.rotateBefore is left: the CA expires %s", status.Active.NotAfter.UTC().Format(time.RFC3339))}, plan.blockedBy...), "; "))
}
