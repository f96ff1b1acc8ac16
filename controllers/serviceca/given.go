package serviceca

import (
	"context"
	"time"

	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
	"github.com/servingcert/operator/controllers/signing"
	"github.com/servingcert/operator/controllers/trust"
)

// retryUnseen is how often certificates are counted again that are not known yet.
const retryUnseen = 5 * time.Second

// countGiven counts the live certificates that requests got and that the CA which signs now did not
// sign.
func (r *Reconciler) countGiven(ctx context.Context, ca string, state *rotation.State, seen *evidence) error {
	given, known, err := r.Given(ctx, ca)
	seen.RequestsUnseen = !known
	now := r.Clock.Now()
	for _, one := range given {
		if !now.Before(one.NotAfter) {
			continue
		}
		switch r.standing(one, state) {
		case former:
			seen.Requests++
			seen.RequestNames = trust.Some(seen.RequestNames, one.Renew)
		case unknown:
			seen.unverified++
			seen.unverifiedNames = trust.Some(seen.unverifiedNames, one.Renew)
		case active:
		}
	}
	return err
}

// standing is which CA signed a certificate.
type standing int

const (
	// active is the CA that signs now.
	active standing = iota
	// former is one before it whose root is still trusted.
	former
	// unknown is any other.
	unknown
)

// standing returns which CA signed a certificate. Of a former CA below a root only the key id is
// known.
func (r *Reconciler) standing(given signing.Given, state *rotation.State) standing {
	mayBeBelow := state.Active != nil && !state.Active.Root.Equal(state.Active.Certificate())
	if state.Active != nil && given.IssuedBy(state.Active.Certificate(), r.Signatures) == nil {
		return active
	}
	for _, before := range state.Previous {
		isRoot := before.KeyID == pki.KeyID(before.Root.SubjectKeyId)
		if isRoot && given.IssuedBy(before.Root, r.Signatures) == nil {
			return former
		}
		if !isRoot && before.KeyID == pki.KeyID(given.AuthorityKeyId) {
			return former
		}
		mayBeBelow = mayBeBelow || !isRoot
	}
	if mayBeBelow {
		// Another CA below the same root may have signed it, of which nothing is kept.
		return former
	}
	return unknown
}
