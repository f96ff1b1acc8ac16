package pki_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/servingcert/operator/controllers/internal/pki"
)

func names(bundle pki.Bundle) []string {
	var names []string
	for _, certificate := range bundle {
		names = append(names, certificate.Subject.CommonName)
	}
	return names
}

// TestBundle checks that a bundle has each certificate once, in the order of first occurrence, and
// that it is the same after Encode and ParseBundle.
func TestBundle(t *testing.T) {
	var roots []*x509.Certificate
	for i := range 5 {
		roots = append(roots, makeCA(t, nil, fmt.Sprintf("root-%d", i)).Certificate)
	}
	rapid.Check(t, func(t *rapid.T) {
		drawn := rapid.SliceOfN(rapid.IntRange(0, len(roots)-1), 1, 12).Draw(t, "certificates")
		var all []*x509.Certificate
		var want []string
		seen := map[int]bool{}
		for _, i := range drawn {
			all = append(all, roots[i])
			if !seen[i] {
				want = append(want, roots[i].Subject.CommonName)
			}
			seen[i] = true
		}
		bundle := pki.NewBundle(all...)
		if diff := cmp.Diff(want, names(bundle)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		parsed, err := pki.ParseBundle(bundle.Encode())
		if diff := cmp.Diff(bundle, must(t, parsed, err)); diff != "" {
			t.Errorf("after a round trip (-want +got):\n%s", diff)
		}
		doubled, err := pki.ParseBundle(pemOf(all...))
		if diff := cmp.Diff(bundle, must(t, doubled, err)); diff != "" {
			t.Errorf("from PEM with repetitions (-want +got):\n%s", diff)
		}
		for i, root := range roots {
			if got := bundle.Contains(pki.KeyID(root.SubjectKeyId)); got != seen[i] {
				t.Errorf("Contains(%s) = %v, want %v", root.Subject.CommonName, got, seen[i])
			}
		}
	})
}

func TestParseBundle(t *testing.T) {
	root := makeCA(t, nil, "root")
	for _, tc := range []struct {
		name, encoded, want string
	}{
		{"with text around", "# corp root\n" + string(root.pem()) + "\nthe end\n", ""},
		{"with a key inside", string(pkcs8(t, root.key)) + string(root.pem()), ""},
		{"empty", "", "the bundle is missing"},
		{"no certificate", "hello", "the bundle holds no readable certificate"},
		{"one that is broken", string(root.pem()) + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "the bundle holds no readable certificate"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bundle, err := pki.ParseBundle([]byte(tc.encoded))
			wantError(t, err, tc.want)
			if err == nil && !cmp.Equal(bundle.Encode(), root.pem()) {
				t.Errorf("the bundle holds %v, want the root alone", names(bundle))
			}
		})
	}
}

func TestUnexpired(t *testing.T) {
	ending := func(name string, notAfter time.Time) *x509.Certificate {
		return makeCA(t, nil, name, func(c *x509.Certificate) { c.NotAfter = notAfter }).Certificate
	}
	at := now.Truncate(time.Second)
	bundle := pki.NewBundle(ending("over", at.Add(-time.Hour)), ending("ends now", at), ending("a second left", at.Add(time.Second)), ending("young", at.Add(day)))
	for _, tc := range []struct {
		at   time.Time
		want []string
	}{
		{at.Add(-day), []string{"over", "ends now", "a second left", "young"}},
		{at.Add(-time.Nanosecond), []string{"ends now", "a second left", "young"}},
		{at, []string{"a second left", "young"}},
		{at.Add(day), nil},
	} {
		if diff := cmp.Diff(tc.want, names(bundle.Unexpired(tc.at))); diff != "" {
			t.Errorf("at %s (-want +got):\n%s", tc.at, diff)
		}
	}
	if len(bundle) != 4 {
		t.Error("the bundle itself was changed")
	}
}

// TestHash checks that the hash is the same as in every release: annotations and the status contain
// it.
func TestHash(t *testing.T) {
	for content, want := range map[string]string{
		"":    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
	} {
		if got := pki.Hash([]byte(content)); got != want {
			t.Errorf("Hash(%q) = %s, want %s", content, got, want)
		}
	}
}

// TestFingerprint checks that different certificates or chains have different fingerprints.
func TestFingerprint(t *testing.T) {
	root := makeCA(t, nil, "root")
	upper, twin := makeCA(t, &root, "upper"), makeCA(t, &root, "upper")
	if got, want := pki.Fingerprint(root.Certificate), pki.Hash(root.Raw); got != want {
		t.Errorf("Fingerprint = %s, want the SHA-256 of its DER, %s", got, want)
	}
	visited := map[string]bool{}
	for _, certificates := range [][]*x509.Certificate{
		{upper.Certificate}, {twin.Certificate}, {upper.Certificate, root.Certificate}, {twin.Certificate, root.Certificate}, {root.Certificate, upper.Certificate},
	} {
		visited[pki.Fingerprint(certificates[0], certificates[1:]...)] = true
	}
	if len(visited) != 5 {
		t.Errorf("%d fingerprints of 5", len(visited))
	}
	authority := load(t, upper.pair(t))
	if got, want := authority.Fingerprint(), pki.Fingerprint(upper.Certificate); got != want {
		t.Errorf("of a CA, whose chain begins with itself: %s, want %s", got, want)
	}
}

func TestNameOf(t *testing.T) {
	for want, subject := range map[string]pkix.Name{
		"root":          {CommonName: "root", Organization: []string{"Example"}},
		"O=Example,C=X": {Country: []string{"X"}, Organization: []string{"Example"}},
	} {
		ca := makeCA(t, nil, "", func(c *x509.Certificate) { c.Subject = subject })
		if got := pki.NameOf(ca.Certificate); got != want {
			t.Errorf("NameOf = %q, want %q", got, want)
		}
	}
}

func TestKeyID(t *testing.T) {
	if got := pki.KeyID([]byte{0, 0xab, 0x10}); got != "00ab10" {
		t.Errorf("KeyID = %q, want 00ab10", got)
	}
	// A tenant's certificate may name its signer by a key identifier as long as a Secret can hold.
	long := bytes.Repeat([]byte{1}, 100<<10)
	if got, other := pki.KeyID(long), pki.KeyID(long[1:]); len(got) > 100 || got == other {
		t.Errorf("of a long one KeyID = %q, and of another %q", got, other)
	}
}
