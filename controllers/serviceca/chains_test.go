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

// change is a rotation from one CA to another, both from a source.
type change struct {
	name     string
	from, to func(*fixture)
	// stale reports whether a client verifies leaves of the new CA with the old bundle alone.
	stale func(client string) bool
	// crossSigned is how the new CA chains to the old root.
	crossSigned crossSigning
}

// crossSigning is how a new CA chains to an old root.
type crossSigning string

const (
	// noCrossSigned: it does not.
	noCrossSigned crossSigning = "none"
	// notNeeded: the old root is also the new one.
	notNeeded crossSigning = "not needed"
	// short: by one certificate, which may be sent after the old root is no longer trusted.
	short crossSigning = "short"
	// long: by more than one certificate, which must not be sent after the old root is no longer
	// trusted.
	long crossSigning = "long"
)

func everyClient(string) bool { return true }

func noClient(string) bool { return false }

// thatTriesEveryPath reports whether a client tries every path.
func thatTriesEveryPath(client string) bool { return client == "Go" || client == "Java" }

// lostKey and sameKey are the changes that are no remedy for a compromised key: the key is lost, or
// it stays the same.
const (
	lostKey = "a lost key"
	sameKey = "the same CA below another root"
)

// changes returns every kind of change of a source.
func changes(t *testing.T) []change {
	t.Helper()
	corp, other, sameName := generateCANow(t, "corp root", nil), generateCANow(t, "other root", nil), generateCANow(t, "corp root", nil)
	upper := generateCANow(t, "upper", other)
	corpCA, corpCA2, otherCA, namesakeCA := generateCANow(t, "corp CA", corp), generateCANow(t, "corp CA 2", corp), generateCANow(t, "other CA", other), generateCANow(t, "namesake CA", sameName)
	renewed := generateCAWith(t, "corp CA", corpCA.key, other, current)
	strict, noneBelow, oneBelow := generateCANow(t, "strict CA", other, naming(other)), generateCANow(t, "0", nil, pathLen(0)), generateCANow(t, "1", nil, pathLen(1))
	self := func(*fixture) {}
	return []change{
		{"selfSigned to its successor", self, func(s *fixture) { s.serviceCA.Spec.Rotation.Trigger = "now" }, everyClient, short},
		{"selfSigned to a root that was brought", self, withSourceSecrets(corp, corp), everyClient, short},
		{"selfSigned to an intermediate that was brought", self, withSourceSecrets(other, generateCANow(t, "lower", upper), upper), everyClient, short},
		{"selfSigned to certManager", self, answered(corp, corpCA), everyClient, short},
		{"certManager to selfSigned", answered(corp, corpCA), selfSigned, everyClient, long},
		{"the issuer's root is replaced", withSourceSecrets(corp, corpCA), withSourceSecrets(other, otherCA), everyClient, long},
		{"the issuer's root is replaced by one of its name", withSourceSecrets(corp, corpCA), withSourceSecrets(sameName, namesakeCA), everyClient, long},
		{"another CA below the same root", withSourceSecrets(corp, corpCA), withSourceSecrets(corp, corpCA2), everyClient, notNeeded},
		{sameKey, withSourceSecrets(corp, corpCA), withSourceSecrets(other, renewed), everyClient, long},
		{"a CA that names its issuer by serial number", self, withSourceSecrets(other, strict), thatTriesEveryPath, short},
		{"the old root allows one CA below it", withSourceSecrets(oneBelow, oneBelow), withSourceSecrets(other, otherCA), thatTriesEveryPath, short},
		{"the old root allows no CA below it", withSourceSecrets(noneBelow, noneBelow), withSourceSecrets(other, otherCA), noClient, noCrossSigned},
		{lostKey, self, func(s *fixture) { s.secret = nil }, noClient, noCrossSigned},
	}
}

// current sets a validity around the present day, because external clients verify by the clock of
// the machine.
func current(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-1000*time.Hour), time.Now().Add(2000*time.Hour)
}

func generateCANow(t *testing.T, name string, parent *testCA, edits ...func(*x509.Certificate)) *testCA {
	t.Helper()
	return generateCA(t, name, parent, append(edits, current)...)
}

func pathLen(most int) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = most, most == 0 }
}

// naming returns an edit that identifies the issuer as easy-rsa does: by key identifier, name and
// serial number.
func naming(issuer *testCA) func(*x509.Certificate) {
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

func selfSigned(s *fixture) { s.serviceCA.Spec.Source = v1alpha1.CASource{} }

func withSourceSecrets(root *testCA, chain ...*testCA) func(*fixture) {
	return func(s *fixture) {
		s.serviceCA.Spec.Source = v1alpha1.CASource{Secret: &v1alpha1.SecretSource{Name: "corp"}}
		s.sourceSecret = sourceSecret(s.T, pemOf(root), chain...)
	}
}

func answered(root *testCA, chain ...*testCA) func(*fixture) {
	return func(s *fixture) { s.answer(pemOf(root), chain...) }
}

// pairing is a server, and the roots of a client that connects to it.
type pairing struct {
	name   string
	server tlsServer
	roots  string
	// verified reports whether this client must verify the server.
	verified func(client string) bool
}

// TestChains checks, for every kind of change from one CA to another, that every kind of client
// verifies servers with every bundle that the client may hold, as docs/rotation.md promises.
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

// begin returns the state before the change. Certificates of that CA are valid for half an hour.
func (c change) begin(t *testing.T) (*fixture, *rotation.State) {
	t.Helper()
	s := newFixture(t, "")
	s.now, s.longestDuration, s.serviceCA.Spec.Rotation.PreviousTrust = time.Now().Add(-4*time.Hour), 30*time.Minute, v1alpha1.TrustUntilUnused
	c.from(s)
	before := s.settle()
	s.later(time.Hour)
	return s, before
}

// routine returns the pairings before, during and after a routine change.
func (c change) routine(t *testing.T) []pairing {
	t.Helper()
	s, before := c.begin(t)
	c.to(s)
	after := s.rotated()
	latest := after
	s.later(40 * time.Minute)
	if middle := s.settle(); len(middle.Previous) > 0 {
		latest = middle
	}
	s.later(40 * time.Minute)
	last := s.settle()
	if (latest != after) != (c.crossSigned == long) {
		t.Errorf("%s: the bridge is not %s", c.name, c.crossSigned)
	}
	met := c.meets(t, "", before, after, last)
	if c.crossSigned != long {
		// A certificate that is sent with a long cross-signed chain has expired before.
		met = append(met, c.meet(t, "new certificate, new bundle", after, last, everyClient))
	}
	return append(met,
		c.meet(t, "latest certificate, both roots", latest, after, everyClient),
		c.meet(t, "latest certificate, new bundle", latest, last, everyClient),
	)
}

// compromise returns the pairings when the old CA was compromised.
func (c change) compromise(t *testing.T) []pairing {
	t.Helper()
	s, before := c.begin(t)
	c.to(s)
	s.serviceCA.Spec.Rotation.Trigger, s.serviceCA.Spec.Rotation.TriggerReason = "stolen", v1alpha1.TriggerCompromise
	after := s.rotated()
	s.later(timeout)
	last := s.settle()
	if c.crossSigned == long {
		c.stale = noClient
	}
	return append(c.meets(t, "stolen: ", before, after, last), c.meet(t, "stolen: new certificate, new bundle", after, last, everyClient))
}

// meets returns the pairings before, after and long after the switch of the signer.
func (c change) meets(t *testing.T, when string, before, after, last *rotation.State) []pairing {
	t.Helper()
	if len(last.Previous) > 0 || (len(after.Bundle()) == 1) != (c.crossSigned == notNeeded) || before.Active.Fingerprint() == after.Active.Fingerprint() {
		t.Fatalf("%s: %sit has not taken place", c.name, when)
	}
	sameRoot := func(string) bool { return c.crossSigned == notNeeded }
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

// meet returns the pairing of a server with a certificate from one state and a client with the
// bundle of another.
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
