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

// intent is what a manager has decided, on a version of the Secret and of the status.
type intent struct {
	in      observed
	decided step
	seen    evidence
	version int
}

// decide looks and plans, as Reconciler.decide does.
func (w *world) decide() (intent, bool) {
	in := observed{
		now: w.now.Add(w.clockError), serviceCA: w.ca.DeepCopy(), secret: w.secret, published: w.published.content, brought: w.brought,
		longest: w.policy.Spec.Certificate.Duration.Std(),
	}
	for _, target := range w.targets {
		in.carried = append(in.carried, target.content)
	}
	w.mutant.observes(&in)
	given := resolve(in)
	seen := w.evidence(given)
	w.mutant.sees(&seen)
	decided := plan(in, given, seen)
	if decided.secret != nil || in.isBehind(given) {
		if w.clockError > maxClockError && !w.mutant.localClock {
			return intent{}, false
		}
		if in.now = w.now; w.mutant.localClock {
			// It leaps again and again.
			in.now = w.now.Add(time.Duration(w.rng.IntN(20)) * time.Minute)
		}
		decided = plan(in, resolve(in), seen)
	}
	w.mutant.decides(in, &decided)
	return intent{in, decided, seen, w.version}, true
}

// carryOut writes the Secret, the bundle and the status, in this order, unless it dies before; each only over what it was decided on.
func (w *world) carryOut(i intent, dies int) {
	decided := i.decided
	if decided.secret != nil {
		if i.version != w.version || dies == 0 {
			return
		}
		w.remember(i)
		w.secret = decided.secret.DeepCopy()
		w.version++
		i.version = w.version
	} else if len(decided.events) > 0 {
		w.fail("%s is recorded though nothing is written, and would be again", decided.events[0].reason)
	}
	if decided.state == nil {
		w.report(i)
		return
	}
	if bundle := decided.state.Bundle().Encode(); !bytes.Equal(w.published.content, bundle) {
		if i.version != w.version || dies == 1 {
			return
		}
		if err := w.published.write(w.now, bundle); err != nil {
			w.fail("%v", err)
		}
	}
	if dies != 2 {
		w.report(i)
	}
}

func (w *world) report(i intent) {
	w.ca = w.ca.DeepCopy()
	w.ca.Status = buildStatus(i.in.now, i.in.serviceCA, i.decided, i.seen)
}

// remember notes what follows from a state that is about to be written.
func (w *world) remember(i intent) {
	for _, happened := range i.decided.events {
		w.note("%s: %s", happened.reason, happened.note)
	}
	state := i.decided.state
	w.outage(i)
	if lost := func(h happening) bool { return h.reason == eventSigningKeyLost || h.reason == eventKeyRestored }; i.in.secret == nil || slices.ContainsFunc(i.decided.events, lost) {
		// What was cross-signed is lost with the Secret.
		clear(w.bridged)
	}
	if next := state.Next; next != nil && state.Active != nil && len(next.Bridge()) > 0 {
		w.bridged[pki.KeyID(next.Certificate().SubjectKeyId)] = bridge{state.Active.Root, w.now, len(next.Bridge()) > 1}
	}
	if state.Active != nil {
		w.rootOf[pki.KeyID(state.Active.Certificate().SubjectKeyId)] = pki.Fingerprint(state.Active.Root)
	}
	if state.Phase == v1alpha1.PhaseReissuing && state.Compromise {
		for _, previous := range state.Previous {
			w.compromised[pki.Fingerprint(previous.Root)] = true
		}
	}
	if i.in.secret != nil && state.Phase == v1alpha1.PhaseReissuing {
		w.destroyed(i)
	}
}

// stolen tells whether a certificate leads to a root that is to be distrusted.
func (w *world) stolen(l *pki.Leaf) bool { return w.compromised[w.rootOf[pki.KeyID(l.AuthorityKeyId)]] }

// outage notes where nothing has been alive any more: servers and clients then wait for new files, and it is over sooner when they do.
func (w *world) outage(i intent) {
	state := i.decided.state
	before := stateOf(i.in.now, i.in.secret)
	w.restarter.excuse(w.now, before, state, i.in.serviceCA.Spec.Rotation)
	if state.Active == nil || (i.in.secret != nil && before.Alive(i.in.now)) || slices.ContainsFunc(state.Previous, func(p rotation.Predecessor) bool {
		return i.in.now.Before(p.SignedUntil)
	}) {
		return
	}
	for _, f := range append([]*file{w.published}, w.targets...) {
		f.versions = nil
	}
	clear(w.restarter.frozen)
}

// destroyed checks that no key which signs no more stands in the Secret.
func (w *world) destroyed(i intent) {
	before, err := rotation.Read(i.in.now, i.in.secret)
	if err != nil || before.Active == nil || before.Active.HasKeyOf(i.decided.state.Active.Certificate()) {
		return
	}
	for key, value := range i.decided.secret.Data {
		if bytes.Contains(value, i.in.secret.Data[corev1.TLSPrivateKeyKey]) {
			w.fail("%s holds the private key of a CA that signs no more", key)
		}
	}
}

// serviceCAController reconciles until nothing is left to be done, unless it dies.
func (w *world) serviceCAController() {
	for range 1 + w.rng.IntN(6) {
		mine, ok := w.decide()
		if !ok {
			return
		}
		if w.chance(5) {
			// Another replica does the same, and is faster.
			if theirs, ok := w.decide(); ok {
				w.carryOut(theirs, 3)
			}
		}
		dies := 3
		if w.chance(10) {
			dies = w.rng.IntN(3)
		}
		w.carryOut(mine, dies)
		if dies < 3 {
			w.restartManager()
		}
		if mine.decided.secret == nil {
			return
		}
	}
}

// mutant is a deliberate fault of the operator.
type mutant struct {
	in   func(*observed)
	seen func(*evidence)
	out  func(observed, *rotation.State)
	// localClock believes the clock of its node.
	localClock bool
	// seed is of a life in which it is noticed soon; 0 is that of 1.
	seed uint64
}

func (m mutant) observes(in *observed) {
	if m.in != nil {
		m.in(in)
	}
}

func (m mutant) sees(seen *evidence) {
	if m.seen != nil {
		m.seen(seen)
	}
}

func (m mutant) decides(in observed, decided *step) {
	if m.out == nil || decided.state == nil || decided.secret == nil {
		return
	}
	m.out(in, decided.state)
	if err := decided.compare(in); err != nil {
		panic(err)
	}
}

// pass lets time go by: minutes while something is under way, weeks at rest.
func (w *world) pass() {
	step := time.Duration(w.rng.Int64N(int64(4 * time.Minute)))
	told := w.ca.Status.Rotation
	if told != nil && (told.Phase == v1alpha1.PhaseStable || told.Phase == v1alpha1.PhaseRetiring) && w.chance(50) {
		step = time.Duration(w.rng.Int64N(int64(30 * 24 * time.Hour)))
	}
	if slices.ContainsFunc(w.services, w.heldUp) {
		// The operator has an hour for it, and looks at it more than once in this time.
		step = min(step, 4*time.Minute)
	}
	w.now = w.now.Add(step.Truncate(time.Second) + time.Second)
	w.clock.SetTime(w.now)
}

// heldUp tells whether a certificate of a compromised CA is not reissued yet.
func (w *world) heldUp(s *service) bool {
	last := len(s.leaves) - 1
	return last >= 0 && w.stolen(s.leaves[last].Leaf) && w.now.Before(s.leaves[last].NotAfter)
}
