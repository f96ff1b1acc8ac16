package serviceca

import (
	"bytes"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// intent is the decision of a manager, based on one version of the Secret and of the status.
type intent struct {
	in       observed
	plan     changePlan
	evidence clusterEvidence
	version  int
}

// decide observes and plans, as Reconciler.decide does. It reports false when the clock is too far
// ahead.
func (sim *simulation) decide() (intent, bool) {
	in := observed{
		now: sim.now.Add(sim.clockError), serviceCA: sim.ca.DeepCopy(), secret: sim.secret, published: sim.published.content, sourceSecret: sim.sourceSecret,
		longestDuration: sim.policy.Spec.Certificate.Duration.Std(),
	}
	for _, target := range sim.targets {
		in.injectedBundles = append(in.injectedBundles, target.content)
	}
	sim.mutant.observes(&in)
	resolved := resolve(in)
	evidence := sim.collectEvidence(resolved)
	sim.mutant.sees(&evidence)
	plan := makePlan(in, resolved, evidence)
	if plan.secret != nil || in.clockIsBehind(resolved) {
		if sim.clockError > maxClockError && !sim.mutant.localClock {
			return intent{}, false
		}
		if in.now = sim.now; sim.mutant.localClock {
			// The clock jumps repeatedly.
			in.now = sim.now.Add(time.Duration(sim.rng.IntN(20)) * time.Minute)
		}
		plan = makePlan(in, resolve(in), evidence)
	}
	sim.mutant.decides(in, &plan)
	return intent{in, plan, evidence, sim.version}, true
}

// execute writes the Secret, the bundle and the status, in this order, until the crash: dies is how
// many of these writes come first. The Secret and the bundle are written only over the version on
// which the decision was based.
func (sim *simulation) execute(i intent, dies int) {
	plan := i.plan
	if plan.secret != nil {
		if i.version != sim.version || dies == 0 {
			return
		}
		sim.remember(i)
		sim.secret = plan.secret.DeepCopy()
		sim.version++
		i.version = sim.version
	} else if len(plan.events) > 0 {
		sim.fail("%s is recorded though nothing is written, and would be again", plan.events[0].reason)
	}
	if plan.state == nil {
		sim.report(i)
		return
	}
	if bundle := plan.state.Bundle().Encode(); !bytes.Equal(sim.published.content, bundle) {
		if i.version != sim.version || dies == 1 {
			return
		}
		if err := sim.published.write(sim.now, bundle); err != nil {
			sim.fail("%v", err)
		}
	}
	if dies != 2 {
		sim.report(i)
	}
}

func (sim *simulation) report(i intent) {
	sim.ca = sim.ca.DeepCopy()
	sim.ca.Status = buildStatus(i.in.now, i.in.serviceCA, i.plan, i.evidence)
}

// remember records what the simulation has to know about a state before it is written.
func (sim *simulation) remember(i intent) {
	for _, happened := range i.plan.events {
		sim.note("%s: %s", happened.reason, happened.message)
	}
	state := i.plan.state
	sim.outage(i)
	if lost := func(h rotationEvent) bool { return h.reason == eventSigningKeyLost || h.reason == eventKeyRestored }; i.in.secret == nil || slices.ContainsFunc(i.plan.events, lost) {
		// The cross-signed certificates are lost with the Secret.
		clear(sim.crossSigned)
	}
	if next := state.Next; next != nil && state.Active != nil && len(next.CrossSigned()) > 0 {
		sim.crossSigned[pki.KeyID(next.Certificate().SubjectKeyId)] = crossSignedPath{state.Active.Root, sim.now, len(next.CrossSigned()) > 1}
	}
	if state.Active != nil {
		sim.rootOf[pki.KeyID(state.Active.Certificate().SubjectKeyId)] = pki.Fingerprint(state.Active.Root)
	}
	if state.Phase == v1alpha1.PhaseReissuing && state.Compromise {
		for _, previous := range state.Previous {
			sim.compromised[pki.Fingerprint(previous.Root)] = true
		}
	}
	if i.in.secret != nil && state.Phase == v1alpha1.PhaseReissuing {
		sim.destroyed(i)
	}
}

// compromise reports whether a leaf chains to a root that is to be distrusted.
func (sim *simulation) compromise(l *pki.Leaf) bool {
	return sim.compromised[sim.rootOf[pki.KeyID(l.AuthorityKeyId)]]
}

// outage forgets the bundles that clients have when no certificate is valid any more: servers and
// clients then wait for new files, which shortens the outage.
func (sim *simulation) outage(i intent) {
	state := i.plan.state
	before := stateOf(i.in.now, i.in.secret)
	sim.restarter.excuse(sim.now, before, state, i.in.serviceCA.Spec.Rotation)
	leafValid := (i.in.secret != nil && before.AnyLeafValid(i.in.now)) || slices.ContainsFunc(state.Previous, func(p rotation.Predecessor) bool {
		return i.in.now.Before(p.SignedUntil)
	})
	// With roots that have expired no client verifies anything, whichever certificate was put into
	// tls.crt by hand in the meantime.
	rootValid := false
	for _, roots := range sim.clients() {
		rootValid = rootValid || len(roots.Unexpired(sim.now)) > 0
	}
	if state.Active == nil || (leafValid && rootValid) {
		return
	}
	for _, f := range append([]*file{sim.published}, sim.targets...) {
		f.versions = nil
	}
	clear(sim.restarter.frozen)
}

// destroyed checks that the Secret no longer holds a private key that has been replaced.
func (sim *simulation) destroyed(i intent) {
	before, err := rotation.Read(i.in.now, i.in.secret)
	if err != nil || before.Active == nil || before.Active.HasKey(i.plan.state.Active.Certificate()) {
		return
	}
	for key, value := range i.plan.secret.Data {
		if bytes.Contains(value, i.in.secret.Data[corev1.TLSPrivateKeyKey]) {
			sim.fail("%s holds the private key of a CA that signs no more", key)
		}
	}
}

// serviceCAController reconciles until there is nothing left to write, or until a crash.
func (sim *simulation) serviceCAController() {
	for range 1 + sim.rng.IntN(6) {
		mine, ok := sim.decide()
		if !ok {
			return
		}
		if sim.chance(5) {
			// Another replica does the same, and writes first.
			if theirs, ok := sim.decide(); ok {
				sim.execute(theirs, 3)
			}
		}
		dies := 3
		if sim.chance(10) {
			dies = sim.rng.IntN(3)
		}
		sim.execute(mine, dies)
		if dies < 3 {
			sim.restartManager()
		}
		if mine.plan.secret == nil {
			return
		}
	}
}

// mutant is a deliberate fault of the operator.
type mutant struct {
	in       func(*observed)
	evidence func(*clusterEvidence)
	out      func(observed, *rotation.State)
	// localClock makes the operator trust the clock of its node.
	localClock bool
	// seed is that of a simulation that detects the fault soon; 0 means 1.
	seed uint64
}

func (m mutant) observes(in *observed) {
	if m.in != nil {
		m.in(in)
	}
}

func (m mutant) sees(evidence *clusterEvidence) {
	if m.evidence != nil {
		m.evidence(evidence)
	}
}

func (m mutant) decides(in observed, plan *changePlan) {
	if m.out == nil || plan.state == nil || plan.secret == nil {
		return
	}
	m.out(in, plan.state)
	if err := plan.buildSecret(in); err != nil {
		panic(err)
	}
}

// pass advances the time: by minutes during a rotation, by weeks otherwise.
func (sim *simulation) pass() {
	step := time.Duration(sim.rng.Int64N(int64(4 * time.Minute)))
	reported := sim.ca.Status.Rotation
	if reported != nil && (reported.Phase == v1alpha1.PhaseStable || reported.Phase == v1alpha1.PhaseRetiring) && sim.chance(50) {
		step = time.Duration(sim.rng.Int64N(int64(30 * 24 * time.Hour)))
	}
	if slices.ContainsFunc(sim.services, sim.heldUp) {
		// The operator has an hour for it, and reconciles more than once in that time.
		step = min(step, 4*time.Minute)
	}
	sim.now = sim.now.Add(step.Truncate(time.Second) + time.Second)
	sim.clock.SetTime(sim.now)
}

// heldUp reports whether the last certificate of a Service is valid and from a compromised CA, so
// it has to be reissued.
func (sim *simulation) heldUp(s *service) bool {
	last := len(s.leaves) - 1
	return last >= 0 && sim.compromise(s.leaves[last].Leaf) && sim.now.Before(s.leaves[last].NotAfter)
}
