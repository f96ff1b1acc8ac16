package serviceca

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// TestSimulationCatchesMutants checks that the simulation detects faults of the operator: each of
// these mutants fails.
func TestSimulationCatchesMutants(t *testing.T) {
	for name, broken := range map[string]mutant{
		"Publishing is skipped": {evidence: func(evidence *clusterEvidence) { evidence.OutOfDate = 0 }},
		"Propagating is skipped": {in: func(in *observed) {
			in.serviceCA.Spec.Rotation.Propagation.Minimum = "0s"
		}},
		"the old root goes at the switch": {out: func(_ observed, state *rotation.State) {
			if state.Phase == v1alpha1.PhaseReissuing {
				state.Previous = nil
			}
		}},
		"a root goes when its certificates are reissued": {out: func(_ observed, state *rotation.State) {
			for i := range state.Previous {
				state.Previous[i].Compromised = true
			}
		}},
		"a root goes while its certificates are alive": {in: func(in *observed) {
			in.serviceCA.Spec.Rotation.PreviousTrust = v1alpha1.TrustUntilUnused
		}, out: func(in observed, state *rotation.State) {
			for i := range state.Previous {
				state.Previous[i].SignedUntil = in.now.Add(time.Hour)
			}
		}},
		"a compromised CA goes before its certificates": {evidence: func(evidence *clusterEvidence) { evidence.Outstanding = 0 }, in: func(in *observed) {
			in.serviceCA.Spec.Rotation.TriggerReason = v1alpha1.TriggerCompromise
		}},
		"the cross-signed certificate is another's":            {out: crossSignedByAnother},
		"the CA is cross-signed, and not its root":             {seed: 9695307100200764114, out: crossSignsBelowTheRoot},
		"a root goes while certificates lead to it":            {seed: 8, out: neverLater},
		"what was published is lost with the key":              {in: func(in *observed) { in.published, in.injectedBundles = nil, nil }},
		"a lost key's successor signs at once":                 {out: signsAtOnce},
		"the local clock is believed":                          {seed: 1162753235293605394, localClock: true},
		"a target is never written":                            {evidence: func(evidence *clusterEvidence) { evidence.OutOfDate++ }},
		"a certificate is never reissued":                      {seed: 1162753235293605394, evidence: func(evidence *clusterEvidence) { evidence.Outstanding++ }},
		"clients that have to be restarted are not waited for": {seed: 1162753235293605394, evidence: func(evidence *clusterEvidence) { evidence.Restarts = rotation.Restarts{} }},
		"nobody is told to read the bundle again": {out: func(_ observed, state *rotation.State) {
			state.TrustChangedAt, state.TrustChanging = time.Time{}, false
		}},
		"a restored CA signs, whether trusted or not": {seed: 1162753235293605394, in: func(in *observed) { in.serviceCA.Status.Rotation, in.serviceCA.Status.Active = nil, nil }},
	} {
		t.Run(name, func(t *testing.T) {
			// The mutant's own seed, which detects it soonest, is first. New seeds follow in case the known
			// ones no longer detect it.
			for _, seed := range append([]uint64{cmp.Or(broken.seed, 1), 1, 1162753235293605394, 5, 7, 9695307100200764114, 2, 3, 4, 6, 8}, seeds(t, 40)...) {
				if _, err := simulate(t, seed, broken); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("nobody noticed")
		})
	}
}

// crossSignedByAnother replaces the cross-signed certificate with one that looks right but is
// signed with another key.
func crossSignedByAnother(in observed, state *rotation.State) {
	if state.Next == nil || state.Active == nil || len(state.Next.CrossSigned()) == 0 {
		return
	}
	pair, err := pki.GenerateRoot(in.now, pki.RootSpec{CommonName: "another", Duration: time.Hour, Key: pki.KeySpec{Algorithm: v1alpha1.Ed25519}})
	if err != nil {
		panic(err)
	}
	another, err := pki.LoadAuthority(pair)
	if err != nil {
		panic(err)
	}
	crossSigned, err := another.CrossSign(state.Next.Authority, state.Next.Root, another.Certificate())
	if err != nil {
		panic(err)
	}
	state.Next.Authority = state.Next.WithCrossSigned(crossSigned)
}

// crossSignsBelowTheRoot makes servers send two certificates for the next CA when that is an
// intermediate: it cross-signs the CA and not its root.
func crossSignsBelowTheRoot(_ observed, state *rotation.State) {
	if state.Next == nil || state.Active == nil || len(state.Next.CrossSigned()) == 0 {
		return
	}
	crossSigned, err := state.Active.CrossSign(state.Next.Authority, state.Next.Certificate(), state.Active.Root)
	if err != nil {
		panic(err)
	}
	state.Next.Authority = state.Next.WithCrossSigned(crossSigned)
}

// neverLater drops a root once the certificates issued by its CA have expired, even when other
// certificates still chain to it.
func neverLater(in observed, state *rotation.State) {
	before := stateOf(in.now, in.secret)
	for i, p := range state.Previous {
		if known := slices.IndexFunc(before.Previous, func(b rotation.Predecessor) bool { return b.Root.Equal(p.Root) }); known >= 0 {
			state.Previous[i].SignedUntil = before.Previous[known].SignedUntil
		}
	}
}

// signsAtOnce lets the successor of a lost key sign before its root is published.
func signsAtOnce(_ observed, state *rotation.State) {
	if state.Active == nil && state.Next != nil {
		state.Active, state.Next, state.Phase = state.Next, nil, v1alpha1.PhaseReissuing
	}
}
