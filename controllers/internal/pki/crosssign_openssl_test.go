package pki_test

import (
	"crypto/x509"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/servingcert/operator/api/v1alpha1"
	"github.com/servingcert/operator/controllers/internal/pki"
)

var rsaKey = pki.KeySpec{Algorithm: v1alpha1.RSA, Size: 2048}

// agree fails unless Go and OpenSSL both accept what a server sends, or both reject it because they
// find no trusted root.
func agree(t *testing.T, sent []byte, accepted bool, trusted ...*x509.Certificate) {
	t.Helper()
	err := parseLeaf(t, sent).VerifyWithRoots(poolOf(trusted...), now)
	if (err == nil) != accepted {
		t.Errorf("Go accepts it: %v, want %v (%v)", err == nil, accepted, err)
	}
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Log("there is no openssl here")
		return
	}
	rootsFile, sentFile := filepath.Join(t.TempDir(), "roots.pem"), filepath.Join(t.TempDir(), "tls.crt")
	writeFile(t, rootsFile, pemOf(trusted...))
	writeFile(t, sentFile, sent)
	output, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-purpose", "sslserver",
		"-attime", strconv.FormatInt(now.Unix(), 10), "-CAfile", rootsFile, "-no-CApath", "-no-CAstore",
		"-verify_hostname", "web.shop.svc", "-untrusted", sentFile, sentFile).CombinedOutput()
	if (err == nil) != accepted {
		t.Errorf("OpenSSL accepts it: %v, want %v: %s", err == nil, accepted, output)
	}
	if !accepted && !strings.Contains(string(output), "unable to get") {
		t.Errorf("OpenSSL refuses it for another reason: %s", output)
	}
}

// keyPairs are the kinds of keys of two successive generations.
var keyPairs = [][2]pki.KeySpec{
	{rsaKey, rsaKey}, {p256Key, p256Key}, {ed25519Key, ed25519Key},
	{rsaKey, p256Key}, {p256Key, rsaKey}, {p256Key, ed25519Key}, {ed25519Key, rsaKey},
}

// TestPairings checks that clients verify servers before and after a rotation, whichever of the two
// has not changed over yet.
func TestPairings(t *testing.T) {
	for _, keys := range keyPairs {
		generations := generationsOf(t, keys[0], keys[1])
		oldRoot, newRoot := generations[0].Certificate(), generations[1].Certificate()
		oldLeaf, _ := issue(t, generations[0], now, day, leafSpec())
		newLeaf, _ := issue(t, generations[1], now, day, leafSpec())
		unbridged, _ := issue(t, generations[1].WithCrossSigned(nil), now, day, leafSpec())
		oldBundle, newBundle := []*x509.Certificate{oldRoot}, []*x509.Certificate{newRoot, oldRoot}
		for _, tc := range []struct {
			name     string
			sent     pki.Pair
			trusted  []*x509.Certificate
			accepted bool
		}{
			{"old leaf, old bundle", oldLeaf, oldBundle, true},
			{"old leaf, new bundle", oldLeaf, newBundle, true},
			{"new leaf, old bundle", newLeaf, oldBundle, true},
			{"new leaf, new bundle", newLeaf, newBundle, true},
			{"new leaf, the new root alone", newLeaf, []*x509.Certificate{newRoot}, true},
			{"old leaf, the new root alone", oldLeaf, []*x509.Certificate{newRoot}, false},
			{"new leaf without its bridge, old bundle", unbridged, oldBundle, false},
		} {
			t.Run(fmt.Sprintf("%s to %s/%s", keys[0], keys[1], tc.name), func(t *testing.T) {
				t.Parallel()
				agree(t, tc.sent.Certificate, tc.accepted, tc.trusted...)
			})
		}
	}
}

// TestGenerationsBehind checks that a client that missed several rotations verifies a server if it
// missed no more of them than a cross-signed chain is long.
func TestGenerationsBehind(t *testing.T) {
	for name, keys := range map[string][]pki.KeySpec{
		"RSA":     {rsaKey, rsaKey, rsaKey, rsaKey, rsaKey},
		"ECDSA":   {p256Key, p256Key, p256Key, p256Key, p256Key},
		"Ed25519": {ed25519Key, ed25519Key, ed25519Key, ed25519Key, ed25519Key},
		"mixed":   {rsaKey, p256Key, ed25519Key, rsaKey, p256Key},
	} {
		generations := generationsOf(t, keys...)
		for behind := range generations {
			t.Run(fmt.Sprintf("%s/%d behind", name, behind), func(t *testing.T) {
				t.Parallel()
				pair, _ := issue(t, generations[4], now, day, leafSpec())
				agree(t, pair.Certificate, behind <= pki.MaxCrossSigned, generations[4-behind].Certificate())
			})
		}
	}
}

// TestProvidedPairings checks the same as TestPairings for CAs that an administrator provides.
func TestProvidedPairings(t *testing.T) {
	root, otherRoot := makeCA(t, nil, "root"), makeCA(t, nil, "root of others")
	upper, otherUpper := makeCA(t, &root, "upper"), makeCA(t, &otherRoot, "upper of others")
	first, second := makeCA(t, nil, "Corporate CA"), makeCA(t, nil, "Corporate CA", func(c *x509.Certificate) {
		c.SubjectKeyId, c.AuthorityKeyId = []byte("second"), []byte("second")
	})
	own := generateRoot(t, now)
	for _, tc := range []struct {
		name             string
		old, next        *pki.Authority
		oldRoot, newRoot *x509.Certificate
	}{
		{"one intermediate to another", load(t, upper.pair(t)), load(t, otherUpper.pair(t)), root.Certificate, otherRoot.Certificate},
		{"our own CA to an intermediate", own, load(t, upper.pair(t)), own.Certificate(), root.Certificate},
		{"an intermediate to our own CA", load(t, upper.pair(t)), own, root.Certificate, own.Certificate()},
		{"another key under the same name", load(t, first.pair(t)), load(t, second.pair(t)), first.Certificate, second.Certificate},
	} {
		next := succeedBelow(t, tc.old, tc.next, tc.newRoot, tc.oldRoot)
		// After a return to the previous CA, its cross-signed chain leads by way of the other CA.
		for name, made := range map[string]generation{
			"old": {tc.old, tc.oldRoot, tc.newRoot}, "new": {next, tc.newRoot, tc.oldRoot},
			"back again": {succeedBelow(t, next, tc.old, tc.oldRoot, tc.newRoot), tc.oldRoot, tc.newRoot},
		} {
			t.Run(tc.name+"/"+name, func(t *testing.T) { made.verifies(t) })
		}
	}
}

// generation is a CA with its own root and the root of the other CA.
type generation struct {
	*pki.Authority
	root, other *x509.Certificate
}

// verifies fails unless clients accept what the CA signs: those that trust its root and, if it has
// a cross-signed chain, those that trust only the other root.
func (g generation) verifies(t *testing.T) {
	t.Helper()
	pair, _ := issue(t, g.Authority, now, day, leafSpec())
	agree(t, pair.Certificate, true, g.root)
	agree(t, pair.Certificate, true, g.root, g.other)
	agree(t, pair.Certificate, len(g.CrossSigned()) > 0, g.other)
}
