package pki_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/servingcert/operator/controllers/internal/pki"
)

// TestGenerationsOfOneSecond checks that CAs generated in the same second, as after a key that is
// lost twice, have different names, and that the later one has the later notBefore.
func TestGenerationsOfOneSecond(t *testing.T) {
	var before []*x509.Certificate
	for range 4 {
		pair, err := pki.GenerateRoot(now, pki.RootSpec{CommonName: "signer", Duration: time.Hour, Key: pki.KeySpec{Algorithm: "ECDSA", Size: 256}}, before...)
		if err != nil {
			t.Fatal(err)
		}
		authority, err := pki.LoadAuthority(pair)
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range before {
			if other.Subject.CommonName == authority.Certificate().Subject.CommonName {
				t.Errorf("two CAs bear the subject %s", other.Subject)
			}
			if !other.NotBefore.Before(authority.Certificate().NotBefore) {
				t.Errorf("the CA that came later begins %s, the one before %s", authority.Certificate().NotBefore, other.NotBefore)
			}
		}
		before = append(before, authority.Certificate())
	}
}
