package pki_test

import (
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"github.com/servingcert/operator/controllers/internal/pki"
)

// TestTrimCrossSigned checks that certificates are no longer sent that lead only to roots no longer
// trusted.
func TestTrimCrossSigned(t *testing.T) {
	generations := fifthOf(t)[:4]
	crossSigned := generations[3].CrossSigned()
	for _, tc := range []struct {
		name    string
		trusted []int
		want    int
	}{
		{"every root", []int{3, 2, 1, 0}, 3},
		{"the oldest is forgotten", []int{3, 2, 1}, 2},
		{"the two oldest are", []int{3, 2}, 1},
		{"all but its own are", []int{3}, 0},
		{"only the oldest is left", []int{0}, 3},
		{"one in the middle is forgotten", []int{3, 1}, 2},
		{"none is trusted", nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var trusted pki.Bundle
			for _, i := range tc.trusted {
				trusted = append(trusted, generations[i].Certificate())
			}
			got := pki.TrimCrossSigned(crossSigned, trusted)
			if len(got) != tc.want || !slices.EqualFunc(got, crossSigned[:len(got)], (*x509.Certificate).Equal) {
				t.Errorf("UsefulBridge = %v, want the first %d of %v", subjectsOf(got), tc.want, subjectsOf(crossSigned))
			}
			if again := pki.TrimCrossSigned(got, trusted); len(again) != len(got) {
				t.Errorf("of what is useful, only %v is", subjectsOf(again))
			}
		})
	}
	if got := pki.TrimCrossSigned(nil, pki.Bundle{generations[0].Certificate()}); len(got) != 0 {
		t.Errorf("UsefulBridge of none = %v", subjectsOf(got))
	}
}

// TestParseCrossSigned checks that a cross-signed chain is the same after it was saved, and that an
// unreadable one is read as empty.
func TestParseCrossSigned(t *testing.T) {
	last := fifthOf(t)[4]
	saved := map[string][]byte{}
	last.Save(saved, "crt", "key", "bridge")
	for _, tc := range []struct {
		name    string
		encoded []byte
		want    []*x509.Certificate
	}{
		{"as it was saved", saved["bridge"], last.CrossSigned()},
		{"none", nil, nil},
		{"garbage", []byte("garbage"), nil},
		{"a key", saved["key"], nil},
		{"half of a certificate", saved["bridge"][:200], nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := pki.ParseCrossSigned(tc.encoded); !slices.EqualFunc(got, tc.want, (*x509.Certificate).Equal) {
				t.Errorf("ParseBridge = %v, want %v", subjectsOf(got), subjectsOf(tc.want))
			}
		})
	}
	delete(saved, "bridge")
	last.WithCrossSigned(nil).Save(saved, "crt", "key", "bridge")
	if saved["bridge"] != nil {
		t.Error("a CA without a bridge saves one")
	}
}

// TestWithCrossSigned checks that WithCrossSigned changes only a copy of the CA, and that a server
// sends the cross-signed chain after the CA's chain.
func TestWithCrossSigned(t *testing.T) {
	root := makeCA(t, nil, "root")
	upper := makeCA(t, &root, "upper")
	old := generateRoot(t, now)
	alone := load(t, upper.pair(t))
	bridged := succeedBelow(t, old, alone, root.Certificate, old.Certificate())
	if len(alone.CrossSigned()) != 0 || len(bridged.CrossSigned()) != 1 {
		t.Fatalf("bridges of %d and %d certificates, want none before and one after", len(alone.CrossSigned()), len(bridged.CrossSigned()))
	}
	if alone.Fingerprint() != bridged.Fingerprint() {
		t.Error("the bridge makes another CA of it")
	}
	pair, leaf := issue(t, bridged, now, day, leafSpec())
	want := []*x509.Certificate{leaf.Certificate, upper.Certificate, bridged.CrossSigned()[0]}
	if sent := parseCertificates(t, pair.Certificate); !slices.EqualFunc(sent, want, (*x509.Certificate).Equal) {
		t.Errorf("it sends %v, want %v", subjectsOf(sent), subjectsOf(want))
	}
}

// TestCrossSignedThatExpires checks that a certificate is followed by the first cross-signed
// certificate and by those that do not expire before it, and that CheckIssuerAndChain accepts it.
func TestCrossSignedThatExpires(t *testing.T) {
	generations := fifthOf(t)
	last := generations[4]
	crossSigned := last.CrossSigned()
	ends := func(i int) time.Duration { return crossSigned[i].NotAfter.Sub(whole(now)) }
	for _, tc := range []struct {
		name  string
		lasts time.Duration
		want  int
	}{
		{"shorter than all", ends(2) - time.Second, 3},
		{"as long as all", ends(2), 3},
		{"longer than the last", ends(2) + time.Second, 2},
		{"longer than the second", ends(1) + time.Second, 1},
		{"longer than the first", ends(0) + time.Second, 1},
		{"as long as the CA", 10_000 * day, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pair, leaf := issue(t, last, whole(now), tc.lasts, leafSpec())
			if sent := parseCertificates(t, pair.Certificate)[1:]; !slices.EqualFunc(sent, crossSigned[:tc.want], (*x509.Certificate).Equal) {
				t.Errorf("it is sent with %v, want %d certificates", subjectsOf(sent), tc.want)
			}
			endorsed, err := last.SignPublicKey(leafSpec(), leaf.PublicKey, whole(now), whole(now).Add(tc.lasts))
			if sent := parseCertificates(t, must(t, endorsed, err))[1:]; !slices.EqualFunc(sent, crossSigned[:tc.want], (*x509.Certificate).Equal) {
				t.Errorf("it is endorsed with %v, want %d certificates", subjectsOf(sent), tc.want)
			}
			if err := leaf.CheckIssuerAndChain(last.Certificate(), nil, crossSigned, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCheckIssuerAndChainCrossSigned checks that no certificate needs reissuing because a
// cross-signed chain became shorter when a root was removed from trust.
func TestCheckIssuerAndChainCrossSigned(t *testing.T) {
	const notTheChain = "not the CA's chain"
	generations := fifthOf(t)
	ca, crossSigned := generations[3].Certificate(), generations[3].CrossSigned()
	pair, leaf := issue(t, generations[3], now, day, leafSpec())
	other := succeed(t, generations[2], generations[3], generations[2].Certificate()).CrossSigned()
	unrelated, oldest := makeCA(t, nil, "stranger"), generations[0].Certificate()
	below := makeCA(t, &unrelated, "below")
	sameName := makeCertificate(t, &unrelated, caTemplate(ca.Subject.CommonName, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, 0 }))
	own := parseCertificates(t, pair.Certificate)
	for _, tc := range []struct {
		name, want  string
		sent        []*x509.Certificate
		crossSigned []*x509.Certificate
	}{
		{"as it was made", "", own[1:], crossSigned},
		{"the bridge was longer", "", own[1:], crossSigned[:2]},
		{"there is no bridge any more", "", own[1:], nil},
		{"the bridge was shorter", notTheChain, crossSigned[:2], crossSigned},
		{"there was no bridge", notTheChain, nil, crossSigned},
		{"neither then nor now", "", nil, nil},
		{"a bridge made at another time", notTheChain, other, crossSigned},
		{"a link is missing", notTheChain, []*x509.Certificate{crossSigned[0], crossSigned[2]}, crossSigned[:1]},
		{"the wrong order", notTheChain, []*x509.Certificate{crossSigned[0], crossSigned[2], crossSigned[1]}, crossSigned[:1]},
		{"its root after it", notTheChain, append(slices.Clip(own[1:]), oldest), crossSigned},
		{"its own CA after it", notTheChain, []*x509.Certificate{ca}, nil},
		{"a foreign CA after it", notTheChain, append(slices.Clip(own[1:]), below.Certificate), crossSigned},
		{"a foreign root after it", notTheChain, append(slices.Clip(own[1:]), unrelated.Certificate), crossSigned},
		{"no CA after it, of the CA's name", notTheChain, []*x509.Certificate{sameName.Certificate}, nil},
		{"a serving certificate after it", notTheChain, append(slices.Clip(own[1:]), leaf.Certificate), crossSigned},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sent := append([]*x509.Certificate{leaf.Certificate}, tc.sent...)
			wantError(t, parseLeaf(t, pemOf(sent...)).CheckIssuerAndChain(ca, nil, tc.crossSigned, nil), tc.want)
		})
	}
}
