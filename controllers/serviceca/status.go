package serviceca

import (
	"crypto/x509"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/conditions"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/trust"
)

// maxPrevious is how many former generations a status lists.
const maxPrevious = 64

// evidence is what the status reports of the world outside the signing-key Secret.
type evidence struct {
	targets trust.Targets
	// certificates counts the live serving certificates by the subject key id of the CA that signed them.
	certificates map[string]int32
}

// buildStatus is the whole status of a ServiceCA.
func buildStatus(now time.Time, ca *v1alpha1.ServiceCA, decided step, seen evidence) v1alpha1.ServiceCAStatus {
	status := v1alpha1.ServiceCAStatus{}
	built := conditions.New(ca.Status.Conditions, ca.Generation, now)
	if decided.state == nil {
		// What the CA was is remembered, so that nothing is forgotten once the problem is put right.
		ca.Status.DeepCopyInto(&status)
	} else {
		describe(&status, ca, decided.state, seen)
		reportTrust(built, ca.Spec.Rotation, &status, decided.state, seen)
		reportExpiry(built, now, &status)
	}
	reportReady(built, ca, &status, decided)
	status.ObservedGeneration = ca.Generation
	status.Conditions = built.List()
	return status
}

func reportReady(built *conditions.Builder, ca *v1alpha1.ServiceCA, status *v1alpha1.ServiceCAStatus, decided step) {
	if problem := decided.problem; problem != nil {
		built.Set(v1alpha1.ConditionReady, false, problem.reason, problem.message)
		standing := v1alpha1.ConditionStalled
		if problem.passing {
			standing = v1alpha1.ConditionReconciling
		}
		built.Set(standing, true, problem.reason, problem.message)
		return
	}
	message := fmt.Sprintf("%s signs until %s", status.Active.Subject, status.Active.NotAfter.UTC().Format(time.RFC3339))
	if ca.Spec.Source.Secret == nil && decided.state.source != selfSigned {
		message += fmt.Sprintf("; it came from %s, which spec.source no longer names: delete Secret %s to begin a CA of the operator's own",
			decided.state.source, ca.SigningKeySecretName())
	}
	built.Set(v1alpha1.ConditionReady, true, reasonReady, message)
}

func describe(status *v1alpha1.ServiceCAStatus, ca *v1alpha1.ServiceCA, current *state, seen evidence) {
	active := current.authority.Certificate()
	status.Active = generation(active, seen)
	status.Active.Fingerprint = current.authority.Fingerprint()
	for _, root := range current.bundle {
		// The root of an intermediate CA is trusted, and signs nothing here.
		if root.Equal(active) || (len(current.authority.Chain()) > 0 && root.Equal(current.bundle[0])) {
			continue
		}
		if len(status.Previous) < maxPrevious {
			status.Previous = append(status.Previous, *generation(root, seen))
		}
	}
	encoded := current.bundle.Encode()
	status.TrustBundle = &v1alpha1.TrustBundleStatus{
		Hash: pki.Hash(encoded), Certificates: int32(len(current.bundle)),
		Targets: seen.targets.All, CurrentTargets: seen.targets.Current,
	}
	status.Rotation = &v1alpha1.RotationStatus{Phase: v1alpha1.PhaseStable}
	status.NextRotationTime = new(metav1.NewTime(active.NotAfter.Add(-ca.Spec.Rotation.RotateBefore.Std())))
}

func generation(certificate *x509.Certificate, seen evidence) *v1alpha1.CAGeneration {
	keyID := pki.KeyID(certificate.SubjectKeyId)
	return &v1alpha1.CAGeneration{
		Subject:      pki.NameOf(certificate),
		Fingerprint:  pki.Fingerprint(certificate),
		SerialNumber: certificate.SerialNumber.Text(16),
		SubjectKeyID: keyID,
		NotBefore:    metav1.NewTime(certificate.NotBefore),
		NotAfter:     metav1.NewTime(certificate.NotAfter),
		Certificates: new(seen.certificates[keyID]),
	}
}

func reportTrust(built *conditions.Builder, spec v1alpha1.CARotation, status *v1alpha1.ServiceCAStatus, current *state, seen evidence) {
	behind := seen.targets.All - seen.targets.Current - seen.targets.Blocked
	strangers := int32(0)
	for keyID, count := range seen.certificates {
		if keyID != status.Active.SubjectKeyID && !current.bundle.Contains(keyID) {
			strangers += count
		}
	}
	switch {
	case behind > 0:
		built.Set(v1alpha1.ConditionTrustEstablished, false, "TargetsBehind",
			fmt.Sprintf("%d of %d targets do not carry the current bundle yet", behind, seen.targets.All))
	case strangers > 0:
		built.Set(v1alpha1.ConditionTrustEstablished, false, "CertificatesBehind",
			fmt.Sprintf("%d certificates were signed by a CA that is not in the bundle, and are being reissued", strangers))
	case seen.targets.Blocked > 0:
		built.Set(v1alpha1.ConditionTrustEstablished, false, "TargetsBlocked", fmt.Sprintf(
			"%d of %d targets cannot be given the bundle: their annotation %s says what their owners have to do",
			seen.targets.Blocked, seen.targets.All, v1alpha1.AnnotationError))
	default:
		built.Set(v1alpha1.ConditionTrustEstablished, true, "TrustEstablished",
			fmt.Sprintf("all %d targets carry the bundle, and every certificate chains to it", seen.targets.All))
	}
	built.Set(v1alpha1.ConditionRotating, false, "Stable", rotating(spec))
}

// rotating says that nothing rotates, above all to whoever asked for it.
func rotating(spec v1alpha1.CARotation) string {
	if spec.Trigger != "" {
		return "no rotation is on its way: this version does not act on spec.rotation.trigger"
	}
	return "no rotation is on its way"
}

func reportExpiry(built *conditions.Builder, now time.Time, status *v1alpha1.ServiceCAStatus) {
	if now.Before(status.NextRotationTime.Time) {
		built.Set(v1alpha1.ConditionExpiringSoon, false, "NotDue", "the CA has longer to live than spec.rotation.rotateBefore")
		return
	}
	built.Set(v1alpha1.ConditionExpiringSoon, true, "ThresholdPassed", fmt.Sprintf(
		"less than spec.rotation.rotateBefore is left: the CA expires %s", status.Active.NotAfter.UTC().Format(time.RFC3339)))
}
