package pki_test

import (
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"github.com/servingcert/operator/controllers/internal/pki"
)

// TestUsefulBridge: once a root is forgotten, what leads only to it is not sent any more.
func TestUsefulBridge(t *testing.T) {
	generations := fifthOf(t)[:4]
	bridge := generations[3].Bridge()
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
			got := pki.UsefulBridge(bridge, trusted)
			if len(got) != tc.want || !slices.EqualFunc(got, bridge[:len(got)], (*x509.Certificate).Equal) {
				t.Errorf("UsefulBridge = %v, want the first %d of %v", subjectsOf(got), tc.want, subjectsOf(bridge))
			}
			if again := pki.UsefulBridge(got, trusted); len(again) != len(got) {
				t.Errorf("of what is useful, only %v is", subjectsOf(again))
			}
		})
	}
	if got := pki.UsefulBridge(nil, pki.Bundle{generations[0].Certificate()}); len(got) != 0 {
		t.Errorf("UsefulBridge of none = %v", subjectsOf(got))
	}
}

// TestParseBridge: a bridge comes back as it was saved, and one that cannot be read is none.
func TestParseBridge(t *testing.T) {
	last := fifthOf(t)[4]
	saved := map[string][]byte{}
	last.Save(saved, "crt", "key", "bridge")
	for _, tc := range []struct {
		name    string
		encoded []byte
		want    []*x509.Certificate
	}{
		{"as it was saved", saved["bridge"], last.Bridge()},
		{"none", nil, nil},
		{"garbage", []byte("garbage"), nil},
		{"a key", saved["key"], nil},
		{"half of a certificate", saved["bridge"][:200], nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := pki.ParseBridge(tc.encoded); !slices.EqualFunc(got, tc.want, (*x509.Certificate).Equal) {
				t.Errorf("ParseBridge = %v, want %v", subjectsOf(got), subjectsOf(tc.want))
			}
		})
	}
	delete(saved, "bridge")
	last.WithBridge(nil).Save(saved, "crt", "key", "bridge")
	if saved["bridge"] != nil {
		t.Error("a CA without a bridge saves one")
	}
}

// TestWithBridge: a bridge is given to a copy, and stands after the chain in what a server sends.
func TestWithBridge(t *testing.T) {
	root := makeCA(t, nil, "root")
	upper := makeCA(t, &root, "upper")
	old := generateRoot(t, now)
	alone := load(t, upper.pair(t))
	bridged := succeedBelow(t, old, alone, root.Certificate, old.Certificate())
	if len(alone.Bridge()) != 0 || len(bridged.Bridge()) != 1 {
		t.Fatalf("bridges of %d and %d certificates, want none before and one after", len(alone.Bridge()), len(bridged.Bridge()))
	}
	if alone.Fingerprint() != bridged.Fingerprint() {
		t.Error("the bridge makes another CA of it")
	}
	pair, leaf := issue(t, bridged, now, day, leafSpec())
	want := []*x509.Certificate{leaf.Certificate, upper.Certificate, bridged.Bridge()[0]}
	if sent := parseCertificates(t, pair.Certificate); !slices.EqualFunc(sent, want, (*x509.Certificate).Equal) {
		t.Errorf("it sends %v, want %v", subjectsOf(sent), subjectsOf(want))
	}
}

// TestBridgeThatEnds: a certificate is sent with no more of a bridge than lasts as long as it does, but for the first certificate; and it is the
// CA's all the same.
func TestBridgeThatEnds(t *testing.T) {
	generations := fifthOf(t)
	last := generations[4]
	bridge := last.Bridge()
	ends := func(i int) time.Duration { return bridge[i].NotAfter.Sub(whole(now)) }
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
			if sent := parseCertificates(t, pair.Certificate)[1:]; !slices.EqualFunc(sent, bridge[:tc.want], (*x509.Certificate).Equal) {
				t.Errorf("it is sent with %v, want %d certificates", subjectsOf(sent), tc.want)
			}
			endorsed, err := last.Endorse(leafSpec(), leaf.PublicKey, whole(now), whole(now).Add(tc.lasts))
			if sent := parseCertificates(t, must(t, endorsed, err))[1:]; !slices.EqualFunc(sent, bridge[:tc.want], (*x509.Certificate).Equal) {
				t.Errorf("it is endorsed with %v, want %d certificates", subjectsOf(sent), tc.want)
			}
			if err := leaf.SignedBy(last.Certificate(), nil, bridge, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSignedByBridged: a bridge becomes shorter as roots are forgotten, and no certificate is made anew for that.
func TestSignedByBridged(t *testing.T) {
	const notTheChain = "not the CA's chain"
	generations := fifthOf(t)
	ca, bridge := generations[3].Certificate(), generations[3].Bridge()
	pair, leaf := issue(t, generations[3], now, day, leafSpec())
	other := succeed(t, generations[2], generations[3], generations[2].Certificate()).Bridge()
	stranger, oldest := makeCA(t, nil, "stranger"), generations[0].Certificate()
	below := makeCA(t, &stranger, "below")
	namesake := makeCertificate(t, &stranger, caTemplate(ca.Subject.CommonName, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, 0 }))
	own := parseCertificates(t, pair.Certificate)
	for _, tc := range []struct {
		name, want string
		sent       []*x509.Certificate
		bridge     []*x509.Certificate
	}{
		{"as it was made", "", own[1:], bridge},
		{"the bridge was longer", "", own[1:], bridge[:2]},
		{"there is no bridge any more", "", own[1:], nil},
		{"the bridge was shorter", notTheChain, bridge[:2], bridge},
		{"there was no bridge", notTheChain, nil, bridge},
		{"neither then nor now", "", nil, nil},
		{"a bridge made at another time", notTheChain, other, bridge},
		{"a link is missing", notTheChain, []*x509.Certificate{bridge[0], bridge[2]}, bridge[:1]},
		{"the wrong order", notTheChain, []*x509.Certificate{bridge[0], bridge[2], bridge[1]}, bridge[:1]},
		{"its root after it", notTheChain, append(slices.Clip(own[1:]), oldest), bridge},
		{"its own CA after it", notTheChain, []*x509.Certificate{ca}, nil},
		{"a foreign CA after it", notTheChain, append(slices.Clip(own[1:]), below.Certificate), bridge},
		{"a foreign root after it", notTheChain, append(slices.Clip(own[1:]), stranger.Certificate), bridge},
		{"no CA after it, of the CA's name", notTheChain, []*x509.Certificate{namesake.Certificate}, nil},
		{"a serving certificate after it", notTheChain, append(slices.Clip(own[1:]), leaf.Certificate), bridge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sent := append([]*x509.Certificate{leaf.Certificate}, tc.sent...)
			wantError(t, parseLeaf(t, pemOf(sent...)).SignedBy(ca, nil, tc.bridge, nil), tc.want)
		})
	}
}
