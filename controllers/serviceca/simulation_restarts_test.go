package serviceca

import (
	"maps"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// readsLate is how long after a change a starting process may still read the previous bundle.
const readsLate = 5 * time.Second

// restarter restarts the clients that read their bundle only once.
type restarter struct {
	// rng is separate, so that restarts do not change the other random decisions of a seed.
	rng *rand.Rand
	// looked is the time of the bundle change for which it last checked the clients; zero before the
	// first check.
	looked time.Time
	frozen map[*file]*process
}

// process is a client that reads its bundle once, when it starts.
type process struct {
	started time.Time
	held    version
	// excused is set when the client was not restarted for a change and no rotation waited for it.
	excused bool
}

func newRestarter(seed uint64) restarter {
	return restarter{rng: rand.New(rand.NewPCG(seed, 1)), frozen: map[*file]*process{}}
}

// bringOver restarts some of the clients that have to read the bundle again, and starts one for
// each target that has none.
func (sim *simulation) bringOver() {
	r := &sim.restarter
	changed := changedAt(sim.ca)
	r.looked = changed
	for _, target := range sim.targets {
		client := r.frozen[target]
		switch last := len(target.versions) - 1; {
		case target.content == nil:
			delete(r.frozen, target)
		case last < 0:
		case client == nil, client.old(changed) && (r.rng.IntN(3) == 0 || sim.now.Sub(changed) > 20*time.Minute):
			r.frozen[target] = &process{started: sim.now, held: target.versions[last]}
		}
	}
}

func (p *process) old(changed time.Time) bool {
	return !changed.IsZero() && p.started.Before(changed.Add(readsLate))
}

func changedAt(ca *v1alpha1.ServiceCA) time.Time {
	if bundle := ca.Status.TrustBundle; bundle != nil && bundle.ChangedAt != nil {
		return bundle.ChangedAt.Time
	}
	return time.Time{}
}

// awaited returns the restarts that a rotation waits for.
func (r restarter) awaited(changed time.Time) rotation.Restarts {
	restarts := rotation.Restarts{Unknown: !r.looked.Equal(changed)}
	for _, client := range r.frozen {
		if client.old(changed) {
			restarts.Clients++
			restarts.ClientNames = []string{"a client"}
		}
	}
	return restarts
}

// excuse marks the clients that a switch of the signer does not wait for, because the rotation is
// urgent or has waited for long enough.
func (r restarter) excuse(now time.Time, before, after *rotation.State, spec v1alpha1.CARotation) {
	if before.Next == nil || after.Next != nil || after.Phase != v1alpha1.PhaseReissuing {
		return
	}
	waited := now.Sub(before.Since) >= spec.Propagation.Minimum.Std()+rotation.ReissueTimeout
	if before.Active != nil {
		waited = before.Active.NotAfter().Sub(now) <= spec.RotateBefore.Std()/2 || now.Sub(before.Since) >= rotation.RestartTimeout
	}
	for _, client := range r.frozen {
		if client.old(after.TrustChangedAt) && (after.Compromise || waited) {
			client.excused = true
		}
	}
}

// frozen returns the clients that were restarted only when they had to be. It omits those with the
// same bundle as another client.
func (sim *simulation) frozen(others map[string]pki.Bundle) []*process {
	var found []*process
	seen := maps.Clone(others)
	for _, target := range sim.targets {
		client := sim.restarter.frozen[target]
		if client == nil || client.excused || seen[string(client.held.content)] != nil {
			continue
		}
		seen[string(client.held.content)] = client.held.roots
		found = append(found, client)
	}
	return found
}

// shakeHandsWithFrozen checks that the clients that need a restart to get a new bundle verify a
// server.
func (sim *simulation) shakeHandsWithFrozen(server leaf, clients []*process) {
	if sim.compromise(server.Leaf) {
		return
	}
	for _, client := range clients {
		sim.handshakes++
		if err := sim.verifies(server, client.held.roots, likeOpenSSL, likeGnuTLS); err != nil {
			sim.fail("a client that started %s with %s refuses a certificate of %s, made %s: %v",
				client.started.Format(time.DateTime), names(client.held.roots), server.Issuer.CommonName, server.IssuedAt(), err)
		}
	}
}

// stateOf returns the state in a signing-key Secret; an empty state when there is none.
func stateOf(now time.Time, secret *corev1.Secret) *rotation.State {
	if secret != nil {
		if read, _ := rotation.Read(now, secret); read != nil {
			return read
		}
	}
	return &rotation.State{}
}
