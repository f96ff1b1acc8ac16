package pki

import (
	"bytes"
	"crypto/x509"
	"testing"
	"time"
)

// TestRecentPairs checks that a pair that this package issued is in the cache, and that a pair with
// a chain too long to cache is not.
func TestRecentPairs(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	authority := newRoot(t, now)
	for _, links := range []int{0, 100} {
		authority.chain = nil
		for range links {
			authority.chain = append(authority.chain, &x509.Certificate{Raw: bytes.Repeat([]byte("x"), 500)})
		}
		pair, err := authority.Issue(now, LeafSpec{DNSNames: []string{"web.shop.svc"}, Key: KeySpec{Algorithm: "ECDSA", Size: 256}}, time.Hour, nil)
		if err != nil {
			t.Fatal(err)
		}
		parts, ok := lookUpRecent(pair)
		made := pair.leaf.Parts()
		made.Encoding = "PKCS8"
		if want := links == 0; ok != want || (ok && parts != made) {
			t.Errorf("with %d certificates after it: known %t, want %t", links, ok, want)
		}
	}
}

// TestClampTime covers notAfter values whose time zone offset puts them into a year that no API
// accepts.
func TestClampTime(t *testing.T) {
	last := time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC)
	for _, tc := range []struct{ at, want time.Time }{{last.Add(-time.Second), last.Add(-time.Second)}, {last, last}, {last.Add(12 * time.Hour), last}} {
		if got := clampTime(tc.at); !got.Equal(tc.want) {
			t.Errorf("within(%s) = %s, want %s", tc.at, got, tc.want)
		}
	}
}
