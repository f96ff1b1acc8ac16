package serviceca

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

var (
	simulationSeed  = flag.Uint64("simulation-seed", 0, "replay the simulation with this seed; 0 takes new ones")
	simulationRuns  = flag.Int("simulation-runs", 2, "how many lives of a CA are simulated with new seeds")
	simulationSteps = flag.Int("simulation-steps", 1000, "how many steps each of them has")
)

// run simulates a ServiceCA for this many steps.
func (sim *simulation) run(steps int) error {
	for range steps {
		if sim.chance(12) {
			sim.happensUnlessFatal()
		}
		sim.serviceCAController()
		sim.trustController()
		sim.servingCertController()
		sim.bringOver()
		sim.shakeHands()
		sim.checkProgress()
		if sim.failure != nil {
			return sim.failure
		}
		sim.pass()
	}
	return nil
}

// checkProgress fails when a rotation that nothing blocks does not proceed.
func (sim *simulation) checkProgress() {
	reported := sim.ca.Status.Rotation
	held := sim.clockError > maxClockError || sim.ca.Spec.Rotation.Mode == v1alpha1.RotationPaused || sim.ca.Spec.Source.Secret != nil
	if reported == nil || held || reported.Phase == v1alpha1.PhaseStable || reported.Phase == v1alpha1.PhaseRetiring || reported.LastTransitionTime == nil ||
		!reported.LastTransitionTime.Equal(&sim.stalledSince) {
		sim.stalled, sim.stalledSince = 0, metav1.Time{}
		if reported != nil && reported.LastTransitionTime != nil {
			sim.stalledSince = *reported.LastTransitionTime
		}
		return
	}
	sim.stalled++
	if sim.stalled > 40 {
		sim.fail("it stands still in %s: %v", reported.Phase, reported.BlockedBy)
	}
}

// shakeHands checks that every server, with any certificate that it may still use, is verified by
// every client, with any bundle that it may still have.
func (sim *simulation) shakeHands() {
	clients := sim.clients()
	frozen := sim.frozen(clients)
	for _, s := range sim.services {
		s.leaves = slices.DeleteFunc(s.leaves, func(l leaf) bool {
			given := !l.until.IsZero() && sim.compromise(l.Leaf) && sim.now.Sub(l.until) > bound
			return given || !sim.now.Before(l.NotAfter)
		})
		for _, server := range s.leaves {
			for _, roots := range clients {
				sim.handshakes++
				if err := sim.verifies(server, roots, likeOpenSSL, likeGnuTLS); err != nil {
					sim.fail("a client with %s refuses a certificate of %s, made %s: %v", names(roots), server.Issuer.CommonName, server.IssuedAt(), err)
				}
			}
			sim.shakeHandsOverCrossSigned(server)
			sim.shakeHandsWithFrozen(server, frozen)
		}
	}
}

// shakeHandsOverCrossSigned checks that a client with only the previous root verifies a server, for
// as long as that root is trusted.
func (sim *simulation) shakeHandsOverCrossSigned(server leaf) {
	bridge := sim.crossSigned[pki.KeyID(server.AuthorityKeyId)]
	root := bridge.root
	if root == nil || server.IssuedAt().Before(bridge.since) || !slices.ContainsFunc(sim.trusted(), root.Equal) || !sim.now.Before(root.NotAfter) || len(root.PermittedDNSDomains) > 0 {
		return
	}
	if bridge.long && pki.TrimCrossSigned(server.sent[1:], pki.Bundle{root}) == nil {
		return
	}
	sim.handshakes++
	if err := sim.verifies(server, pki.Bundle{root}, likeOpenSSL); err != nil {
		sim.fail("a client that knows only %s refuses a certificate of %s: %v", root.Subject.CommonName, server.Issuer.CommonName, err)
	}
}

// clients returns the bundles that clients may have, by content.
func (sim *simulation) clients() map[string]pki.Bundle {
	found := map[string]pki.Bundle{}
	for _, f := range append([]*file{sim.published}, sim.targets...) {
		f.forget(sim.now)
		for _, v := range f.versions {
			found[string(v.content)] = v.roots
		}
	}
	return found
}

// trusted returns the bundle that was published last.
func (sim *simulation) trusted() pki.Bundle {
	bundle, _ := pki.ParseBundle(sim.published.content)
	return bundle
}

func names(bundle pki.Bundle) string {
	var names []string
	for _, root := range bundle {
		names = append(names, root.Subject.CommonName)
	}
	return strings.Join(names, ", ")
}

// happensUnlessFatal lets an event happen, and undoes it when it leaves no copy of the bundle in
// the Secret, the ConfigMap or a target: recovery from that is not possible.
func (sim *simulation) happensUnlessFatal() {
	secret, published, contents := sim.secret, sim.published.content, map[*file][]byte{}
	for _, target := range sim.targets {
		contents[target] = target.content
	}
	sim.happens()
	reported := sim.ca.Status.TrustBundle
	if reported == nil {
		return
	}
	left := [][]byte{sim.published.content}
	if sim.secret != nil {
		left = append(left, sim.secret.Data[rotation.BundleKey])
	}
	for _, target := range sim.targets {
		left = append(left, target.content)
	}
	if slices.ContainsFunc(left, func(content []byte) bool { return pki.Hash(content) == reported.Hash }) {
		return
	}
	sim.note("undone")
	sim.secret, sim.published.content, sim.version = secret, published, sim.version+1
	for target, content := range contents {
		target.content = content
	}
}

// happens simulates what administrators, GitOps tools and accidents do.
func (sim *simulation) happens() {
	spec := &sim.ca.Spec
	sim.ca.Generation++
	event := sim.rng.IntN(24)
	sim.note("event %d", event)
	switch event {
	case 0, 1:
		spec.Rotation.Trigger, spec.Rotation.TriggerReason = fmt.Sprint("routine", sim.rng.IntN(1e6)), v1alpha1.TriggerRoutine
	case 2:
		spec.Rotation.Trigger, spec.Rotation.TriggerReason = fmt.Sprint("stolen", sim.rng.IntN(1e6)), v1alpha1.TriggerCompromise
	case 3:
		algorithms := []v1alpha1.KeyAlgorithm{v1alpha1.Ed25519, v1alpha1.ECDSA}
		spec.Certificate.PrivateKey.Algorithm = algorithms[sim.rng.IntN(2)]
	case 4:
		domains := [][]string{nil, {"svc", "cluster.local"}}
		spec.Certificate.PermittedDNSDomains = domains[sim.rng.IntN(2)]
	case 5:
		sim.bring()
	case 6:
		spec.Source.Secret = nil
	case 7:
		sim.secret, sim.version = nil, sim.version+1
	case 8:
		sim.corrupt([]string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey}[sim.rng.IntN(2)], []byte("?"))
	case 9:
		sim.corrupt([]string{rotation.NextPrivateKeyKey, rotation.RecordKey, rotation.BundleKey}[sim.rng.IntN(3)], []byte("?"))
	case 10, 11:
		sim.backup()
	case 12:
		if len(sim.backups) > 0 {
			sim.secret, sim.version = sim.backups[sim.rng.IntN(len(sim.backups))].DeepCopy(), sim.version+1
		}
	case 13:
		sim.published.content = nil
	case 14:
		sim.published.content = []byte("by hand")
	case 15:
		sim.lostAtOnce()
	case 16:
		sim.targets[sim.rng.IntN(len(sim.targets))].remove(sim.now)
	case 17:
		sim.targets = append(sim.targets, &file{content: []byte{}, made: sim.now})
	case 18:
		modes := []v1alpha1.RotationMode{v1alpha1.RotationAutomatic, v1alpha1.RotationAutomatic, v1alpha1.RotationPaused}
		spec.Rotation.Mode = modes[sim.rng.IntN(3)]
	case 19:
		durations := []v1alpha1.Duration{"2160h", "240h", "8760h", "24h"}
		sim.policy.Spec.Certificate.Duration = durations[sim.rng.IntN(4)]
	case 20:
		trusts := []v1alpha1.PreviousTrust{v1alpha1.TrustUntilExpiry, v1alpha1.TrustUntilUnused}
		spec.Rotation.PreviousTrust = trusts[sim.rng.IntN(2)]
	case 21:
		errors := []time.Duration{0, 0, -time.Hour, 50 * time.Minute, 30 * 24 * time.Hour, 20 * 365 * 24 * time.Hour}
		sim.clockError = errors[sim.rng.IntN(6)]
	case 22, 23:
		sim.renews()
	}
}

// lostAtOnce deletes the key and the published bundle, provided that a target still has the bundle.
func (sim *simulation) lostAtOnce() {
	for _, target := range sim.targets {
		if reported := sim.ca.Status.TrustBundle; reported != nil && pki.Hash(target.content) == reported.Hash {
			sim.secret, sim.published.content, sim.version = nil, nil, sim.version+1
			return
		}
	}
}

// bring puts another CA into the source Secret, which the ServiceCA then uses: alternately a root
// and an intermediate.
func (sim *simulation) bring() {
	root := sim.generateCA("root", nil)
	ca, before := root, sim.sourceSecret
	if before == nil || bytes.Equal(before.Data[corev1.TLSCertKey], before.Data[corev1.ServiceAccountRootCAKey]) {
		ca = sim.generateCA("brought", root)
	}
	sim.ca.Spec.Source.Secret = &v1alpha1.SecretSource{Name: "corp"}
	sim.sourceSecret = sourceSecret(sim.t, pemOf(root), ca)
}

// generateCA returns a CA that is valid from now on, signed by parent, or self-signed when parent
// is nil.
func (sim *simulation) generateCA(name string, parent *testCA) *testCA {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		sim.t.Fatal(err)
	}
	return generateCAWith(sim.t, fmt.Sprintf("%s %d", name, sim.now.Unix()), key, parent, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = sim.now, sim.now.Add(20_000*time.Hour)
	})
}

// seeds returns new random seeds, or only the one of the flag -simulation-seed. The test prints a
// seed that fails, so that it can be replayed.
func seeds(t *testing.T, number int) []uint64 {
	t.Helper()
	if *simulationSeed != 0 {
		return []uint64{*simulationSeed}
	}
	var chosen []uint64
	for range number {
		var random [8]byte
		if _, err := rand.Read(random[:]); err != nil {
			t.Fatal(err)
		}
		chosen = append(chosen, binary.LittleEndian.Uint64(random[:]))
	}
	return chosen
}

// simulate runs a simulation. The seed determines everything, including keys and serial numbers.
func simulate(t *testing.T, seed uint64, broken mutant) (*simulation, error) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, seed)
	w := newSimulation(t, seed, broken)
	err := w.run(*simulationSteps)
	return w, err
}

// TestSimulation checks that every server and every client verify each other at all times, through
// decades of rotations, accidents, restores, crashes, wrong clocks and slow kubelets.
func TestSimulation(t *testing.T) {
	handshakes, signers, years := 0, 0, 0.0
	// Seeds that have found faults, followed by new ones.
	lives := append([]uint64{1, 2, 11923696908560707695, 15241618095934277739, 6383223314425963595, 12612405527395544488, 9529703169602266631}, seeds(t, *simulationRuns)...)
	if *simulationSeed != 0 {
		lives = seeds(t, 1)
	}
	for _, seed := range lives {
		w, err := simulate(t, seed, mutant{})
		if err != nil {
			t.Errorf("%v\nreplay: go test ./controllers/serviceca -run 'TestSimulation$' -simulation-seed=%d\n%s",
				err, seed, strings.Join(w.log[max(0, len(w.log)-25):], "\n"))
		}
		t.Logf("seed %d: %d handshakes", seed, w.handshakes)
		handshakes, signers, years = handshakes+w.handshakes, signers+len(w.signers), years+w.now.Sub(now).Hours()/24/365
	}
	fmt.Printf("simulation: %d handshakes between certificates of %d CAs over %.0f years\n", handshakes, signers, years)
}
