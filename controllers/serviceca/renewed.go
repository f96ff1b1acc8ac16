package serviceca

import (
	"fmt"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// A CA certificate that is renewed with the same key is not a lost key: the certificate that
// clients trust continues to be used until a rotation has published the new one.

// revertRenewed drops a certificate that an administrator put into the signing-key Secret when
// another CA is about to replace the active one, or when the certificate will never be usable.
func (p *changePlan) revertRenewed(in observed, state *rotation.State) {
	var reason string
	source := in.serviceCA.Spec.Source.Secret
	switch {
	case state.Renewed == nil:
		return
	case state.Next != nil:
		reason = fmt.Sprintf("a rotation to %s is under way", state.Next.Name())
	case source != nil:
		reason = fmt.Sprintf("the CA comes from Secret %s: put a renewed certificate there", source.Name)
	default:
		err := in.useless(state.Renewed)
		if err == nil {
			return
		}
		reason = err.Error()
	}
	state.Renewed = nil
	p.events = append(p.events, revertedEvent(in.serviceCA, reason))
}

// useless returns why a certificate has expired or is too weak; nil for one that is valid, or not
// valid yet.
func (in observed) useless(renewed *rotation.Signer) error {
	if certificate := renewed.Certificate(); !in.now.Before(certificate.NotAfter) {
		return in.checkValidity(certificate)
	}
	return renewed.CheckStrength()
}

// renewedSuccessor returns the certificate that an administrator put into the signing-key Secret as
// the successor of the present one.
func (in observed) renewedSuccessor(renewed *rotation.Signer) successor {
	if err := in.checkValidity(renewed.Certificate()); err != nil {
		return blockedSuccessor(&problem{reason: reasonSourceInvalid, message: fmt.Sprintf("Secret %s: tls.crt was replaced by hand, and %v: replace it again; "+
			"the certificate before it is used until then", in.serviceCA.SigningKeySecretName(), err)})
	}
	return successor{signer: renewed, cause: v1alpha1.RotationSourceChanged}
}

// compromiseRequested reports whether a rotation is due because the key of the active CA was
// compromised.
func (in observed) compromiseRequested(state *rotation.State) bool {
	spec := in.serviceCA.Spec.Rotation
	return spec.Trigger != "" && spec.Trigger != state.Trigger && spec.TriggerReason == v1alpha1.TriggerCompromise
}

// withLastCertificate returns the CA that signed last according to the status, when it has the key
// of signer. The result has the certificate that clients trust, or that of signer when it chains to
// the same root. It returns nil when the keys differ.
func (in observed) withLastCertificate(signer *rotation.Signer) *rotation.Signer {
	status := in.serviceCA.Status
	last := status.Active
	if last == nil && len(status.Previous) > 0 {
		// The key of that CA was lost, and no CA has signed since.
		last = &status.Previous[0]
	}
	switch {
	case last == nil:
		return nil
	case last.Fingerprint == signer.Fingerprint():
		return signer
	}
	for _, p := range in.recoveredRoots() {
		if pki.Fingerprint(p.Root) != last.Fingerprint {
			continue
		}
		if authority, err := signer.WithCertificate(p.Root); err == nil {
			return &rotation.Signer{Authority: authority, Root: p.Root, Source: signer.Source}
		}
	}
	if len(signer.Chain()) > 0 && last.SubjectKeyID == pki.KeyID(signer.Certificate().SubjectKeyId) && in.isKnownRoot(signer.Root) {
		return signer
	}
	return nil
}
