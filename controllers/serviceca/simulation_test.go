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

// run lives the life of a CA.
func (w *world) run(steps int) error {
	for range steps {
		if w.chance(12) {
			w.happensUnlessFatal()
		}
		w.serviceCAController()
		w.trustController()
		w.servingCertController()
		w.bringOver()
		w.shakeHands()
		w.checkProgress()
		if w.failure != nil {
			return w.failure
		}
		w.pass()
	}
	return nil
}

// checkProgress makes sure that a rotation comes on which nothing holds.
func (w *world) checkProgress() {
	told := w.ca.Status.Rotation
	held := w.clockError > maxClockError || w.ca.Spec.Rotation.Mode == v1alpha1.RotationPaused || w.ca.Spec.Source.Secret != nil
	if told == nil || held || told.Phase == v1alpha1.PhaseStable || told.Phase == v1alpha1.PhaseRetiring || told.LastTransitionTime == nil ||
		!told.LastTransitionTime.Equal(&w.standsSince) {
		w.stands, w.standsSince = 0, metav1.Time{}
		if told != nil && told.LastTransitionTime != nil {
			w.standsSince = *told.LastTransitionTime
		}
		return
	}
	w.stands++
	if w.stands > 40 {
		w.fail("it stands still in %s: %v", told.Phase, told.BlockedBy)
	}
}

// shakeHands lets every server that may be running, with any certificate that it may hold, be verified by every client, with any
// bundle that it may hold.
func (w *world) shakeHands() {
	clients := w.clients()
	frozen := w.frozen(clients)
	for _, s := range w.services {
		s.leaves = slices.DeleteFunc(s.leaves, func(l leaf) bool {
			given := !l.until.IsZero() && w.stolen(l.Leaf) && w.now.Sub(l.until) > bound
			return given || !w.now.Before(l.NotAfter)
		})
		for _, server := range s.leaves {
			for _, roots := range clients {
				w.handshakes++
				if err := w.verifies(server, roots, likeOpenSSL, likeGnuTLS); err != nil {
					w.fail("a client with %s refuses a certificate of %s, made %s: %v", names(roots), server.Issuer.CommonName, server.IssuedAt(), err)
				}
			}
			w.shakeHandsOverTheBridge(server)
			w.shakeHandsWithFrozen(server, frozen)
		}
	}
}

// shakeHandsOverTheBridge lets a client verify that knows nothing but the generation before, for as long as that is trusted.
func (w *world) shakeHandsOverTheBridge(server leaf) {
	bridge := w.bridged[pki.KeyID(server.AuthorityKeyId)]
	root := bridge.root
	if root == nil || server.IssuedAt().Before(bridge.since) || !slices.ContainsFunc(w.trusted(), root.Equal) || !w.now.Before(root.NotAfter) || len(root.PermittedDNSDomains) > 0 {
		return
	}
	if bridge.long && pki.UsefulBridge(server.sent[1:], pki.Bundle{root}) == nil {
		return
	}
	w.handshakes++
	if err := w.verifies(server, pki.Bundle{root}, likeOpenSSL); err != nil {
		w.fail("a client that knows only %s refuses a certificate of %s: %v", root.Subject.CommonName, server.Issuer.CommonName, err)
	}
}

// clients are the bundles that clients may hold.
func (w *world) clients() map[string]pki.Bundle {
	found := map[string]pki.Bundle{}
	for _, f := range append([]*file{w.published}, w.targets...) {
		f.forget(w.now)
		for _, v := range f.versions {
			found[string(v.content)] = v.roots
		}
	}
	return found
}

// trusted is the bundle that was published last.
func (w *world) trusted() pki.Bundle {
	bundle, _ := pki.ParseBundle(w.published.content)
	return bundle
}

func names(bundle pki.Bundle) string {
	var found []string
	for _, root := range bundle {
		found = append(found, root.Subject.CommonName)
	}
	return strings.Join(found, ", ")
}

// happensUnlessFatal undoes what leaves no trace of the bundle anywhere: Secret, ConfigMap and targets. From that nobody recovers.
func (w *world) happensUnlessFatal() {
	secret, published, contents := w.secret, w.published.content, map[*file][]byte{}
	for _, target := range w.targets {
		contents[target] = target.content
	}
	w.happens()
	told := w.ca.Status.TrustBundle
	if told == nil {
		return
	}
	left := [][]byte{w.published.content}
	if w.secret != nil {
		left = append(left, w.secret.Data[rotation.BundleKey])
	}
	for _, target := range w.targets {
		left = append(left, target.content)
	}
	if slices.ContainsFunc(left, func(content []byte) bool { return pki.Hash(content) == told.Hash }) {
		return
	}
	w.note("undone")
	w.secret, w.published.content, w.version = secret, published, w.version+1
	for target, content := range contents {
		target.content = content
	}
}

// happens does what people, Git and accidents do.
func (w *world) happens() {
	spec := &w.ca.Spec
	w.ca.Generation++
	event := w.rng.IntN(24)
	w.note("event %d", event)
	switch event {
	case 0, 1:
		spec.Rotation.Trigger, spec.Rotation.TriggerReason = fmt.Sprint("routine", w.rng.IntN(1e6)), v1alpha1.TriggerRoutine
	case 2:
		spec.Rotation.Trigger, spec.Rotation.TriggerReason = fmt.Sprint("stolen", w.rng.IntN(1e6)), v1alpha1.TriggerCompromise
	case 3:
		algorithms := []v1alpha1.KeyAlgorithm{v1alpha1.Ed25519, v1alpha1.ECDSA}
		spec.Certificate.PrivateKey.Algorithm = algorithms[w.rng.IntN(2)]
	case 4:
		domains := [][]string{nil, {"svc", "cluster.local"}}
		spec.Certificate.PermittedDNSDomains = domains[w.rng.IntN(2)]
	case 5:
		w.bring()
	case 6:
		spec.Source.Secret = nil
	case 7:
		w.secret, w.version = nil, w.version+1
	case 8:
		w.spoil([]string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey}[w.rng.IntN(2)], []byte("?"))
	case 9:
		w.spoil([]string{rotation.NextPrivateKeyKey, rotation.RecordKey, rotation.BundleKey}[w.rng.IntN(3)], []byte("?"))
	case 10, 11:
		w.backup()
	case 12:
		if len(w.backups) > 0 {
			w.secret, w.version = w.backups[w.rng.IntN(len(w.backups))].DeepCopy(), w.version+1
		}
	case 13:
		w.published.content = nil
	case 14:
		w.published.content = []byte("by hand")
	case 15:
		w.lostAtOnce()
	case 16:
		w.targets[w.rng.IntN(len(w.targets))].remove(w.now)
	case 17:
		w.targets = append(w.targets, &file{content: []byte{}, made: w.now})
	case 18:
		modes := []v1alpha1.RotationMode{v1alpha1.RotationAutomatic, v1alpha1.RotationAutomatic, v1alpha1.RotationPaused}
		spec.Rotation.Mode = modes[w.rng.IntN(3)]
	case 19:
		durations := []v1alpha1.Duration{"2160h", "240h", "8760h", "24h"}
		w.policy.Spec.Certificate.Duration = durations[w.rng.IntN(4)]
	case 20:
		trusts := []v1alpha1.PreviousTrust{v1alpha1.TrustUntilExpiry, v1alpha1.TrustUntilUnused}
		spec.Rotation.PreviousTrust = trusts[w.rng.IntN(2)]
	case 21:
		errors := []time.Duration{0, 0, -time.Hour, 50 * time.Minute, 30 * 24 * time.Hour, 20 * 365 * 24 * time.Hour}
		w.clockError = errors[w.rng.IntN(6)]
	case 22, 23:
		w.renews()
	}
}

// lostAtOnce loses key and bundle where a target still has the bundle.
func (w *world) lostAtOnce() {
	for _, target := range w.targets {
		if told := w.ca.Status.TrustBundle; told != nil && pki.Hash(target.content) == told.Hash {
			w.secret, w.published.content, w.version = nil, nil, w.version+1
			return
		}
	}
}

// bring puts another CA into the Secret that the CA then comes from: a root and, every other time, one below a root.
func (w *world) bring() {
	root := w.mint("root", nil)
	ca, before := root, w.brought
	if before == nil || bytes.Equal(before.Data[corev1.TLSCertKey], before.Data[corev1.ServiceAccountRootCAKey]) {
		ca = w.mint("brought", root)
	}
	w.ca.Spec.Source.Secret = &v1alpha1.SecretSource{Name: "corp"}
	w.brought = brought(w.t, pemOf(root), ca)
}

// mint makes a CA that begins now, signed by parent or by itself.
func (w *world) mint(name string, parent *handmade) *handmade {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	return mintWith(w.t, fmt.Sprintf("%s %d", name, w.now.Unix()), key, parent, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = w.now, w.now.Add(20_000*time.Hour)
	})
}

// seeds are those to simulate, printed so that each can be replayed.
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

// live lives the life of a CA by a seed, which decides about everything: keys and serial numbers too.
func live(t *testing.T, seed uint64, broken mutant) (*world, error) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, seed)
	w := newWorld(t, seed, broken)
	err := w.run(*simulationSteps)
	return w, err
}

// Through decades of rotations, accidents, restores, crashes, wrong clocks and slow kubelets every server and every client verify each
// other at each instant.
func TestSimulation(t *testing.T) {
	handshakes, signers, years := 0, 0, 0.0
	// Some that have found faults, and new ones.
	lives := append([]uint64{1, 2, 11923696908560707695, 15241618095934277739, 6383223314425963595, 12612405527395544488, 9529703169602266631}, seeds(t, *simulationRuns)...)
	if *simulationSeed != 0 {
		lives = seeds(t, 1)
	}
	for _, seed := range lives {
		w, err := live(t, seed, mutant{})
		if err != nil {
			t.Errorf("%v\nreplay: go test ./controllers/serviceca -run 'TestSimulation$' -simulation-seed=%d\n%s",
				err, seed, strings.Join(w.log[max(0, len(w.log)-25):], "\n"))
		}
		t.Logf("seed %d: %d handshakes", seed, w.handshakes)
		handshakes, signers, years = handshakes+w.handshakes, signers+len(w.signers), years+w.now.Sub(now).Hours()/24/365
	}
	fmt.Printf("simulation: %d handshakes between certificates of %d CAs over %.0f years\n", handshakes, signers, years)
}
