package serviceca

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// change is a rotation from one CA to another, each of which a source gives.
type change struct {
	name     string
	from, to func(*scene)
	// stale are the clients that verify by the old bundle alone what the new CA signs.
	stale func(client string) bool
	// bridge is what leads to the old root.
	bridge bridging
}

// bridging is what leads from a new CA to an old root.
type bridging string

const (
	// noBridge: nothing does.
	noBridge bridging = "none"
	// notNeeded: the old root is the new one.
	notNeeded bridging = "not needed"
	// short: one certificate does, which may outlive the trust in the old root.
	short bridging = "short"
	// long: more than one does, and they may not.
	long bridging = "long"
)

func everyClient(string) bool { return true }

func noClient(string) bool { return false }

// thatTriesEveryPath tells whether a client does.
func thatTriesEveryPath(client string) bool { return client == "Go" || client == "Java" }

// lostKey and sameKey are the changes that help nobody whose key was stolen: it is lost, or it is kept.
const (
	lostKey = "a lost key"
	sameKey = "the same CA below another root"
)

// changes are all kinds of changes of a source.
func changes(t *testing.T) []change {
	t.Helper()
	corp, other, namesake := mintNow(t, "corp root", nil), mintNow(t, "other root", nil), mintNow(t, "corp root", nil)
	upper := mintNow(t, "upper", other)
	corpCA, corpCA2, otherCA, namesakeCA := mintNow(t, "corp CA", corp), mintNow(t, "corp CA 2", corp), mintNow(t, "other CA", other), mintNow(t, "namesake CA", namesake)
	renewed := mintWith(t, "corp CA", corpCA.key, other, current)
	strict, noneBelow, oneBelow := mintNow(t, "strict CA", other, naming(other)), mintNow(t, "0", nil, pathLen(0)), mintNow(t, "1", nil, pathLen(1))
	self := func(*scene) {}
	return []change{
		{"selfSigned to its successor", self, func(s *scene) { s.serviceCA.Spec.Rotation.Trigger = "now" }, everyClient, short},
		{"selfSigned to a root that was brought", self, bringing(corp, corp), everyClient, short},
		{"selfSigned to an intermediate that was brought", self, bringing(other, mintNow(t, "lower", upper), upper), everyClient, short},
		{"selfSigned to certManager", self, answered(corp, corpCA), everyClient, short},
		{"certManager to selfSigned", answered(corp, corpCA), selfSigned, everyClient, long},
		{"the issuer's root is replaced", bringing(corp, corpCA), bringing(other, otherCA), everyClient, long},
		{"the issuer's root is replaced by one of its name", bringing(corp, corpCA), bringing(namesake, namesakeCA), everyClient, long},
		{"another CA below the same root", bringing(corp, corpCA), bringing(corp, corpCA2), everyClient, notNeeded},
		{sameKey, bringing(corp, corpCA), bringing(other, renewed), everyClient, long},
		{"a CA that names its issuer by serial number", self, bringing(other, strict), thatTriesEveryPath, short},
		{"the old root allows one CA below it", bringing(oneBelow, oneBelow), bringing(other, otherCA), thatTriesEveryPath, short},
		{"the old root allows no CA below it", bringing(noneBelow, noneBelow), bringing(other, otherCA), noClient, noBridge},
		{lostKey, self, func(s *scene) { s.secret = nil }, noClient, noBridge},
	}
}

// current is of the present day, by which clients that are not ours verify.
func current(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-1000*time.Hour), time.Now().Add(2000*time.Hour)
}

func mintNow(t *testing.T, name string, parent *handmade, edits ...func(*x509.Certificate)) *handmade {
	t.Helper()
	return mint(t, name, parent, append(edits, current)...)
}

func pathLen(most int) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = most, most == 0 }
}

// naming says who issued a certificate as easy-rsa does: by key identifier, name and serial number.
func naming(issuer *handmade) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		name := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: issuer.RawSubject}
		value, err := asn1.Marshal(struct {
			KeyID  []byte          `asn1:"tag:0"`
			Issuer []asn1.RawValue `asn1:"tag:1"`
			Serial *big.Int        `asn1:"tag:2"`
		}{issuer.SubjectKeyId, []asn1.RawValue{name}, issuer.SerialNumber})
		if err != nil {
			panic(err)
		}
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 35}, Value: value})
	}
}

func selfSigned(s *scene) { s.serviceCA.Spec.Source = v1alpha1.CASource{} }

func bringing(root *handmade, chain ...*handmade) func(*scene) {
	return func(s *scene) {
		s.serviceCA.Spec.Source = v1alpha1.CASource{Secret: &v1alpha1.SecretSource{Name: "corp"}}
		s.brought = brought(s.T, pemOf(root), chain...)
	}
}

func answered(root *handmade, chain ...*handmade) func(*scene) {
	return func(s *scene) { s.answer(pemOf(root), chain...) }
}

// pairing is a server and a client that meet.
type pairing struct {
	name   string
	server tlsServer
	roots  string
	// verified tells whether the client verifies the server.
	verified func(client string) bool
}

// TestChains: whatever CA follows another, clients of every kind verify servers by every bundle that they may hold, as docs/rotation.md
// promises it.
func TestChains(t *testing.T) {
	t.Parallel()
	var pairings []pairing
	for _, change := range changes(t) {
		pairings = append(pairings, change.routine(t)...)
		if change.name != lostKey && change.name != sameKey {
			pairings = append(pairings, change.compromise(t)...)
		}
	}
	for name, start := range tlsClients {
		t.Run(name, func(t *testing.T) {
			client := start(t)
			for _, p := range pairings {
				err := client(p.server, p.roots)
				if want := p.verified(name); (err == nil) != want || (err != nil && !errors.Is(err, errRefused)) {
					t.Errorf("%s: verified = %v (%v), want %v", p.name, err == nil, err, want)
				}
			}
		})
	}
}

// begin is the CA before the change, whose certificates last for half an hour.
func (c change) begin(t *testing.T) (*scene, *rotation.State) {
	t.Helper()
	s := newScene(t, "")
	s.now, s.longest, s.serviceCA.Spec.Rotation.PreviousTrust = time.Now().Add(-4*time.Hour), 30*time.Minute, v1alpha1.TrustUntilUnused
	c.from(s)
	before := s.sound()
	s.later(time.Hour)
	return s, before
}

// routine are the servers and clients that meet before, during and after the change.
func (c change) routine(t *testing.T) []pairing {
	t.Helper()
	s, before := c.begin(t)
	c.to(s)
	after := s.rotated()
	latest := after
	s.later(40 * time.Minute)
	if middle := s.sound(); len(middle.Previous) > 0 {
		latest = middle
	}
	s.later(40 * time.Minute)
	last := s.sound()
	if (latest != after) != (c.bridge == long) {
		t.Errorf("%s: the bridge is not %s", c.name, c.bridge)
	}
	met := c.meets(t, "", before, after, last)
	if c.bridge != long {
		// A certificate that is sent with a long bridge has ended before.
		met = append(met, c.meet(t, "new certificate, new bundle", after, last, everyClient))
	}
	return append(met,
		c.meet(t, "latest certificate, both roots", latest, after, everyClient),
		c.meet(t, "latest certificate, new bundle", latest, last, everyClient),
	)
}

// compromise are those that meet where the old CA was compromised.
func (c change) compromise(t *testing.T) []pairing {
	t.Helper()
	s, before := c.begin(t)
	c.to(s)
	s.serviceCA.Spec.Rotation.Trigger, s.serviceCA.Spec.Rotation.TriggerReason = "stolen", v1alpha1.TriggerCompromise
	after := s.rotated()
	s.later(patience)
	last := s.sound()
	if c.bridge == long {
		c.stale = noClient
	}
	return append(c.meets(t, "stolen: ", before, after, last), c.meet(t, "stolen: new certificate, new bundle", after, last, everyClient))
}

// meets are the servers and clients that meet before, after and long after a switch of the signer.
func (c change) meets(t *testing.T, when string, before, after, last *rotation.State) []pairing {
	t.Helper()
	if len(last.Previous) > 0 || (len(after.Bundle()) == 1) != (c.bridge == notNeeded) || before.Active.Fingerprint() == after.Active.Fingerprint() {
		t.Fatalf("%s: %sit has not taken place", c.name, when)
	}
	sameRoot := func(string) bool { return c.bridge == notNeeded }
	return []pairing{
		c.meet(t, when+"old certificate, old bundle", before, before, everyClient),
		c.meet(t, when+"old certificate, both roots", before, after, everyClient),
		c.meet(t, when+"old certificate, new bundle", before, last, sameRoot),
		c.meet(t, when+"new certificate, old bundle", after, before, c.stale),
		c.meet(t, when+"new certificate, both roots", after, after, everyClient),
		c.meet(t, when+"last certificate, old bundle", last, before, sameRoot),
		c.meet(t, when+"last certificate, both roots", last, after, everyClient),
		c.meet(t, when+"last certificate, new bundle", last, last, everyClient),
	}
}

// meet is a server with a certificate of one state, and a client with the bundle of another.
func (c change) meet(t *testing.T, name string, certificate, bundle *rotation.State, verified func(string) bool) pairing {
	t.Helper()
	pair, err := certificate.Active.Issue(time.Now(), pki.LeafSpec{
		DNSNames: []string{serverName}, Usages: []v1alpha1.CertificateUsage{v1alpha1.UsageServerAuth},
		Key: pki.KeySpec{Algorithm: v1alpha1.ECDSA, Size: 256},
	}, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca-bundle.crt")
	if err := os.WriteFile(file, bundle.Bundle().Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	return pairing{c.name + ": " + name, serve(t, pair), file, verified}
}
