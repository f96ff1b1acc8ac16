package serviceca

import (
	"context"
	"time"

	"github.com/servingcert/operator/controllers/certrequest"
	"github.com/servingcert/operator/controllers/injector"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// retryUnknown is how often certificates that are not known yet are counted again.
const retryUnknown = 5 * time.Second

// countIssued counts the live certificates issued for requests that the active CA did not sign.
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

// signerGeneration is the generation of the CA that signed a certificate.
type signerGeneration int

const (
	// active is the CA that signs now.
	active signerGeneration = iota
	// former is a predecessor whose root is still trusted.
	former
	// unknown is any other CA.
	unknown
)

// generationOf returns the generation of the CA that signed a certificate. Of a former intermediate
// CA, only the key ID is known.
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
		// Another intermediate below the same root may have signed it; the operator keeps no record of
		// such CAs.
		return former
	}
	return unknown
}
