package serviceca

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// Reasons of the Events about a CA and its rotation.
const (
	eventCACreated       = "CACreated"
	eventSigningKeyLost  = "SigningKeyLost"
	eventKeyRestored     = "SigningKeyRestored"
	eventRotationStarted = "RotationStarted"
	eventBundlePublished = "BundlePublished"
	eventSignerSwitched  = "SignerSwitched"
	eventReissued        = "CertificatesReissued"
	eventRotationEnded   = "RotationCompleted"
	eventRootRetired     = "RootRetired"

	eventCertificatePutBack = "CertificatePutBack"
	eventCertificateRenewed = "CertificateRenewed"

	eventRequestRefused = "RequestRefused"
)

// rotationEvent is an Event about a ServiceCA.
type rotationEvent struct {
	kind, reason, message string
}

// lostEvent returns the Event for a new CA: the first one, or one that replaces a CA whose key was
// lost.
func lostEvent(ca *v1alpha1.ServiceCA, state *rotation.State, reason string) rotationEvent {
	before := ca.Status.Active
	switch {
	case state.Active != nil && before == nil:
		return rotationEvent{corev1.EventTypeNormal, eventCACreated, state.Active.Name() + " signs from now on"}
	case state.Active != nil:
		return rotationEvent{corev1.EventTypeWarning, eventSigningKeyLost, fmt.Sprintf("the signing key and the published bundle of %s were lost: %s took over, "+
			"and clients with the new bundle do not trust %s any more", before.Subject, state.Active.Name(), before.Subject)}
	}
	return rotationEvent{corev1.EventTypeWarning, eventSigningKeyLost, fmt.Sprintf("the signing key was lost (%s): %s is published now, and signs once clients "+
		"have read it; certificates that are there stay trusted, and none is renewed until then", reason, state.Next.Name())}
}

func (in observed) restoredEvent(state *rotation.State) rotationEvent {
	if last := in.serviceCA.Status.Active; last != nil && !state.Restored && !sameSigner(last, state.Active) {
		return rotationEvent{corev1.EventTypeNormal, eventCertificateRenewed, state.Active.Name() + " signs with another certificate for the same key"}
	}
	note := state.Active.Name() + " signs again, from a backup"
	if state.Restored {
		note += "; another CA had taken over from it: a rotation replaces both by a new one"
	}
	return rotationEvent{corev1.EventTypeWarning, eventKeyRestored, note}
}

func revertedEvent(ca *v1alpha1.ServiceCA, reason string) rotationEvent {
	return rotationEvent{corev1.EventTypeWarning, eventCertificatePutBack, fmt.Sprintf(
		"tls.crt in Secret %s was replaced by hand, and is put back: %s", ca.SigningKeySecretName(), reason)}
}

func copiedEvent(state *rotation.State, reason string) rotationEvent {
	return rotationEvent{corev1.EventTypeWarning, eventKeyRestored, fmt.Sprintf("%s signs on: our copy of it was lost (%s), and is made again from %s",
		state.Active.Name(), reason, state.Active.Source)}
}

// moveEvent returns the Event for a step of a rotation.
func moveEvent(before, after *rotation.State, decision rotation.Decision) rotationEvent {
	switch decision.Move {
	case rotation.Begin:
		return rotationEvent{corev1.EventTypeNormal, eventRotationStarted, fmt.Sprintf("%s: %s is published, before it takes over from %s",
			decision.Reason, after.Next.Name(), activeName(before))}
	case rotation.Propagate:
		return rotationEvent{corev1.EventTypeNormal, eventBundlePublished, fmt.Sprintf("every target carries %s: clients are given the time to read it", after.Next.Name())}
	case rotation.Switch:
		return rotationEvent{corev1.EventTypeNormal, eventSignerSwitched, fmt.Sprintf("%s signs, and the private key before it is destroyed; certificates are reissued over %s",
			after.Active.Name(), after.ReissueSpread.Round(time.Second))}
	case rotation.Retire:
		return rotationEvent{corev1.EventTypeNormal, eventReissued, fmt.Sprintf("every certificate is signed by %s", after.Active.Name())}
	case rotation.Complete:
		return rotationEvent{corev1.EventTypeNormal, eventRotationEnded, fmt.Sprintf("the rotation to %s is complete", after.Active.Name())}
	case rotation.DropRoots, rotation.TrimCrossSigned, rotation.RecordPropagated, rotation.NoMove:
	}
	return rotationEvent{corev1.EventTypeNormal, eventRootRetired, fmt.Sprintf("%d roots of CAs before %s left the bundle",
		len(before.Previous)-len(after.Previous), after.Active.Name())}
}

func activeName(state *rotation.State) string {
	if state.Active == nil {
		return "the one that was lost"
	}
	return state.Active.Name()
}
