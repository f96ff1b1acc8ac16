package serviceca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"math/big"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/keyutil"

	"github.com/servingcert/operator/controllers/internal/pki"
	"github.com/servingcert/operator/controllers/internal/rotation"
)

// renews puts a renewed certificate for the same key into tls.crt, as an administrator would,
// sometimes with another subject.
func (sim *simulation) renews() {
	if sim.secret == nil {
		return
	}
	state, _ := rotation.Read(sim.now, sim.secret)
	parsed, err := keyutil.ParsePrivateKeyPEM(sim.secret.Data[corev1.TLSPrivateKeyKey])
	if state == nil || state.Active == nil || err != nil {
		return
	}
	template := *state.Active.Certificate()
	template.SerialNumber = big.NewInt(sim.now.Unix())
	template.NotBefore, template.NotAfter = sim.now.Add(-pki.ClockSkew), sim.now.Add(sim.ca.Spec.Certificate.Duration.Std())
	if template.RawSubject = nil; sim.chance(50) {
		template.Subject.CommonName = "renewed@" + sim.now.Format("20060102150405")
	}
	key, _ := parsed.(crypto.Signer)
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		sim.fail("renew: %v", err)
		return
	}
	renewed, err := x509.ParseCertificate(der)
	if err != nil {
		sim.fail("renew: %v", err)
		return
	}
	sim.note("%s is renewed by hand as %s", state.Active.Name(), pki.NameOf(renewed))
	sim.corrupt(corev1.TLSCertKey, pki.Bundle{renewed}.Encode())
}
