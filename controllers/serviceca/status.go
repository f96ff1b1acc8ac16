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
	// maxPrevious is how many former generations a status lists.
	maxPrevious = 64
	// maxBlockedBy is how many sentences a status has of what is waited for.
	maxBlockedBy = 16
	// maxWait is how many bytes each of them has at most.
	maxWait = 1024
	// maxFailing is how many targets that cannot be written a condition names.
	maxFailing = 3
	// maxFingerprints is how many roots a status remembers.
	maxFingerprints = 128
)

// buildStatus is the whole status of a ServiceCA.
func buildStatus(now time.Time, ca *v1alpha1.ServiceCA, decided step, seen evidence) v1alpha1.ServiceCAStatus {
	status := v1alpha1.ServiceCAStatus{}
	built := conditions.New(ca.Status.Conditions, ca.Generation, now)
	if decided.state == nil {
		// What the CA was is remembered, so that nothing is forgotten once the problem is put right.
		ca.Status.DeepCopyInto(&status)
		if status.Rotation != nil && len(decided.blockedBy) > 0 {
			status.Rotation.BlockedBy = decided.blockedBy
		}
	} else {
		describe(&status, ca, decided, seen)
		reportTrust(built, seen, meta.FindStatusCondition(ca.Status.Conditions, v1alpha1.ConditionTrustEstablished))
		reportRotation(built, decided)
		reportExpiry(built, now, &status, decided)
	}
	reportReady(built, &status, decided)
	status.ObservedGeneration = ca.Generation
	status.Conditions = built.List()
	return status
}

func reportReady(built *conditions.Builder, status *v1alpha1.ServiceCAStatus, decided step) {
	standing := v1alpha1.ConditionStalled
	problem := decided.problem
	if problem == nil && status.Active == nil {
		problem = withoutSigner(decided)
	}
	if problem == nil {
		message := fmt.Sprintf("%s signs until %s", status.Active.Subject, status.Active.NotAfter.UTC().Format(time.RFC3339))
		built.Set(v1alpha1.ConditionReady, true, reasonReady, message)
		return
	}
	if problem.passing {
		standing = v1alpha1.ConditionReconciling
	}
	built.Set(v1alpha1.ConditionReady, false, problem.reason, problem.message)
	built.Set(standing, true, problem.reason, problem.message)
}

// withoutSigner tells that nobody may sign for now.
func withoutSigner(decided step) *problem {
	return &problem{
		reason: eventSigningKeyLost, passing: true,
		message: "the signing key was lost, and its successor does not sign yet: " + strings.Join(decided.blockedBy, "; "),
	}
}

func describe(status *v1alpha1.ServiceCAStatus, ca *v1alpha1.ServiceCA, decided step, seen evidence) {
	state := decided.state
	if state.Active != nil {
		status.Active = describeSigner(state.Active, seen)
		status.Active.LongestDurationSeconds = new(int64((state.Longest + time.Second - 1) / time.Second))
		status.NextRotationTime = new(metav1.NewTime(state.Active.NotAfter().Add(-observed{serviceCA: ca}.threshold(state).RotateBefore.Std())))
	}
	if state.Next != nil {
		status.Next = describeSigner(state.Next, seen)
	}
	for _, previous := range state.Previous[:min(len(state.Previous), maxPrevious)] {
		before := generation(previous.Root, seen.certificates[previous.KeyID])
		before.SignedUntil = new(metav1.NewTime(previous.SignedUntil))
		status.Previous = append(status.Previous, *before)
	}
	bundle := state.Bundle()
	status.TrustBundle = &v1alpha1.TrustBundleStatus{
		Hash: pki.Hash(bundle.Encode()), Certificates: int32(len(bundle)),
		Targets: seen.targets.All, CurrentTargets: seen.targets.Current, BlockedTargets: seen.targets.Blocked,
		ChangedAt: timeOrNil(state.TrustChangedAt),
	}
	if seen.clusterBundle.served && seen.clusterBundle.refused == "" {
		status.TrustBundle.ClusterTrustBundleName = ca.ClusterTrustBundleName()
	}
	for _, root := range bundle[:min(len(bundle), maxFingerprints)] {
		status.TrustBundle.Fingerprints = append(status.TrustBundle.Fingerprints, pki.Fingerprint(root))
	}
	status.Rotation = &v1alpha1.RotationStatus{
		Phase: state.Phase, LastTransitionTime: timeOrNil(state.Since), Trigger: state.Trigger, BlockedBy: waits(decided),
	}
	if state.Phase != v1alpha1.PhaseStable {
		status.Rotation.StartedAt, status.Rotation.Reason = timeOrNil(state.StartedAt), state.Reason
	}
}

// waits returns what a rotation waits for, in which issuers and tenants are quoted.
func waits(decided step) []string {
	var waits []string
	for _, wait := range decided.blockedBy[:min(len(decided.blockedBy), maxBlockedBy)] {
		waits = append(waits, text.Printable(wait, maxWait))
	}
	return waits
}

func timeOrNil(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &metav1.Time{Time: t}
}

func describeSigner(signer *rotation.Signer, seen evidence) *v1alpha1.CAGeneration {
	described := generation(signer.Certificate(), seen.certificates[pki.KeyID(signer.Certificate().SubjectKeyId)])
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

// reportTrust reports whether everything trusts the bundle. While it is not known what requests got,
// as after a restart, it says of their certificates what it said before.
func reportTrust(built *conditions.Builder, seen evidence, before *metav1.Condition) {
	behind := seen.targets.All - seen.targets.Current - seen.targets.Blocked
	strangers := seen.strangers
	switch {
	case behind > 0:
		message := fmt.Sprintf("%d of %d targets do not carry the current bundle yet", behind, seen.targets.All)
		if seen.clusterBundle.awaited {
			message += "; " + seen.clusterBundle.refused
		}
		built.Set(v1alpha1.ConditionTrustEstablished, false, "TargetsBehind", message)
	case strangers > 0:
		built.Set(v1alpha1.ConditionTrustEstablished, false, "CertificatesBehind",
			fmt.Sprintf("%d certificates were signed by a CA that is not in the bundle, and are being reissued", strangers))
	case seen.RequestsUnseen && before != nil:
		built.Set(before.Type, before.Status == metav1.ConditionTrue, before.Reason, before.Message)
	case seen.unverified > 0:
		built.Set(v1alpha1.ConditionTrustEstablished, false, "CertificatesBehind",
			fmt.Sprintf("%d certificates that requests got were signed by a CA that is not in the bundle, and have to be renewed: %s",
				seen.unverified, strings.Join(seen.unverifiedNames, ", ")))
	case seen.clusterBundle.refused != "":
		built.Set(v1alpha1.ConditionTrustEstablished, false, "TargetsBlocked", seen.clusterBundle.refused)
	case seen.unpublished != "":
		built.Set(v1alpha1.ConditionTrustEstablished, false, "TargetsBlocked", seen.unpublished)
	case seen.targets.Blocked > 0:
		message := fmt.Sprintf("%d of %d targets cannot be given the bundle: their annotation %s says what their owners have to do",
			seen.targets.Blocked, seen.targets.All, v1alpha1.AnnotationError)
		if failing := seen.targets.Failing; len(failing) > 0 {
			message += "; the API server cannot write " + strings.Join(failing[:min(len(failing), maxFailing)], ", ")
		}
		built.Set(v1alpha1.ConditionTrustEstablished, false, "TargetsBlocked", message)
	default:
		built.Set(v1alpha1.ConditionTrustEstablished, true, "TrustEstablished",
			fmt.Sprintf("all %d targets carry the bundle, and every certificate chains to it", seen.targets.All))
	}
}

// reportRotation says that a rotation is under way, and what it waits for. Of one that only waits to begin, it says why.
func reportRotation(built *conditions.Builder, decided step) {
	waits := strings.Join(decided.blockedBy, "; ")
	if phase := decided.state.Phase; phase != v1alpha1.PhaseStable {
		built.Set(v1alpha1.ConditionRotating, true, string(phase), cmp.Or(waits, "the next step follows at once"))
		return
	}
	built.Set(v1alpha1.ConditionRotating, false, string(v1alpha1.PhaseStable), cmp.Or(waits, "no rotation is on its way"))
}

// reportExpiry warns where the threshold has passed and nothing is done about it.
func reportExpiry(built *conditions.Builder, now time.Time, status *v1alpha1.ServiceCAStatus, decided step) {
	due := status.NextRotationTime != nil && !now.Before(status.NextRotationTime.Time)
	paused := len(decided.blockedBy) > 0 && decided.blockedBy[0] == rotation.Paused
	if !due || (decided.state.Preparing() && !paused) {
		built.Set(v1alpha1.ConditionExpiringSoon, false, "NotDue", "the CA has longer to live than spec.rotation.rotateBefore, or its successor is on its way")
		return
	}
	built.Set(v1alpha1.ConditionExpiringSoon, true, "ThresholdPassed", strings.Join(append([]string{fmt.Sprintf(
		"less than spec.rotation.rotateBefore is left: the CA expires %s", status.Active.NotAfter.UTC().Format(time.RFC3339))}, decided.blockedBy...), "; "))
}
