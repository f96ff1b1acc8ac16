package serviceca

import (
	"fmt"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// A CA certificate that is renewed with the same key is no lost key: the certificate that clients know signs on, until a rotation has
// brought them the new one.

// putBack drops a certificate that was put into the signing-key Secret by hand where something else takes over from the active CA, or where it
// will never be of use.
func (s *step) putBack(in observed, state *rotation.State) {
	var why string
	source := in.serviceCA.Spec.Source.Secret
	switch {
	case state.Renewed == nil:
		return
	case state.Next != nil:
		why = fmt.Sprintf("a rotation to %s is under way", state.Next.Name())
	case source != nil:
		why = fmt.Sprintf("the CA comes from Secret %s: put a renewed certificate there", source.Name)
	default:
		err := in.useless(state.Renewed)
		if err == nil {
			return
		}
		why = err.Error()
	}
	state.Renewed = nil
	s.events = append(s.events, tellPutBack(in.serviceCA, why))
}

// useless returns why a certificate has expired or is too weak; nil for one that is valid, or is going to be.
func (in observed) useless(renewed *rotation.Signer) error {
	if certificate := renewed.Certificate(); !in.now.Before(certificate.NotAfter) {
		return in.checkValidity(certificate)
	}
	return renewed.CheckStrength()
}

// renewedSuccessor returns a certificate that was put into the signing-key Secret by hand, as what takes over from the one before it.
func (in observed) renewedSuccessor(renewed *rotation.Signer) successor {
	if err := in.checkValidity(renewed.Certificate()); err != nil {
		return blocked(&problem{reason: reasonSourceInvalid, message: fmt.Sprintf("Secret %s: tls.crt was replaced by hand, and %v: replace it again; "+
			"the certificate before it is used until then", in.serviceCA.SigningKeySecretName(), err)})
	}
	return successor{signer: renewed, cause: v1alpha1.RotationSourceChanged}
}

// compromising reports whether a rotation is due because the key of the active CA was compromised.
func (in observed) compromising(state *rotation.State) bool {
	spec := in.serviceCA.Spec.Rotation
	return spec.Trigger != "" && spec.Trigger != state.Trigger && spec.TriggerReason == v1alpha1.TriggerCompromise
}

// withLastCertificate returns the CA that signed last, as the status has it, where that has the key of another one: with the certificate that
// clients know, or with that of the other where it leads to the same root. It returns nil where the keys differ.
func (in observed) withLastCertificate(found *rotation.Signer) *rotation.Signer {
	status := in.serviceCA.Status
	last := status.Active
	if last == nil && len(status.Previous) > 0 {
		// Its key was lost, and nothing has been signed since.
		last = &status.Previous[0]
	}
	switch {
	case last == nil:
		return nil
	case last.Fingerprint == found.Fingerprint():
		return found
	}
	for _, p := range in.recovered() {
		if pki.Fingerprint(p.Root) != last.Fingerprint {
			continue
		}
		if authority, err := found.WithCertificate(p.Root); err == nil {
			return &rotation.Signer{Authority: authority, Root: p.Root, Source: found.Source}
		}
	}
	if len(found.Chain()) > 0 && last.SubjectKeyID == pki.KeyID(found.Certificate().SubjectKeyId) && in.knows(found.Root) {
		return found
	}
	return nil
}
