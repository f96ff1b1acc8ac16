package pki_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/servingcert/operator/controllers/internal/pki"
)

// succeed returns the next CA, a root, with the cross-signed chain that it has when it takes over
// from the CA before, whose root is the last argument.
func succeed(t rapid.TB, before, next *pki.Authority, root *x509.Certificate) *pki.Authority {
	t.Helper()
	return succeedBelow(t, before, next, next.Certificate(), root)
}

// succeedBelow is succeed for a next CA that is an intermediate below nextRoot.
func succeedBelow(t rapid.TB, before, next *pki.Authority, nextRoot, root *x509.Certificate) *pki.Authority {
	t.Helper()
	crossSigned, err := before.CrossSign(next, nextRoot, root)
	return next.WithCrossSigned(must(t, crossSigned, err))
}

// generationsOf returns successive CAs, issued a day apart, each with a cross-signed chain to those
// before it. The last is issued a day before now.
func generationsOf(t rapid.TB, keys ...pki.KeySpec) []*pki.Authority {
	t.Helper()
	var generations []*pki.Authority
	for i, key := range keys {
		made := generateRoot(t, now.Add(-time.Duration(len(keys)-i)*day), func(s *pki.RootSpec) { s.Key = key })
		if i > 0 {
			made = succeed(t, generations[i-1], made, generations[i-1].Certificate())
		}
		generations = append(generations, made)
	}
	return generations
}

// fifthOf returns five generations with ECDSA keys. The last has a cross-signed chain of maximum
// length.
func fifthOf(t rapid.TB) []*pki.Authority {
	t.Helper()
	return generationsOf(t, slices.Repeat([]pki.KeySpec{p256Key}, 5)...)
}

func subjectsOf(certificates []*x509.Certificate) []string {
	var subjects []string
	for _, certificate := range certificates {
		subjects = append(subjects, certificate.Subject.CommonName+" by "+certificate.Issuer.CommonName)
	}
	return subjects
}

// TestCrossSigned checks that the cross-signed certificate of the next CA is valid only while both
// CAs are, and has the next CA's constraints.
func TestCrossSigned(t *testing.T) {
	old := makeCA(t, nil, "old", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = now.Add(-10*day), now.Add(100*day)
	})
	for _, tc := range []struct {
		name            string
		next            func(*x509.Certificate)
		begins, ends    time.Duration
		pathLen         int
		permittedDomain string
	}{
		{"the next lasts longer", validUntil(-day, 200*day), -day, 100 * day, -1, ""},
		{"the next ends sooner", validUntil(-day, 50*day), -day, 50 * day, -1, ""},
		{"the next is older", validUntil(-20*day, 200*day), -10 * day, 100 * day, -1, ""},
		{"the next is older and ends sooner", validUntil(-20*day, 50*day), -10 * day, 50 * day, -1, ""},
		{"a path length", func(c *x509.Certificate) { c.MaxPathLen = 2 }, -day, 100 * day, 2, ""},
		{"a path length of zero", func(c *x509.Certificate) { c.MaxPathLenZero = true }, -day, 100 * day, 0, ""},
		{"name constraints", func(c *x509.Certificate) {
			c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"svc"}, true
		}, -day, 100 * day, -1, "svc"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			next := makeCA(t, nil, "next", tc.next)
			cross := crossSigned(t, old, next)
			if begins, ends := whole(now.Add(tc.begins)), whole(now.Add(tc.ends)); !cross.NotBefore.Equal(begins) || !cross.NotAfter.Equal(ends) {
				t.Errorf("valid from %s to %s, want %s to %s", cross.NotBefore, cross.NotAfter, begins, ends)
			}
			if cross.MaxPathLen != tc.pathLen || cross.MaxPathLenZero != next.MaxPathLenZero {
				t.Errorf("path length = %d, want %d", cross.MaxPathLen, tc.pathLen)
			}
			if tc.permittedDomain == "" {
				return
			}
			kept, wanted := extension(t, cross, 2, 5, 29, 30), extension(t, next.Certificate, 2, 5, 29, 30)
			if !kept.Critical || !bytes.Equal(kept.Value, wanted.Value) || !slices.Contains(cross.PermittedDNSDomains, tc.permittedDomain) {
				t.Errorf("name constraints = %v, want those of the next CA, critical", cross.PermittedDNSDomains)
			}
		})
	}
}

func validUntil(from, to time.Duration) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(from), now.Add(to) }
}

// whole returns a time in whole seconds, as certificates have it.
func whole(at time.Time) time.Time { return at.Truncate(time.Second) }

// crossSigned returns the only certificate of the cross-signed chain from an old root to the next
// CA, and fails if there is not exactly one.
func crossSigned(t *testing.T, old, next testCA) *x509.Certificate {
	t.Helper()
	crossSigned, err := load(t, old.pair(t)).CrossSign(load(t, next.pair(t)), next.Certificate, old.Certificate)
	must(t, crossSigned, err)
	if len(crossSigned) != 1 {
		t.Fatalf("the bridge is %v, want one certificate", subjectsOf(crossSigned))
	}
	return crossSigned[0]
}

// TestCrossSignedIdentity checks the names and the key identifiers by which clients find the path,
// also if a company gives all its CAs the same name.
func TestCrossSignedIdentity(t *testing.T) {
	for _, name := range []string{"next", "old"} {
		t.Run("the next is called "+name, func(t *testing.T) {
			old := makeCA(t, nil, "old")
			next := makeCA(t, nil, name, func(c *x509.Certificate) {
				// openssl makes roots whose authority key identifier is their own.
				c.SubjectKeyId, c.AuthorityKeyId = []byte("next"), []byte("next")
				c.OCSPServer, c.IssuingCertificateURL = []string{"http://ocsp"}, []string{"http://issuer"}
				c.CRLDistributionPoints = []string{"http://crl"}
			})
			cross := crossSigned(t, old, next)
			if cross.SerialNumber.Cmp(next.SerialNumber) == 0 || cross.SerialNumber.Cmp(old.SerialNumber) == 0 {
				t.Error("it has the serial number of another certificate")
			}
			if !bytes.Equal(cross.SubjectKeyId, next.SubjectKeyId) || !bytes.Equal(cross.AuthorityKeyId, old.SubjectKeyId) {
				t.Errorf("key identifiers: subject %x, authority %x; want %x, %x",
					cross.SubjectKeyId, cross.AuthorityKeyId, next.SubjectKeyId, old.SubjectKeyId)
			}
			if !bytes.Equal(cross.RawSubject, next.RawSubject) || !bytes.Equal(cross.RawIssuer, old.RawSubject) {
				t.Errorf("it is %v", subjectsOf([]*x509.Certificate{cross}))
			}
			if public, ok := next.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(cross.PublicKey) {
				t.Error("it has another public key")
			}
			if places := slices.Concat(cross.OCSPServer, cross.IssuingCertificateURL, cross.CRLDistributionPoints); len(places) > 0 {
				t.Errorf("it sends clients to %v, where nobody knows it", places)
			}
		})
	}
}

// below returns an intermediate and the CA above it, which root signed.
func below(t *testing.T, root testCA, editLower, editUpper func(*x509.Certificate)) []testCA {
	t.Helper()
	upper := makeCA(t, &root, "upper", editUpper)
	return []testCA{makeCA(t, &upper, "lower", editLower), upper}
}

// TestCrossSign cross-signs from provided CAs, some of which allow no CA below them.
func TestCrossSign(t *testing.T) {
	anything := func(*x509.Certificate) {}
	pathLen := func(most int) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = most, most == 0 }
	}
	root, other, free := makeCA(t, nil, "root"), makeCA(t, nil, "other"), makeCA(t, nil, "old")
	zero, one := makeCA(t, nil, "old", pathLen(0)), makeCA(t, nil, "old", pathLen(1))
	direct, whole := []string{"next by old"}, []string{"next by lower", "lower by upper", "upper by root"}
	deep := below(t, makeCA(t, &root, "middle"), anything, anything)
	for _, tc := range []struct {
		name  string
		chain []testCA
		root  testCA
		want  []string
	}{
		{"a root", []testCA{free}, free, direct},
		{"a root that allows no CA below it", []testCA{zero}, zero, nil},
		{"a root that allows one", []testCA{one}, one, direct},
		{"an intermediate", below(t, root, anything, anything), root, whole},
		{"an intermediate that allows none below it", below(t, root, pathLen(0), anything), root, nil},
		{"the CA above allows one too few", below(t, root, anything, pathLen(1)), root, nil},
		{"the CA above allows just enough", below(t, root, anything, pathLen(2)), root, whole},
		{"the CA above was renewed meanwhile", below(t, root, anything, validUntil(-time.Minute, 100*day)), root, whole},
		{"a chain of which the end is missing", deep, root, nil},
		{"a root that it does not lead to", below(t, root, anything, anything), other, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old := load(t, tc.chain[0].pair(t, tc.chain[1:]...))
			next := succeed(t, old, load(t, makeCA(t, nil, "next").pair(t)), tc.root.Certificate)
			if got := subjectsOf(next.CrossSigned()); !slices.Equal(got, tc.want) {
				t.Fatalf("the bridge is %v, want %v", got, tc.want)
			}
			pair, _ := issue(t, next, now, day, leafSpec())
			if err := verify(t, pair.Certificate, tc.root.Certificate, now, "web.shop.svc"); (err == nil) != (tc.want != nil) {
				t.Errorf("by the old root: %v", err)
			}
		})
	}
}

// TestCrossSignedTooLong checks that there is no cross-signed chain if it would be longer than
// MaxCrossSigned, instead of one that stops before a root.
func TestCrossSignedTooLong(t *testing.T) {
	root := makeCA(t, nil, "root")
	middle := makeCA(t, &root, "middle")
	chain := below(t, middle, func(*x509.Certificate) {}, func(*x509.Certificate) {})
	old := load(t, chain[0].pair(t, chain[1], middle))
	next := load(t, makeCA(t, nil, "next").pair(t))
	crossSigned, err := old.CrossSign(next, next.Certificate(), root.Certificate)
	if err != nil || len(crossSigned) != 0 {
		t.Errorf("BridgeTo = %v, %v; want none", subjectsOf(crossSigned), err)
	}
}

// TestCrossSignedIsCut checks that a server sends at most MaxCrossSigned cross-signed certificates,
// after any number of generations.
func TestCrossSignedIsCut(t *testing.T) {
	generations := fifthOf(t)
	for i, want := range []int{0, 1, 2, 3, pki.MaxCrossSigned} {
		crossSigned := generations[i].CrossSigned()
		if len(crossSigned) != want {
			t.Errorf("generation %d has a bridge of %d, want %d", i, len(crossSigned), want)
		}
		for j, certificate := range crossSigned {
			issuer, subject := generations[i-j-1].Certificate(), generations[i-j].Certificate()
			if certificate.CheckSignatureFrom(issuer) != nil || !bytes.Equal(certificate.RawSubject, subject.RawSubject) {
				t.Errorf("generation %d: the bridge is %v", i, subjectsOf(crossSigned))
			}
		}
	}
}

// TestCrossSignExpired checks that cross-signing from an expired CA is no error and returns an
// empty chain, because no client would verify by it.
func TestCrossSignExpired(t *testing.T) {
	old := makeCA(t, nil, "old", validUntil(-10*day, -day))
	next := makeCA(t, nil, "next", validUntil(-time.Minute, 100*day))
	crossSigned, err := load(t, old.pair(t)).CrossSign(load(t, next.pair(t)), next.Certificate, old.Certificate)
	if err != nil || len(crossSigned) != 0 {
		t.Errorf("BridgeTo = %v, %v; want none", subjectsOf(crossSigned), err)
	}
}

// TestCrossSignedOfRenewed checks that a certificate with the same key and name as the one before
// it needs no cross-signed certificate from that.
func TestCrossSignedOfRenewed(t *testing.T) {
	key := newECDSA(t, elliptic.P256())
	grandparent := makeCA(t, nil, "grandparent")
	old := certify(t, nil, caTemplate("old"), key)
	before := succeed(t, load(t, grandparent.pair(t)), load(t, old.pair(t)), grandparent.Certificate)
	for _, tc := range []struct {
		name string
		next testCA
		want []string
	}{
		{"the same key and name", certify(t, nil, caTemplate("old", validUntil(-time.Minute, 2000*day)), key), []string{"old by grandparent"}},
		{"the same key under another name", certify(t, nil, caTemplate("next"), key), []string{"next by old", "old by grandparent"}},
		{"another key under the same name", makeCA(t, nil, "old"), []string{"old by old", "old by grandparent"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			next := succeed(t, before, load(t, tc.next.pair(t)), old.Certificate)
			if got := subjectsOf(next.CrossSigned()); !slices.Equal(got, tc.want) {
				t.Errorf("the bridge is %v, want %v", got, tc.want)
			}
			pair, _ := issue(t, next, now, day, leafSpec())
			for _, root := range []testCA{grandparent, old, tc.next} {
				if err := verify(t, pair.Certificate, root.Certificate, now, "web.shop.svc"); err != nil {
					t.Errorf("by %s: %v", root.Subject.CommonName, err)
				}
			}
		})
	}
}
