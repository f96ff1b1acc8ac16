package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"net"
	"slices"
	"time"

	"k8s.io/client-go/util/cert"

	"github.com/servingcert/operator/api/v1alpha1"
)

// RootSpec describes a self-signed CA.
type RootSpec struct {
	CommonName          string
	Duration            time.Duration
	Key                 KeySpec
	PermittedDNSDomains []string
	PermittedUsages     []v1alpha1.CertificateUsage
	Encoding            v1alpha1.KeyEncoding
}

// RootSpecOf is what the API asks for.
func RootSpecOf(certificate v1alpha1.CACertificate) RootSpec {
	return RootSpec{
		CommonName:          certificate.CommonName,
		Duration:            certificate.Duration.Std(),
		Key:                 KeySpecOf(certificate.PrivateKey),
		PermittedDNSDomains: certificate.PermittedDNSDomains,
		PermittedUsages:     certificate.PermittedUsages,
		Encoding:            EncodingOf(certificate.PrivateKey),
	}
}

// Matches reports whether a CA has the key, the name constraints and the usages of the spec. What else is excluded where domains are
// permitted does not count: older versions excluded less, and their CAs need not be replaced for that.
func (s RootSpec) Matches(ca *x509.Certificate) bool {
	return KeySpecOfPublic(ca.PublicKey) == s.Key && sameSet(ca.PermittedDNSDomains, s.PermittedDNSDomains) &&
		slices.Equal(slices.Sorted(slices.Values(ca.ExtKeyUsage)), extKeyUsagesOf(s.PermittedUsages))
}

// Pair is a certificate, with its chain, and its private key, both in PEM.
type Pair struct {
	Certificate []byte
	PrivateKey  []byte
	// leaf is the certificate, where it was made here.
	leaf *Leaf
}

// Leaf is the certificate.
func (p Pair) Leaf() (*Leaf, error) {
	if p.leaf != nil {
		return p.leaf, nil
	}
	return ParseLeaf(p.Certificate)
}

// GenerateRoot makes a self-signed CA: pathLenConstraint MaxCrossSigned, a subject that none of the generations before it bears, critical
// name constraints where the spec names domains, and extended key usages where it names usages (RFC 5280 §4.2.1.9, §4.2.1.10,
// §4.2.1.12).
func GenerateRoot(now time.Time, spec RootSpec, before ...*x509.Certificate) (Pair, error) {
	key, err := generateKey(spec.Key)
	if err != nil {
		return Pair{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return Pair{}, err
	}
	name, start := uniqueName(now, spec.CommonName, before)
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             start.Add(-ClockSkew),
		NotAfter:              now.Add(spec.Duration),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            MaxCrossSigned,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           extKeyUsagesOf(spec.PermittedUsages),
	}
	constrain(template, spec.PermittedDNSDomains)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return Pair{}, fmt.Errorf("sign the CA: %w", err)
	}
	return encodePair(der, nil, key, spec.Encoding)
}

// constrain permits a CA to sign for names in some domains, and for nothing else that name constraints can forbid: no IP address, and
// no URI and no mail address but those of a host that can never exist (RFC 6761 §6.4). Without domains it permits everything.
func constrain(ca *x509.Certificate, domains []string) {
	if len(domains) == 0 {
		return
	}
	const never = "invalid"
	ca.PermittedDNSDomainsCritical, ca.PermittedDNSDomains = true, domains
	ca.PermittedURIDomains, ca.PermittedEmailAddresses = []string{never}, []string{never}
	ca.ExcludedIPRanges = []*net.IPNet{
		{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 8*net.IPv4len)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 8*net.IPv6len)},
	}
}

// uniqueName is the name and the time in seconds, or as many later as there were generations within that one; and that time, for the
// newest generation is the one that begins last.
func uniqueName(now time.Time, name string, before []*x509.Certificate) (string, time.Time) {
	for start := now; ; start = start.Add(time.Second) {
		candidate := fmt.Sprintf("%s@%d", name, start.Unix())
		if !slices.ContainsFunc(before, func(c *x509.Certificate) bool { return c.Subject.CommonName == candidate }) {
			return candidate, start
		}
	}
}

func encodePair(der []byte, chain []*x509.Certificate, key crypto.Signer, encoding v1alpha1.KeyEncoding) (Pair, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return Pair{}, err
	}
	private, err := encodeKey(key, encoding)
	if err != nil {
		return Pair{}, err
	}
	return Pair{
		Certificate: encodeCertificates(append([]*x509.Certificate{leaf}, chain...)...), PrivateKey: private, leaf: &Leaf{leaf, chain},
	}, nil
}

// Authority is a CA that can sign.
type Authority struct {
	certificate *x509.Certificate
	// chain leads from the CA towards its root, without it: a server sends it, a client has the root.
	chain []*x509.Certificate
	// crossSigned leads on to the roots of the generations before it.
	crossSigned []*x509.Certificate
	key         crypto.Signer
	// notAfter is when the first of the CA and, once its root is found, of what leads to that ends.
	notAfter time.Time
	// encoded is what the CA was read from.
	encoded Pair
}

// LoadAuthority reads a CA: its certificate, followed by its intermediates, and its key. The error names the part that is
// wrong and never quotes the key.
func LoadAuthority(pair Pair) (*Authority, error) {
	certificates, err := parseCertificates(pair.Certificate)
	if err != nil {
		return nil, fmt.Errorf("tls.crt %w", err)
	}
	if err := checkKeys(certificates); err != nil {
		return nil, err
	}
	key, err := parseKey(pair.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("tls.key %w", err)
	}
	if !keyMatches(certificates[0], key) {
		return nil, fmt.Errorf("tls.key is not the private key of the certificate in tls.crt")
	}
	if err := checkCA(certificates[0]); err != nil {
		return nil, err
	}
	authority := &Authority{certificate: certificates[0], key: key, encoded: pair, notAfter: certificates[0].NotAfter}
	if !selfSigned(certificates[0]) {
		authority.chain = withoutRoots(certificates)
	}
	return authority, nil
}

func checkCA(certificate *x509.Certificate) error {
	switch {
	case !certificate.BasicConstraintsValid || !certificate.IsCA:
		return fmt.Errorf("the certificate in tls.crt is no CA: its basic constraints must say CA:TRUE")
	case certificate.KeyUsage != 0 && certificate.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("the CA in tls.crt may not sign certificates: its key usage lacks keyCertSign")
	case len(certificate.Subject.Names) == 0:
		return fmt.Errorf("the CA in tls.crt has no subject (RFC 5280 §4.1.2.4): make it with one")
	case len(certificate.SubjectKeyId) == 0:
		return fmt.Errorf("the CA in tls.crt has no subject key identifier (RFC 5280 §4.2.1.2): make it with one")
	}
	return nil
}

func withoutRoots(certificates []*x509.Certificate) []*x509.Certificate {
	var chain []*x509.Certificate
	for _, certificate := range certificates {
		if !selfSigned(certificate) {
			chain = append(chain, certificate)
		}
	}
	return chain
}

// limitNotAfter notes that the CA is of no use without another.
func (a *Authority) limitNotAfter(parent *x509.Certificate) {
	if parent.NotAfter.Before(a.notAfter) {
		a.notAfter = parent.NotAfter
	}
}

// NotAfter is when what the CA signs ends to verify: when the CA ends or, before that, what leads to the root that was found. What else lies
// beside it may have ended long ago.
func (a *Authority) NotAfter() time.Time { return a.notAfter }

// Certificate is the CA's own certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.certificate }

// HasKey reports whether a certificate is for the CA's key.
func (a *Authority) HasKey(certificate *x509.Certificate) bool {
	return keyMatches(certificate, a.key)
}

// WithCertificate returns the CA with another certificate for its key, which is self-signed; an error where that is none.
func (a *Authority) WithCertificate(certificate *x509.Certificate) (*Authority, error) {
	other, err := LoadAuthority(Pair{Certificate: encodeCertificates(certificate), PrivateKey: a.encoded.PrivateKey})
	if err != nil {
		return nil, err
	}
	return other.WithCrossSigned(a.crossSigned), nil
}

// Save puts the CA and, where it has one, its bridge into the data of a Secret, under these keys.
func (a *Authority) Save(data map[string][]byte, certificate, privateKey, crossSignedKey string) {
	data[certificate], data[privateKey] = a.encoded.Certificate, a.encoded.PrivateKey
	if len(a.crossSigned) > 0 {
		data[crossSignedKey] = encodeCertificates(a.crossSigned...)
	}
}

// WithKeyEncoding returns the same CA, whose key Save writes in an encoding.
func (a *Authority) WithKeyEncoding(encoding v1alpha1.KeyEncoding) (*Authority, error) {
	key, err := EncodeKey(a.encoded.PrivateKey, encoding)
	encoded := *a
	encoded.encoded.PrivateKey = key
	return &encoded, err
}

// Key is what kind of key the CA has.
func (a *Authority) Key() KeySpec { return KeySpecOfPublic(a.certificate.PublicKey) }

// Chain leads from the CA towards its root, without it; empty for a self-signed CA.
func (a *Authority) Chain() []*x509.Certificate { return a.chain }

// Fingerprint identifies the CA and its chain: SHA-256 in hexadecimal.
func (a *Authority) Fingerprint() string { return Fingerprint(a.certificate, a.chain...) }

// Root finds the self-signed certificate that the CA chains to, over nothing but the chain that a server sends: the CA itself, or
// one of the candidates in PEM. From then on the CA does not outlive it.
func (a *Authority) Root(now time.Time, candidates ...[]byte) (*x509.Certificate, error) {
	if len(a.chain) == 0 {
		return a.certificate, nil
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, certificate := range a.chain {
		intermediates.AddCert(certificate)
	}
	for _, encoded := range candidates {
		certificates, err := parseCertificates(encoded)
		if err != nil {
			continue
		}
		for _, certificate := range certificates {
			if selfSigned(certificate) {
				roots.AddCert(certificate)
			}
		}
	}
	chains, err := a.certificate.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("the CA in tls.crt is an intermediate and does not lead to a root: put its root into ca.crt, and "+
			"the intermediates between them into tls.crt after it: %w", err)
	}
	for _, chain := range chains {
		if allowsLeaf(chain) {
			for _, parent := range chain {
				a.limitNotAfter(parent)
			}
			return chain[len(chain)-1], nil
		}
	}
	return nil, fmt.Errorf("the CA in tls.crt is an intermediate, and a CA above it allows none: no client would accept its " +
		"certificates; have it signed by a CA with a greater path length constraint (RFC 5280 §4.2.1.9)")
}

// allowsLeaf reports whether a certificate may stand before this chain. That the chain itself is sound does not say so: each CA
// limits how many others stand between it and the leaf.
func allowsLeaf(chain []*x509.Certificate) bool {
	for below, ca := range chain {
		if ca.BasicConstraintsValid && ca.MaxPathLen >= 0 && below > ca.MaxPathLen {
			return false
		}
	}
	return true
}

// GenerateKey is a new private key in PEM, for a CA that somebody else certifies.
func GenerateKey(spec KeySpec) ([]byte, error) {
	key, err := generateKey(spec)
	if err != nil {
		return nil, err
	}
	return encodeKey(key, v1alpha1.PKCS8)
}

// RequestCA asks in PKCS #10 for a CA of this key: with a subject that none of the generations before it bears.
func RequestCA(now time.Time, privateKey []byte, commonName string, before ...*x509.Certificate) ([]byte, error) {
	key, err := parseKey(privateKey)
	if err != nil {
		return nil, fmt.Errorf("tls.key %w", err)
	}
	constraints, err := asn1.Marshal(struct {
		IsCA bool
	}{true})
	if err != nil {
		return nil, err
	}
	usage, err := asn1.Marshal(asn1.BitString{Bytes: []byte{0b10000110}, BitLength: 7}) // digitalSignature, keyCertSign, cRLSign
	if err != nil {
		return nil, err
	}
	name, _ := uniqueName(now, commonName, before)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: name},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: constraints},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: usage},
		},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("ask for a CA: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: cert.CertificateRequestBlockType, Bytes: der}), nil
}
