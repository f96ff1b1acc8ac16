package issuance_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"

	"pgregory.net/rapid"

	"github.com/servingcert/operator/controllers/internal/pki"
)

// caTemplate returns the template of a CA as a company might provide it.
func caTemplate(name string, edits ...func(*x509.Certificate)) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-day), NotAfter: now.Add(1000 * day),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	for _, edit := range edits {
		edit(template)
	}
	return template
}

// providedSigner returns a self-signed CA.
func providedSigner(t rapid.TB, edits ...func(*x509.Certificate)) *signer {
	t.Helper()
	certificate, key := certify(t, caTemplate("brought", edits...), nil, nil)
	return loadSigner(t, pairOf(t, key, certificate))
}

// intermediateSigner returns a CA below another intermediate, which is below a root.
func intermediateSigner(t rapid.TB, upperTemplate, lowerTemplate *x509.Certificate) *signer {
	t.Helper()
	root, rootKey := certify(t, caTemplate("root"), nil, nil)
	upper, upperKey := certify(t, upperTemplate, root, rootKey)
	lower, lowerKey := certify(t, lowerTemplate, upper, upperKey)
	made := loadSigner(t, pairOf(t, lowerKey, lower, upper))
	made.Bundle = pki.Bundle{root}.Encode()
	return made
}

func certify(t rapid.TB, template, parent *x509.Certificate, parentKey crypto.Signer) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(t, key, err)
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	certificate, err := x509.ParseCertificate(must(t, der, err))
	return must(t, certificate, err), key
}

func pairOf(t rapid.TB, key crypto.Signer, certificates ...*x509.Certificate) pki.Pair {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pki.Pair{
		Certificate: pki.Bundle(certificates).Encode(),
		PrivateKey:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(t, der, err)}),
	}
}
