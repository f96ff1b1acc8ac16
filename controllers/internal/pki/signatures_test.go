package pki

import (
	"testing"
	"time"
)

// A signature that was remembered does not make one of another leaf, or of another CA, verify.
func TestSignatures(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	root := func(name string) *Authority {
		pair, err := GenerateRoot(now, RootSpec{CommonName: name, Duration: 1000 * time.Hour, Key: KeySpec{Algorithm: "ECDSA", Size: 256}})
		if err != nil {
			t.Fatal(err)
		}
		authority, err := LoadAuthority(pair)
		if err != nil {
			t.Fatal(err)
		}
		return authority
	}
	ours, theirs := root("same"), root("same")
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
