package pki_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/servingcert/operator/controllers/internal/pki"
)

// TestSubjectsOfOneSecondDiffer: a key that is lost twice within a second makes two CAs, and each has a name of its own.
func TestSubjectsOfOneSecondDiffer(t *testing.T) {
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
		}
		before = append(before, authority.Certificate())
	}
}
