package serviceca

import (
	"context"
	"time"

	"github.com/servingcert/operator/controllers/certrequest"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// retryUnknown is how often certificates are counted again that are not known yet.
const retryUnknown = 5 * time.Second

// countIssued counts the live certificates that requests got and that the CA which signs now did not
// sign.
func (r *Reconciler) countIssued(ctx context.Context, ca string, state *rotation.State, evidence *clusterEvidence) error {
	issued, ok, err := r.IssuedCertificates(ctx, ca)
	evidence.RequestsUnknown = !ok
	now := r.Clock.Now()
	for _, certificate := range issued {
		if !now.Before(certificate.NotAfter) {
			continue
		}
		switch r.generationOf(certificate, state) {
		case former:
			evidence.Requests++
			evidence.RequestNames = injector.InsertSorted(evidence.RequestNames, certificate.RenewCommand)
		case unknown:
			evidence.unverified++
			evidence.unverifiedNames = injector.InsertSorted(evidence.unverifiedNames, certificate.RenewCommand)
		case active:
		}
	}
	return err
}

// signerGeneration is which CA signed a certificate.
type signerGeneration int

const (
	// active is the CA that signs now.
	active signerGeneration = iota
	// former is one before it whose root is still trusted.
	former
	// unknown is any other.
	unknown
)

// generationOf returns which CA signed a certificate. Of a former CA below a root only the key id is
// known.
func (r *Reconciler) generationOf(issued certrequest.Issued, state *rotation.State) signerGeneration {
	mayBeIntermediate := state.Active != nil && !state.Active.Root.Equal(state.Active.Certificate())
	if state.Active != nil && issued.CheckIssuer(state.Active.Certificate(), r.Signatures) == nil {
		return active
	}
	for _, predecessor := range state.Previous {
		isRoot := predecessor.KeyID == pki.KeyID(predecessor.Root.SubjectKeyId)
		if isRoot && issued.CheckIssuer(predecessor.Root, r.Signatures) == nil {
			return former
		}
		if !isRoot && predecessor.KeyID == pki.KeyID(issued.AuthorityKeyId) {
			return former
		}
		mayBeIntermediate = mayBeIntermediate || !isRoot
	}
	if mayBeIntermediate {
		// Another CA below the same root may have signed it, of which nothing is kept.
		return former
	}
	return unknown
}
