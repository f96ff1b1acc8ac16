package pki

import (
	"encoding/binary"
	"testing"
	"time"
)

// TestSignatures checks that a remembered signature does not make another leaf verify, or verify by
// another CA.
func TestSignatures(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ours, theirs := newRoot(t, now), newRoot(t, now)
	pair, err := ours.Issue(now, LeafSpec{DNSNames: []string{"web.shop.svc"}, Key: KeySpec{Algorithm: "ECDSA", Size: 256}}, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ParseLeaf(pair.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	signatures := NewSignatures()
	for range 2 {
		if err := signatures.check(leaf.Certificate, ours.Certificate()); err != nil {
			t.Error(err)
		}
		if signatures.check(leaf.Certificate, theirs.Certificate()) == nil {
			t.Error("another CA of that name has signed it")
		}
		forged := *leaf.Certificate
		forged.Raw, forged.RawTBSCertificate = append([]byte{}, leaf.Raw...), append([]byte{}, leaf.RawTBSCertificate...)
		forged.Raw[len(forged.Raw)/2] ^= 1
		forged.RawTBSCertificate[len(forged.RawTBSCertificate)/2] ^= 1
		if signatures.check(&forged, ours.Certificate()) == nil {
			t.Error("a forged leaf verifies")
		}
	}
}

// TestSignaturesAreBounded checks that a signature that is looked up stays remembered, however many
// others are added, and that others are forgotten.
func TestSignaturesAreBounded(t *testing.T) {
	t.Parallel()
	signatures := NewSignatures()
	used, unused := signaturePair{1}, signaturePair{2}
	signatures.remember(used)
	signatures.remember(unused)
	for i := range uint64(3 * maxRecentSignatures) {
		other := signaturePair{3}
		binary.BigEndian.PutUint64(other[1:], i)
		signatures.remember(other)
		if !signatures.contains(used) {
			t.Fatalf("one that is looked up is forgotten after %d others", i+1)
		}
	}
	if signatures.contains(unused) {
		t.Error("one that nobody looks up is never forgotten")
	}
	if held := len(signatures.recent) + len(signatures.previous); held > 2*maxRecentSignatures {
		t.Errorf("%d are held", held)
	}
}

func newRoot(t *testing.T, now time.Time) *Authority {
	t.Helper()
	pair, err := GenerateRoot(now, RootSpec{CommonName: "same", Duration: 1000 * time.Hour, Key: KeySpec{Algorithm: "ECDSA", Size: 256}})
	if err != nil {
		t.Fatal(err)
	}
	authority, err := LoadAuthority(pair)
	if err != nil {
		t.Fatal(err)
	}
	return authority
}
